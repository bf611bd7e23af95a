"""Which addresses are public, and who is kept from the others."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks.ssrf import find_public, is_public

from ...support.receiver import Receiver
from .events import event

PRIVATE = [
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::7f00:1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
]


PUBLIC = [
    "1.1.1.1",
    "93.184.215.14",
    "168.63.129.17",
    "::ffff:1.1.1.1",
    "64:ff9b::101:101",
    "2002:101:101::1",
    "2606:4700:4700::1111",
    "2a00:1450:4001::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_inside_is_not_public(address: str) -> None:
    """Whichever way it is written, and whatever it is wrapped into."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_outside_is_public(address: str) -> None:
    """IPv4, IPv6, and IPv4 in IPv6."""
    assert is_public(address)


def test_what_is_no_address_is_not_public() -> None:
    """Nothing is let through because it could not be read."""
    assert not is_public("hooks.test")


@given(st.ip_addresses(v=4))
def test_an_address_stays_what_it_is_in_other_clothes(address: IPv4Address) -> None:
    """No wrapping of an IPv4 address into IPv6 makes it public."""
    number = int(address)
    clothes = [
        IPv6Address((0xFFFF << 32) + number),
        IPv6Address((0x64FF9B << 96) + number),
        IPv6Address((0x2002 << 112) + (number << 80)),
    ]

    assert {is_public(str(each)) for each in clothes} == {is_public(str(address))}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]"])
def test_a_private_address_is_refused_when_the_sink_is_built(host: str) -> None:
    """Where the URL is an address itself, nothing needs to be looked up."""
    with pytest.raises(ValueError, match="is no public address: give a public one, or allow"):
        sinks.WebhookSink(f"http://{host}/x", allow_private=False)


def test_a_public_address_is_not_refused() -> None:
    """It need not have a name."""
    sinks.WebhookSink("https://1.1.1.1/x", allow_private=False)


def test_a_transport_of_others_cannot_keep_the_promise() -> None:
    """It may connect wherever it likes."""
    httpx2 = pytest.importorskip("httpx2")

    with pytest.raises(ValueError, match="leave out transport, or allow private"):
        sinks.SlackSink(
            "https://h.test", allow_private=False, transport=httpx2.AsyncHTTPTransport()
        )


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "2130706433", "127.1"])
@pytest.mark.anyio
async def test_a_name_that_leads_inside_is_refused_when_it_is_looked_up(host: str) -> None:
    """Before anything is connected to; and the error does not tell where it leads."""
    with Receiver() as receiver:
        sink = sinks.WebhookSink(f"http://{host}:{receiver.port}/x", allow_private=False)

        with pytest.raises(
            sinks.Rejected, match="leads to an address that is not public"
        ) as caught:
            await sink(event())

    assert receiver.received == []
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.anyio
async def test_an_address_is_its_own_name() -> None:
    """And is given once, though it can be asked for in several ways."""
    assert await find_public("1.1.1.1", 443) == ["1.1.1.1"]


@pytest.mark.anyio
async def test_one_private_address_among_public_ones_is_one_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection would be to any of them; of public ones four are enough."""
    answers = [f"1.1.1.{number}" for number in range(6)]

    def look_up(*arguments: object, **options: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443)) for each in answers]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert await find_public("hooks.test", 443) == answers[:4]

    answers.append("10.0.0.1")
    with pytest.raises(sinks.Rejected):
        await find_public("hooks.test", 443)

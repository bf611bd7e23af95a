"""Protection against server-side request forgery."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import sinks
from tokenpulse_mw.alerts.sinks.ssrf import is_public, resolve_public

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
def test_private_address_is_not_public(address: str) -> None:
    """Private and reserved addresses are not public, even if IPv6 embeds them."""
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_public(address: str) -> None:
    """Public addresses are IPv4, IPv6, or IPv4 embedded in IPv6."""
    assert is_public(address)


def test_host_name_is_not_public() -> None:
    """Text that is not an address is not public."""
    assert not is_public("hooks.test")


@given(st.ip_addresses(v=4))
def test_embedded_address_is_public_if_the_ipv4_address_is(address: IPv4Address) -> None:
    """An IPv6 address that embeds an IPv4 address is public only if that one is."""
    number = int(address)
    embedding = [
        IPv6Address((0xFFFF << 32) + number),
        IPv6Address((0x64FF9B << 96) + number),
        IPv6Address((0x2002 << 112) + (number << 80)),
    ]

    results = {is_public(str(ipv6_address)) for ipv6_address in embedding}
    assert results == {is_public(str(address))}


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "[::ffff:10.0.0.1]"])
def test_private_address_in_the_url_is_rejected(host: str) -> None:
    """The constructor rejects a URL with a private address."""
    with pytest.raises(ValueError, match=r"must be public .*: use a public address, or allow"):
        sinks.WebhookSink(f"http://{host}/x", allow_private=False)


def test_public_address_in_the_url_is_accepted() -> None:
    """The constructor accepts a URL with a public address."""
    sinks.WebhookSink("https://1.1.1.1/x", allow_private=False)


def test_transport_without_private_addresses_is_rejected() -> None:
    """`allow_private=False` excludes a transport, which could connect to any address."""
    with pytest.raises(ValueError, match="leave out transport, or allow private"):
        sinks.SlackSink(
            "https://h.test", allow_private=False, transport=httpx2.AsyncHTTPTransport()
        )


@pytest.mark.parametrize("host", ["localhost", "0x7f.1", "2130706433", "127.1"])
@pytest.mark.anyio
async def test_host_with_a_private_address_is_rejected_before_connecting(host: str) -> None:
    """An attempt is rejected before it connects, and the error does not show the address."""
    with Receiver() as receiver:
        sink = sinks.WebhookSink(f"http://{host}:{receiver.port}/x", allow_private=False)

        with pytest.raises(sinks.Rejected, match="has an address that is not public") as caught:
            await sink(event())

    assert receiver.received == []
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.anyio
async def test_address_resolves_to_itself() -> None:
    """An address resolves to itself, without duplicates."""
    assert await resolve_public("1.1.1.1", 443) == ["1.1.1.1"]


@pytest.mark.anyio
async def test_host_with_any_private_address_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most four addresses are returned, but all of them are checked."""
    addresses = [f"1.1.1.{number}" for number in range(6)]

    def getaddrinfo(*arguments: object, **options: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert await resolve_public("hooks.test", 443) == addresses[:4]

    addresses.append("10.0.0.1")
    with pytest.raises(sinks.Rejected):
        await resolve_public("hooks.test", 443)

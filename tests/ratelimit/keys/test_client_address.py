"""Who the client is, and who only says so."""

from __future__ import annotations

import logging
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from tokenpulse_mw import keys

from ...support.asgi import http_scope

PROXIES = ["10.0.0.0/8"]


HEADERS = ["x-forwarded-for", "forwarded", "x-real-ip"]


shards = st.sampled_from(
    [*'",;\\=:[]', "for=6.6.6.6", 'for="', '="', "6.6.6.6", "10.0.0.9", ", ", 'for=10.0.0.9;x="']
)


evil = st.binary(max_size=60) | st.lists(shards, max_size=30).map(
    lambda all_: "".join(all_).encode()
)


clients = st.ip_addresses().map(str).filter(lambda text: not text.startswith("10."))


def told(*lines: str, name: str = "x-forwarded-for", peer: str | None = "10.0.0.1") -> Scope:
    """A request that came through proxies."""
    headers = [(name.encode(), line.encode("latin-1")) for line in lines]
    return http_scope(headers=headers, client=(peer, 1) if peer else None)


def at(address: str) -> Scope:
    """A request that came straight from `address`."""
    return http_scope(client=(address, 1))


def test_a_client_is_its_address_whatever_its_port() -> None:
    """The port changes with every connection."""
    key = keys.client_address()

    assert key(http_scope(client=("192.0.2.1", 1))) == key(http_scope(client=("192.0.2.1", 2)))
    assert key(at("192.0.2.1")) != key(at("192.0.2.2"))


@pytest.mark.parametrize("trusted", [[], PROXIES])
def test_clients_without_an_address_share_one_key(trusted: list[str]) -> None:
    """A unix socket has none; what is no IP address is taken as it is."""
    key = keys.client_address(trusted=trusted)

    assert key(http_scope(client=None)) == ""
    assert key(at("testclient")) == "testclient"


def test_a_key_is_short_however_long_a_peer_is_called() -> None:
    """What a server calls its peer may be what a client wrote."""
    key = keys.client_address()
    one, other = key(at("x" * 100_000)), key(at("x" * 100_001))

    assert one == key(at("x" * 100_000)) != other
    assert isinstance(one, str)
    assert len(one) < 300
    assert key(at("\ud800" * 1000)) not in (one, other)


@pytest.mark.parametrize("trusted", [[], PROXIES, ["0.0.0.0/0"]])
def test_a_peer_has_the_same_key_however_many_came_between(trusted: list[str]) -> None:
    """What is remembered of peers is bounded, and only saves work."""
    key = keys.client_address(trusted=trusted)
    many = [f"{number % 7}.0.{number // 250}.{number % 250}" for number in range(5000)]

    first = [key(at(each)) for each in many]
    assert [key(at(each)) for each in many] == first
    assert len(set(first)) == len(set(many))


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [[], PROXIES, ["0.0.0.0/0"]])
def test_no_number_of_peers_fills_memory(trusted: list[str]) -> None:
    """Some thousands of them are remembered, and no more."""
    key = keys.client_address(trusted=trusted)
    tracemalloc.start()
    for number in range(20_000):
        key(at(f"1.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert grown < 1_000_000  # bytes; 20,000 would take more than twice as much


@given(
    lines=st.lists(st.tuples(st.sampled_from(HEADERS), evil), max_size=6),
    name=st.sampled_from(HEADERS),
    peer=clients,
)
def test_headers_of_untrusted_peers_are_never_read(
    lines: list[tuple[str, bytes]], name: str, peer: str
) -> None:
    """No header, however made and repeated, changes the key of a client that is no proxy."""
    spoofed = http_scope(
        headers=[(each.encode(), value) for each, value in lines], client=(peer, 1)
    )

    for key in (keys.client_address(trusted=PROXIES, header=name), keys.client_address()):
        assert key(spoofed) == key(at(peer)) == keys.client_address()(at(peer))


@pytest.mark.parametrize("name", HEADERS)
@given(lines=st.lists(evil, max_size=4))
def test_no_header_raises(name: str, lines: list[bytes]) -> None:
    """A trusted proxy may pass on whatever its client wrote."""
    key = keys.client_address(trusted=[*PROXIES, "unix"], header=name)
    headers = [(name.encode(), line) for line in lines]

    assert isinstance(key(http_scope(headers=headers, client=("10.0.0.1", 1))), bytes)
    assert isinstance(key(http_scope(headers=headers, client=None)), bytes | str)


@given(
    left=st.lists(evil, max_size=4), client=clients, proxies=st.integers(0, 3), inline=st.booleans()
)
def test_what_a_client_writes_to_the_left_changes_nothing(
    left: list[bytes], client: str, proxies: int, inline: bool
) -> None:
    """Whatever stands before what our proxies add, in the same line or before it, is not read."""
    bracketed = f'"[{client}]:1"' if ":" in client else client
    ours = [f"10.0.0.{number}" for number in range(2, 2 + proxies)]
    for name, hops in {
        "x-forwarded-for": [client, *ours],
        "forwarded": [f"for={bracketed};proto=https", *(f'for="{each}:80"' for each in ours)],
    }.items():
        added = ", ".join(hops).encode()
        lines = [*left[:-1], b"".join([*left[-1:], b", ", added])] if inline else [*left, added]
        headers = [(name.encode(), line) for line in lines]
        key = keys.client_address(trusted=PROXIES, header=name)

        assert key(http_scope(headers=headers, client=("10.0.0.1", 1))) == key(at(client)), lines


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["6.6.6.6", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        (["192.0.2.1:5555"], "192.0.2.1"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
        (["192.0.2.1, ::ffff:10.0.0.3, 64:ff9b::10.0.0.2"], "192.0.2.1"),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.1, , ", ""], "192.0.2.1"),
        (["192.0.2.1, unknown"], "10.0.0.1"),
        (["192.0.2.1, garbage, 10.0.0.2"], "10.0.0.2"),
        ([", ".join(["192.0.2.1"] + ["10.0.0.2"] * 40)], "10.0.0.2"),
    ],
)
def test_behind_proxies_the_client_is_the_last_that_is_none(lines: list[str], client: str) -> None:
    """From right to left, past our own proxies; where one says nothing useful, it is the client."""
    key = keys.client_address(trusted=PROXIES)

    for _ in range(2):  # the second time, the proxy is known
        assert key(told(*lines)) == keys.client_address()(at(client))


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("forwarded", ["for=6.6.6.6", 'for="192.0.2.1:80";by=_x', "for=10.0.0.2"]),
        ("Forwarded", ['for="6.6.6.6, for=192.0.2.1']),
        ("x-real-ip", ["192.0.2.1"]),
        ("X-Real-IP", ["6.6.6.6", "192.0.2.1"]),
        ("CF-Connecting-IP", ["192.0.2.1"]),
    ],
)
def test_any_header_can_tell_the_client(name: str, lines: list[str]) -> None:
    """The one that is named is read, however it is cased, and no other."""
    key = keys.client_address(trusted=PROXIES, header=name)
    request = told(*lines, name=name)
    request["headers"].append((b"x-forwarded-for", b"7.7.7.7"))

    assert key(request) == bytes([192, 0, 2, 1])
    assert key(told("7.7.7.7")) == bytes([10, 0, 0, 1])


def test_a_proxy_on_a_unix_socket_can_be_trusted() -> None:
    """It has no address, so a word stands for it; without that, it is a client like any other."""
    key = keys.client_address(trusted=["unix", *PROXIES])

    assert key(told("192.0.2.1, 10.0.0.2", peer=None)) == bytes([192, 0, 2, 1])
    assert key(told("192.0.2.1", peer=None)) == bytes([192, 0, 2, 1])
    assert key(told(peer=None)) == key(told("unknown", peer=None)) == ""
    assert key(told("192.0.2.1", peer="192.0.2.9")) == bytes([192, 0, 2, 9])
    assert keys.client_address(trusted=PROXIES)(told("192.0.2.1", peer=None)) == ""
    assert keys.client_address(trusted=["unix"])(told("192.0.2.1")) == bytes([10, 0, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"header": "forwarded"}, "header 'forwarded' is only read from trusted proxies: name the"),
        ({"header": "X-Real-IP", "trusted": []}, "header 'X-Real-IP' is only read from trusted pr"),
        (
            {"header": "x forwarded", "trusted": PROXIES},
            "header name must be .*, got 'x forwarded'",
        ),
        ({"header": "", "trusted": PROXIES}, "header name must be .*, got ''"),
        ({"trusted": "10.0.0.0/8"}, "trusted must be a list of networks"),
        ({"trusted": ["10.0.0.1/8"]}, "trusted network '10.0.0.1/8' is invalid"),
        ({"ipv6_prefix": 0}, "ipv6_prefix must be a whole number"),
    ],
)
def test_malformed_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    """The error says what came, what is expected and how to mend it."""
    with pytest.raises(ValueError, match=said):
        keys.client_address(**arguments)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (told("192.0.2.1"), "X-Forwarded-For came from 10.0.0.1, but no proxy is trusted: all"),
        (told("192.0.2.1", name="X-Forwarded-For"), "client_address(trusted=[...])"),
        (told("for=1.1.1.1", name="forwarded"), "Forwarded came from 10.0.0.1, but no proxy is"),
        (told("for=1.1.1.1", name="forwarded"), "(trusted=[...], header='forwarded')"),
        (told("192.0.2.1", peer=None), "X-Forwarded-For came from a unix socket, but no proxy is"),
        (told("192.0.2.1", peer=None), "client_address(trusted=['unix'])"),
        (told("unknown", peer="a\nb"), r"came from 'a\nb', but no proxy is trusted"),
        (told("unknown", peer="fe80::1%\nb"), "came from fe80::1, but no proxy is trusted"),
    ],
)
def test_a_proxy_that_nobody_trusts_is_told_of_once(
    request_: Scope, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All its clients share one limit, which is hardly ever meant; the log says how to mend it."""
    key = keys.client_address()

    for peer in ("10.0.0.1", "10.0.0.2"):
        key(request_)
        key(told("192.0.2.1", peer=peer))

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tokenpulse_mw.ratelimit", logging.WARNING)
    assert said in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize(
    "request_",
    [
        told("192.0.2.1, 10.0.0.2", peer="192.0.2.1"),
        told("192.0.2.1, 10.0.0.2", peer="::ffff:192.0.2.1"),
        told("garbage, 192.0.2.1:80, garbage", peer="192.0.2.1"),
        told("for=192.0.2.1, for=10.0.0.2", name="forwarded", peer="192.0.2.1"),
        at("192.0.2.1"),
    ],
)
def test_a_server_that_has_read_the_header_is_no_mistake(
    request_: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer's own address in it says that the server has put the client in its place."""
    assert keys.client_address()(request_) == bytes([192, 0, 2, 1])
    assert not caplog.records


def test_who_trusts_proxies_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Anybody may send the header; those who know their proxies need not hear of it."""
    keys.client_address(trusted=PROXIES)(told("192.0.2.1", peer="192.0.2.9"))

    assert not caplog.records


@pytest.mark.parametrize("host", [None, 5, b"192.0.2.1"])
def test_a_peer_that_no_server_would_tell_is_let_off_by_no_one(host: Any) -> None:
    """It shares the key of those without an address."""
    key = keys.client_address()

    assert key(http_scope(client=(host, 1))) == key(http_scope(client=None))

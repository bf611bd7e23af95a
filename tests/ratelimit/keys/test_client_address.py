"""Keys by the client's address, also behind proxies."""

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
    lambda parts: "".join(parts).encode()
)
clients = st.ip_addresses().map(str).filter(lambda text: not text.startswith("10."))


def forwarded(*lines: str, name: str = "x-forwarded-for", peer: str | None = "10.0.0.1") -> Scope:
    """Return the scope of a request from `peer` with a proxy header."""
    headers = [(name.encode(), line.encode("latin-1")) for line in lines]
    return http_scope(headers=headers, client=(peer, 1) if peer else None)


def direct(address: str) -> Scope:
    """Return the scope of a request that came directly from `address`."""
    return http_scope(client=(address, 1))


def test_key_is_the_address_without_port() -> None:
    """A client's port changes with every connection."""
    key = keys.client_address()

    assert key(http_scope(client=("192.0.2.1", 1))) == key(http_scope(client=("192.0.2.1", 2)))
    assert key(direct("192.0.2.1")) != key(direct("192.0.2.2"))


@pytest.mark.parametrize("trusted", [[], PROXIES])
def test_clients_without_an_address_share_one_key(trusted: list[str]) -> None:
    """A peer on a unix socket has no address; a name that is not an address is the key."""
    key = keys.client_address(trusted=trusted)

    assert key(http_scope(client=None)) == ""
    assert key(direct("testclient")) == "testclient"


def test_long_host_has_a_short_key() -> None:
    """The host in the scope may come from the client, so its length is limited."""
    key = keys.client_address()
    one, other = key(direct("x" * 100_000)), key(direct("x" * 100_001))

    assert one == key(direct("x" * 100_000)) != other
    assert isinstance(one, str)
    assert len(one) < 300
    assert key(direct("\ud800" * 1000)) not in (one, other)


@pytest.mark.parametrize("trusted", [[], PROXIES, ["0.0.0.0/0"]])
def test_overflow_of_the_cache_changes_no_key(trusted: list[str]) -> None:
    """The cache of keys is bounded and does not affect the keys."""
    key = keys.client_address(trusted=trusted)
    hosts = [f"{number % 7}.0.{number // 250}.{number % 250}" for number in range(5000)]

    first = [key(direct(host)) for host in hosts]
    assert [key(direct(host)) for host in hosts] == first
    assert len(set(first)) == len(set(hosts))


@pytest.mark.slow
@pytest.mark.parametrize("trusted", [[], PROXIES, ["0.0.0.0/0"]])
def test_memory_for_peers_is_bounded(trusted: list[str]) -> None:
    """A few thousand peers are cached, and no more."""
    key = keys.client_address(trusted=trusted)
    tracemalloc.start()
    for number in range(20_000):
        key(direct(f"1.{number >> 16}.{number >> 8 & 255}.{number & 255}"))
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
    """No header changes the key of a client that is not a trusted proxy."""
    spoofed = http_scope(
        headers=[(header.encode(), value) for header, value in lines], client=(peer, 1)
    )

    for key in (keys.client_address(trusted=PROXIES, header=name), keys.client_address()):
        assert key(spoofed) == key(direct(peer)) == keys.client_address()(direct(peer))


@pytest.mark.parametrize("name", HEADERS)
@given(lines=st.lists(evil, max_size=4))
def test_no_header_of_a_trusted_proxy_raises(name: str, lines: list[bytes]) -> None:
    """A trusted proxy may pass on any bytes of its client."""
    key = keys.client_address(trusted=[*PROXIES, "unix"], header=name)
    headers = [(name.encode(), line) for line in lines]

    assert isinstance(key(http_scope(headers=headers, client=("10.0.0.1", 1))), bytes)
    assert isinstance(key(http_scope(headers=headers, client=None)), bytes | str)


@given(
    left=st.lists(evil, max_size=4), client=clients, proxies=st.integers(0, 3), inline=st.booleans()
)
def test_header_of_the_client_left_of_the_proxies_is_ignored(
    left: list[bytes], client: str, proxies: int, inline: bool
) -> None:
    """Content left of the elements of the proxies, in the same line or before, is not read."""
    bracketed = f'"[{client}]:1"' if ":" in client else client
    trusted = [f"10.0.0.{number}" for number in range(2, 2 + proxies)]
    for name, hops in {
        "x-forwarded-for": [client, *trusted],
        "forwarded": [f"for={bracketed};proto=https", *(f'for="{hop}:80"' for hop in trusted)],
    }.items():
        added = ", ".join(hops).encode()
        lines = [*left[:-1], b"".join([*left[-1:], b", ", added])] if inline else [*left, added]
        headers = [(name.encode(), line) for line in lines]
        key = keys.client_address(trusted=PROXIES, header=name)

        assert key(http_scope(headers=headers, client=("10.0.0.1", 1))) == key(direct(client)), (
            lines
        )


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
def test_client_is_the_nearest_untrusted_address(lines: list[str], client: str) -> None:
    """A trusted proxy that reports no address is the client."""
    key = keys.client_address(trusted=PROXIES)

    for _ in range(2):  # the second time, the proxy is in the cache
        assert key(forwarded(*lines)) == keys.client_address()(direct(client))


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
def test_only_the_given_header_is_read(name: str, lines: list[str]) -> None:
    """The name of the header is case-insensitive."""
    key = keys.client_address(trusted=PROXIES, header=name)
    request = forwarded(*lines, name=name)
    request["headers"].append((b"x-forwarded-for", b"7.7.7.7"))

    assert key(request) == bytes([192, 0, 2, 1])
    assert key(forwarded("7.7.7.7")) == bytes([10, 0, 0, 1])


def test_proxy_on_a_unix_socket_is_trusted_with_unix() -> None:
    """Without "unix", a peer without an address is a client."""
    key = keys.client_address(trusted=["unix", *PROXIES])

    assert key(forwarded("192.0.2.1, 10.0.0.2", peer=None)) == bytes([192, 0, 2, 1])
    assert key(forwarded("192.0.2.1", peer=None)) == bytes([192, 0, 2, 1])
    assert key(forwarded(peer=None)) == key(forwarded("unknown", peer=None)) == ""
    assert key(forwarded("192.0.2.1", peer="192.0.2.9")) == bytes([192, 0, 2, 9])
    assert keys.client_address(trusted=PROXIES)(forwarded("192.0.2.1", peer=None)) == ""
    assert keys.client_address(trusted=["unix"])(forwarded("192.0.2.1")) == bytes([10, 0, 0, 1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"header": "forwarded"}, "header is read from trusted proxies only, got 'forwarded' .*"),
        ({"header": "X-Real-IP", "trusted": []}, "got 'X-Real-IP' without trusted networks: name"),
        (
            {"header": "x forwarded", "trusted": PROXIES},
            "header name must be .*, got 'x forwarded'",
        ),
        ({"header": "", "trusted": PROXIES}, "header name must be .*, got ''"),
        ({"trusted": "10.0.0.0/8"}, "trusted must be a list of networks"),
        ({"trusted": ["10.0.0.1/8"]}, "trusted must be addresses or networks .* got '10.0.0.1/8'"),
        ({"ipv6_prefix": 0}, "ipv6_prefix must be an integer from 16 to 128, got 0"),
    ],
)
def test_malformed_argument_is_rejected(arguments: dict[str, Any], text: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=text):
        keys.client_address(**arguments)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            forwarded("192.0.2.1"),
            "X-Forwarded-For came from 10.0.0.1, but no proxy is trusted: all",
        ),
        (forwarded("192.0.2.1", name="X-Forwarded-For"), "client_address(trusted=[...])"),
        (
            forwarded("for=1.1.1.1", name="forwarded"),
            "Forwarded came from 10.0.0.1, but no proxy is",
        ),
        (forwarded("for=1.1.1.1", name="forwarded"), "(trusted=[...], header='forwarded')"),
        (
            forwarded("192.0.2.1", peer=None),
            "X-Forwarded-For came from a unix socket, but no proxy is",
        ),
        (forwarded("192.0.2.1", peer=None), "client_address(trusted=['unix'])"),
        (forwarded("unknown", peer="a\nb"), r"came from 'a\nb', but no proxy is trusted"),
        (forwarded("unknown", peer="fe80::1%\nb"), "came from fe80::1, but no proxy is trusted"),
    ],
)
def test_untrusted_proxy_is_logged_once(
    request_: Scope, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients of an untrusted proxy share one limit, so the warning states the fix."""
    key = keys.client_address()

    for peer in ("10.0.0.1", "10.0.0.2"):
        key(request_)
        key(forwarded("192.0.2.1", peer=peer))

    (record,) = caplog.records
    assert (record.name, record.levelno) == ("tokenpulse_mw.ratelimit", logging.WARNING)
    assert text in record.message
    assert "\n" not in record.message


@pytest.mark.parametrize(
    "request_",
    [
        forwarded("192.0.2.1, 10.0.0.2", peer="192.0.2.1"),
        forwarded("192.0.2.1, 10.0.0.2", peer="::ffff:192.0.2.1"),
        forwarded("garbage, 192.0.2.1:80, garbage", peer="192.0.2.1"),
        forwarded("for=192.0.2.1, for=10.0.0.2", name="forwarded", peer="192.0.2.1"),
        direct("192.0.2.1"),
    ],
)
def test_header_that_the_server_has_read_is_not_logged(
    request_: Scope, caplog: pytest.LogCaptureFixture
) -> None:
    """If the header contains the peer's address, the server has replaced the peer by the client."""
    assert keys.client_address()(request_) == bytes([192, 0, 2, 1])
    assert not caplog.records


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        ("127.0.0.1", "X-Forwarded-For came from 127.0.0.1, but it is not in the trusted networks"),
        ("::ffff:127.0.0.1", "came from 127.0.0.1, but it is not in the trusted networks: all"),
        ("172.18.0.3", "add its network: client_address(trusted=[...]), or TOKENPULSE_TRUSTED_"),
        ("fd00::1", "came from fd00::1, but it is not in the trusted networks"),
        (None, "came from a unix socket, but it is not in the trusted networks"),
    ],
)
def test_internal_proxy_outside_the_trusted_networks_is_logged_once(
    peer: str | None, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong network is logged, even if the first request of the peer was a probe."""
    key = keys.client_address(trusted=["10.0.0.0/8"])

    key(http_scope(client=(peer, 1) if peer else None))
    assert not caplog.records
    for _ in range(3):
        key(forwarded("192.0.2.1", peer=peer))

    (record,) = caplog.records
    assert text in record.message


def test_single_address_header_of_an_untrusted_proxy_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With trusted networks, only the configured header shows a proxy."""
    key = keys.client_address(trusted=["10.0.0.0/8"], header="x-real-ip")

    key(forwarded("192.0.2.1", peer="127.0.0.1"))
    assert not caplog.records
    key(forwarded("192.0.2.1", name="x-real-ip", peer="127.0.0.1"))
    (record,) = caplog.records
    assert record.message.startswith("x-real-ip came from 127.0.0.1")
    assert "client_address(trusted=[...], header='x-real-ip')" in record.message


@pytest.mark.parametrize("peer", ["192.0.2.9", "2001:db8::9", "testclient", "10.0.0.1"])
def test_header_of_a_client_is_not_logged_if_proxies_are_trusted(
    peer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Any client may send the header, so with trusted networks only internal peers are logged."""
    keys.client_address(trusted=PROXIES)(forwarded("192.0.2.1", peer=peer))

    assert not caplog.records


def test_proxies_are_inspected_in_the_first_requests_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A peer that was direct in 1,000 requests is not inspected any longer."""
    key = keys.client_address()

    for _ in range(1001):
        assert key(direct("192.0.2.1")) == bytes([192, 0, 2, 1])
    assert key(forwarded("192.0.2.7", peer="192.0.2.1")) == bytes([192, 0, 2, 1])
    assert not caplog.records


def test_headers_are_not_read_after_the_first_requests() -> None:
    """After 1,000 requests, a new peer costs no search in the headers."""
    key = keys.client_address()
    for number in range(1000):
        key(direct(f"192.0.2.{number % 250}"))
    request = direct("198.51.100.1")
    request["headers"] = None  # reading them would fail

    assert key(request) == bytes([198, 51, 100, 1])


def test_internal_proxies_are_inspected_in_the_first_requests_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With trusted networks, 1,000 new peers end the inspection, even if they are clients."""
    key = keys.client_address(trusted=PROXIES)
    for number in range(1000):
        key(direct(f"192.0.{number // 250}.{number % 250}"))

    key(forwarded("192.0.2.7", peer="127.0.0.1"))

    assert not caplog.records


@pytest.mark.parametrize("host", [None, 5, b"192.0.2.1"])
def test_malformed_host_shares_the_key_of_peers_without_an_address(host: Any) -> None:
    """A malformed scope does not avoid the limit."""
    key = keys.client_address()

    assert key(http_scope(client=(host, 1))) == key(http_scope(client=None))

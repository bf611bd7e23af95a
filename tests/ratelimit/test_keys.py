"""Keys: who is asking, and who only says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope

from tests.support.asgi import http_scope
from tokenpulse_mw import client_address, header


def forwarded(*lines: str, peer: str = "10.0.0.1") -> Scope:
    """A request that came through proxies."""
    headers = [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]
    return http_scope(headers=headers, client=(peer, 1))


def at(address: str) -> Scope:
    """A request that came straight from `address`."""
    return http_scope(client=(address, 1))


def test_a_client_is_its_address_whatever_its_port() -> None:
    """The port changes with every connection."""
    key = client_address()

    assert key(http_scope(client=("192.0.2.1", 1))) == key(http_scope(client=("192.0.2.1", 2)))
    assert key(at("192.0.2.1")) != key(at("192.0.2.2"))


def test_clients_without_an_address_share_one_key() -> None:
    """A unix socket has none; what is no IP address is taken as it is."""
    key = client_address(trusted=["10.0.0.0/8"])

    assert key(http_scope(client=None)) == ""
    assert key(at("testclient")) == "testclient"


@given(value=st.binary(max_size=100), name=st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_headers_of_untrusted_peers_are_never_read(value: bytes, name: str) -> None:
    """No header, however made, changes the key of a client that is no trusted proxy."""
    key = client_address(trusted=["10.0.0.0/8"])
    spoofed = http_scope(headers=[(name.encode(), value)], client=("192.0.2.1", 1))

    assert key(spoofed) == key(at("192.0.2.1"))


@given(value=st.binary(max_size=200))
def test_no_header_raises(value: bytes) -> None:
    """A trusted proxy may pass on whatever its client wrote."""
    key = client_address(trusted=["10.0.0.0/8"])

    assert key(http_scope(headers=[(b"x-forwarded-for", value)], client=("10.0.0.1", 1)))


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["6.6.6.6, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["6.6.6.6", "192.0.2.1", "10.0.0.2"], "192.0.2.1"),
        (["192.0.2.1:5555"], "192.0.2.1"),
        (["[2001:db8::1]:443"], "2001:db8::1"),
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
    key = client_address(trusted=["10.0.0.0/8"])

    assert key(forwarded(*lines)) == key(at(client))


def test_a_header_can_be_the_key() -> None:
    """Each value is a client, kept only as a hash; without the header there is no limit."""
    key = header("X-API-Key")
    secret = http_scope(headers=[(b"host", b"x"), (b"x-api-key", b"sk-secret")])

    assert key(secret) == key(secret)
    assert b"sk-secret" not in repr(key(secret)).encode()
    assert key(http_scope(headers=[(b"x-api-key", b"sk-other")])) != key(secret)
    assert key(http_scope()) is None


@pytest.mark.parametrize("name", ["", "  "])
def test_a_header_without_a_name_is_refused(name: str) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match="header name must not be empty, got"):
        header(name)

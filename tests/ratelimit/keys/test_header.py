"""The key of a limit by a header."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from tokenpulse_mw import keys

from ...support.asgi import http_scope


def test_a_header_can_be_the_key() -> None:
    """Each value is a client, kept only as a hash; without the header there is no limit."""
    key = keys.header("X-API-Key")
    secret = http_scope(headers=[(b"host", b"x"), (b"x-api-key", b"sk-secret")])

    assert key(secret) == key(secret) == key({**secret, "type": "websocket"})
    assert key(http_scope(headers=[(b"X-Api-Key", b"sk-secret")])) == key(secret)
    assert b"sk-secret" not in repr(key(secret)).encode()
    assert key(http_scope(headers=[(b"x-api-key", b"sk-other")])) != key(secret)
    assert keys.header("x-other")({**secret, "headers": [(b"x-other", b"sk-secret")]}) != key(
        secret
    )
    assert key(http_scope()) is None


@pytest.mark.parametrize("name", ["", "  ", "x api", " x-api-key", "x-api-key:", "schlüssel", None])
def test_what_cannot_be_a_header_is_refused(name: str) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match=r"header name must be letters, .*, got"):
        keys.header(name)


@pytest.mark.parametrize(
    "spelling", [b"bearer sk-1", b"BEARER  sk-1", b"bEaReR\tsk-1", b"  Bearer sk-1 "]
)
def test_an_api_key_is_one_client_however_it_is_spelled(spelling: bytes) -> None:
    """The case of an authorization's scheme is free, and blanks mean nothing (RFC 9110, 11.1)."""
    key = keys.header("Authorization")

    def sent(value: bytes) -> Scope:
        return http_scope(headers=[(b"authorization", value)])

    assert key(sent(spelling)) == key(sent(b"Bearer sk-1"))
    assert key(sent(b"Bearer SK-1")) != key(sent(b"Bearer sk-1"))
    assert key(sent(b"Basic sk-1")) != key(sent(b"Bearer sk-1"))


def test_who_sends_a_header_twice_shares_one_key_with_all_who_do() -> None:
    """Nobody can tell which of them the application takes, so more lines win nothing."""
    key = keys.header("x-api-key")

    def sent(*values: bytes) -> Scope:
        return http_scope(headers=[(b"x-api-key", value) for value in values])

    assert key(sent(b"a", b"real")) == key(sent(b"b", b"real")) == key(sent(b"real", b"c", b"d"))
    assert key(sent(b"real")) != key(sent(b"real", b"real")) is not None

"""Keys by a header."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from tokenpulse_mw import keys

from ...support.asgi import http_scope


def test_header_value_is_the_key() -> None:
    """Each value has a key, a hash; without the header, the key is None."""
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
def test_invalid_header_name_is_rejected(name: str) -> None:
    """A header name is a token (RFC 9110, 5.6.2)."""
    with pytest.raises(ValueError, match=r"header name must be letters, .*, got"):
        keys.header(name)


@pytest.mark.parametrize(
    "spelling", [b"bearer sk-1", b"BEARER  sk-1", b"bEaReR\tsk-1", b"  Bearer sk-1 "]
)
def test_scheme_case_and_whitespace_do_not_change_the_key(spelling: bytes) -> None:
    """The scheme of an authorization is case-insensitive (RFC 9110, 11.1)."""
    key = keys.header("Authorization")

    def scope_with(value: bytes) -> Scope:
        return http_scope(headers=[(b"authorization", value)])

    assert key(scope_with(spelling)) == key(scope_with(b"Bearer sk-1"))
    assert key(scope_with(b"Bearer SK-1")) != key(scope_with(b"Bearer sk-1"))
    assert key(scope_with(b"Basic sk-1")) != key(scope_with(b"Bearer sk-1"))


def test_all_requests_that_repeat_the_header_share_one_key() -> None:
    """It is unknown which value the application uses, so a repetition avoids no limit."""
    key = keys.header("x-api-key")

    def scope_with(*values: bytes) -> Scope:
        return http_scope(headers=[(b"x-api-key", value) for value in values])

    assert (
        key(scope_with(b"a", b"real"))
        == key(scope_with(b"b", b"real"))
        == key(scope_with(b"real", b"c", b"d"))
    )
    assert key(scope_with(b"real")) != key(scope_with(b"real", b"real")) is not None

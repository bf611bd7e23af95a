"""The key of a limit by a header."""

from __future__ import annotations

import pytest

from tests.support.asgi import http_scope
from tokenpulse_mw.ratelimit.keys import header


def test_a_header_can_be_the_key() -> None:
    """Each value is a client, kept only as a hash; without the header there is no limit."""
    key = header("X-API-Key")
    secret = http_scope(headers=[(b"host", b"x"), (b"x-api-key", b"sk-secret")])

    assert key(secret) == key(secret) == key({**secret, "type": "websocket"})
    assert key(http_scope(headers=[(b"X-Api-Key", b"sk-secret")])) == key(secret)
    assert b"sk-secret" not in repr(key(secret)).encode()
    assert key(http_scope(headers=[(b"x-api-key", b"sk-other")])) != key(secret)
    assert header("x-other")({**secret, "headers": [(b"x-other", b"sk-secret")]}) != key(secret)
    assert key(http_scope()) is None


@pytest.mark.parametrize("name", ["", "  ", "x api", " x-api-key", "x-api-key:", "schlüssel", None])
def test_what_cannot_be_a_header_is_refused(name: str) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match=r"header name must be letters, .*, got"):
        header(name)

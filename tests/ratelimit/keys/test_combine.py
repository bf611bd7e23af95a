"""Several keys in one."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from tokenpulse_mw import keys

from ...support.asgi import http_scope


def test_keys_can_be_joined() -> None:
    """Each part counts; what leaves one out is still limited by the others."""
    key = keys.combine(keys.client_address(), keys.header("x-api-key"))
    headers = [(b"x-api-key", b"sk-1")]

    with_both = key(http_scope(headers=headers))
    assert with_both == key(http_scope(headers=headers)) != key(http_scope())
    assert key(http_scope()) == (bytes([192, 0, 2, 1]), None)
    assert keys.combine(keys.header("a"), keys.header("b"))(http_scope()) is None


def test_what_cannot_be_joined_is_refused() -> None:
    """The error says what came: too few, no function, or one that is async."""

    async def later(scope: Scope) -> str:
        raise AssertionError

    class Later:
        async def __call__(self, scope: Scope) -> str:
            raise AssertionError

    for given in ([], [keys.header("a")]):
        with pytest.raises(
            ValueError, match=rf"combine\(\) needs at least two keys, got {len(given)}"
        ):
            keys.combine(*given)
    for bad in ("x-api-key", None, later, Later()):
        with pytest.raises(ValueError, match="key must be a function that is not async, got"):
            keys.combine(keys.header("a"), bad)  # type: ignore[arg-type]

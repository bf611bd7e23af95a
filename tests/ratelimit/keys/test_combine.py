"""Keys that combine several keys."""

from __future__ import annotations

import pytest
from starlette.types import Scope

from tokenpulse_mw import keys

from ...support.asgi import http_scope


def test_combined_key_has_all_parts() -> None:
    """The key is None only if all parts are None."""
    key = keys.combine(keys.client_address(), keys.header("x-api-key"))
    headers = [(b"x-api-key", b"sk-1")]

    with_both = key(http_scope(headers=headers))
    assert with_both == key(http_scope(headers=headers)) != key(http_scope())
    assert key(http_scope()) == (bytes([192, 0, 2, 1]), None)
    assert keys.combine(keys.header("a"), keys.header("b"))(http_scope()) is None


def test_too_few_keys_or_invalid_functions_are_rejected() -> None:
    """`combine` needs at least two functions that are not async."""

    async def async_key(scope: Scope) -> str:
        raise AssertionError

    class AsyncKey:
        async def __call__(self, scope: Scope) -> str:
            raise AssertionError

    for functions in ([], [keys.header("a")]):
        with pytest.raises(
            ValueError, match=rf"combine\(\) needs at least two keys, got {len(functions)}"
        ):
            keys.combine(*functions)
    for invalid in ("x-api-key", None, async_key, AsyncKey()):
        with pytest.raises(ValueError, match="key must be a function that is not async, got"):
            keys.combine(keys.header("a"), invalid)  # type: ignore[arg-type]

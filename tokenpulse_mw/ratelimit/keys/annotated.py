"""The key of a limit by what the application knows, such as the tenant."""

from __future__ import annotations

from collections.abc import Hashable

from starlette.types import Scope

from ...exchange import tap_of
from ..functions import KeyFunction, makes_functions
from ..misuse import Once

_ANNOTATED = ("master", "key", "credential", "provider", "model")


@makes_functions
def annotated(field: str) -> KeyFunction:
    """Key by what the application has annotated on the exchange; None where it has not.

    It must be known before the limit is asked: call `annotate()` in a middleware of yours that
    stands between an `ExchangeMiddleware` (or `MetricsMiddleware`) and the rate limit.

    Args:
        field: "master", "key", "credential", "provider" or "model".

    Raises:
        ValueError: `field` is none of these.
    """
    if field not in _ANNOTATED:
        raise ValueError(f"field must be one of {', '.join(_ANNOTATED)}, got {field!r}")
    warn = Once()

    def key(scope: Scope) -> Hashable | None:
        tap = tap_of(scope)
        if tap is not None:
            return tap.said.get(field) or None
        warn(
            "annotated(%r) finds no exchange, so it limits nobody: put ExchangeMiddleware or "
            "MetricsMiddleware around RateLimitMiddleware, and call annotate() in between",
            field,
        )
        return None

    return key

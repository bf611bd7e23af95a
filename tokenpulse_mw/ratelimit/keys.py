"""Keys: functions from a request to what its limit is counted under."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from hashlib import blake2b

from starlette.types import Scope

from ..exchange import tap_of
from .fields import header_lines, header_name, shortened
from .functions import check_function
from .misuse import Once

KeyFunction = Callable[[Scope], Hashable | None]

_ANNOTATED = ("master", "key", "credential", "provider", "model")


def header(name: str) -> KeyFunction:
    """Key by a request header, such as an API key; requests without it are not limited.

    The value is kept as a hash, so that a secret does not stay in memory. Limit by address too
    where clients can choose the value freely: each new value is a new key.

    Raises:
        ValueError: `name` cannot be a header's.
    """
    wanted = header_name(name)
    salt = wanted.encode()[:64]

    def key(scope: Scope) -> Hashable | None:
        lines = header_lines(scope, wanted)
        return blake2b(lines[0], digest_size=16, key=salt).digest() if lines else None

    return key


def annotated(field: str) -> KeyFunction:
    """Key by what the application has annotated on the exchange; None where it has not.

    It must be known before the limit is asked: call `annotate()` in a middleware of yours that
    stands between an `ExchangeMiddleware` (or `MetricsMiddleware`) and the rate limit. WebSocket
    requests have no exchange, and are not limited by this.

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
            return shortened(getattr(tap.exchange, field) or "") or None
        if scope.get("type") != "websocket":
            warn(
                "annotated(%r) finds no exchange, so it limits nobody: put ExchangeMiddleware or "
                "MetricsMiddleware around RateLimitMiddleware, and call annotate() in between",
                field,
            )
        return None

    return key


def join(*keys: KeyFunction) -> KeyFunction:
    """Key by several keys at once, such as address and route.

    A part that is None stays None, and the rest still counts: leaving out a header lifts no
    limit. Only a request of which every part is None is not limited.

    Raises:
        ValueError: There are fewer than two `keys`, or one is no function or is async.
    """
    if len(keys) < 2:
        raise ValueError(f"join needs two keys or more, got {len(keys)}")
    for key in keys:
        check_function("key", key)

    def joined(scope: Scope) -> Hashable | None:
        parts = tuple([key(scope) for key in keys])
        return None if parts.count(None) == len(parts) else parts

    return joined

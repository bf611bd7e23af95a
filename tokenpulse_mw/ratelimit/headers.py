"""How an answer tells the client where it stands: dialects of the rate limit headers."""

from __future__ import annotations

import math
from collections.abc import Callable

from .decision import Decision

RawHeaders = list[tuple[bytes, bytes]]
Dialect = Callable[[Decision], RawHeaders]

NAMES = ("draft-11",)


def dialect(name: str | None, *, limit: int, window: int) -> Dialect | None:
    """The function that writes the headers of dialect `name`; None writes none.

    Raises:
        ValueError: There is no such dialect.
    """
    if name is None:
        return None
    if name == "draft-11":
        return _draft_11(limit, window)
    raise ValueError(f"headers {name!r} is no known dialect: expected one of {NAMES}, or None")


def seconds(duration: float) -> int:
    """Whole seconds, rounded up, so that a client that waits them has waited long enough."""
    return math.ceil(duration)


def _draft_11(limit: int, window: int) -> Dialect:
    """draft-ietf-httpapi-ratelimit-headers-11: structured fields (RFC 9651), one policy."""
    policy = (b"ratelimit-policy", b'"default";q=%d;w=%d' % (limit, window))

    def write(decision: Decision) -> RawHeaders:
        left = math.ceil(min(decision.reset_after, window))  # floats may be a hair above it
        return [policy, (b"ratelimit", b'"default";r=%d;t=%d' % (decision.remaining, left))]

    return write

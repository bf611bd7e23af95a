"""What a limiter decides of one request."""

from __future__ import annotations

from typing import NamedTuple

EPSILON = 1e-6  # seconds, or requests; more than the rounding error of floats


class Decision(NamedTuple):
    """A limiter's answer, and where it leaves the client.

    Attributes:
        allowed: The request is within the limit, and was counted.
        limit: What a window has room for.
        remaining: What the window has room for still.
        reset_after: Seconds until all of `limit` is free again.
        retry_after: Seconds until a request of the same cost would be allowed, if nobody else
            asked meanwhile; 0 where it was allowed, infinite where it costs more than `limit`.
        policy: The name of the policy that was asked.
        also: Names of other policies that refused the same request.
        degraded: The shared storage could not be asked; this is what was settled for that case.
        more_after: Seconds until `remaining` grows; None where that is when all is free again.
    """

    allowed: bool
    limit: int
    remaining: int
    reset_after: float
    retry_after: float
    policy: str = "default"
    also: tuple[str, ...] = ()
    degraded: bool = False
    more_after: float | None = None

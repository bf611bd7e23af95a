"""Decision of a limiter on one request."""

from __future__ import annotations

from typing import NamedTuple

EPSILON = 1e-6  # seconds or requests; larger than the rounding errors of floats


class Decision(NamedTuple):
    """Decision on one request, and the state of its key afterwards.

    Attributes:
        allowed: True if the request is within the limit and was counted.
        limit: Requests or tokens per window.
        remaining: Requests or tokens left in the window.
        reset_after: Seconds until all of `limit` is available again.
        retry_after: Seconds until a request of the same cost is allowed, if the key is not used
            meanwhile; 0 if the request was allowed, infinite if it costs more than `limit`.
        policy: Name of the policy.
        also: Names of other policies that rejected the same request.
        degraded: True if the shared storage or file was unavailable, so that it did not decide.
        more_after: Seconds until `remaining` grows; None if that is `reset_after`.
        window: Window in seconds; set for the response to a rejected request. None without one, as
            for requests in flight.
        unit: Unit of `limit`; set like `window`. "USD" if amounts are micro-dollars.
        period: Period of a calendar window, such as "month", else None; set like `window`.
        status: Status code of the response to a rejected request; set like `window`.
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
    window: int | None = None
    unit: str = "requests"
    period: str | None = None
    status: int = 429

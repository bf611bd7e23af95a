"""Decisions computed from the counters of a storage."""

from __future__ import annotations

import math

from ..limiters import Decision

MAX_COUNT = 2**53  # the servers' numbers are exact up to here
TICK = 0.002  # seconds; larger than the rounding errors of the servers' times


def fixed_decision(allowed: bool, limit: int, used: int, cost: int, left: float) -> Decision:
    """Return the decision for a window with `used` counted and `left` seconds."""
    retry_after = 0.0 if allowed else left if cost <= limit else math.inf
    return Decision(allowed, limit, max(limit - used, 0), float(left), retry_after)


def sliding_decision(
    allowed: bool, limit: int, window: float, windows: tuple[int, float, int, float], cost: int
) -> Decision:
    """Return the decision for a sliding window counter.

    Args:
        allowed: True if the request was allowed.
        limit: Requests or tokens per window.
        window: Seconds.
        windows: Count of the previous window, seconds until it has faded, count of the current
            window, and seconds until it ends.
        cost: Cost of the request.
    """
    previous, fades, current, ends = windows
    used = math.floor(previous * fades / window + current)
    free_after = ends if current else fades
    remaining = max(limit - used, 0)
    retry_after = 0.0 if allowed else _wait(limit - cost, window, windows)
    more_after = _wait(limit - remaining - 1, window, windows) if remaining < limit else 0.0
    return Decision(allowed, limit, remaining, free_after, retry_after, more_after=more_after)


def _wait(maximum: int, window: float, windows: tuple[int, float, int, float]) -> float:
    """Return the seconds until at most `maximum` is used."""
    previous, fades, current, ends = windows
    room = maximum + 1  # usage must be less, since it is rounded down
    if room < 1:
        return math.inf
    if current >= room:  # the current window has to become the previous one, and fade
        return ends - room * window / current + TICK
    # The previous window has to fade; if it is missing, another process has counted meanwhile.
    return max(fades - (room - current) * window / max(previous, 1), 0.0) + TICK

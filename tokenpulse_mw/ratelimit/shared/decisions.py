"""Decisions from what a storage says of its counters."""

from __future__ import annotations

import math

from ..limiters import Decision

MAX_COUNT = 2**53  # up to here the servers' numbers are exact


TICK = 0.002  # seconds; more than what the servers round times by


def fixed_decision(allowed: bool, limit: int, used: int, cost: int, left: float) -> Decision:
    """The decision where a window has `used`, and `left` seconds."""
    retry_after = 0.0 if allowed else left if cost <= limit else math.inf
    return Decision(allowed, limit, max(limit - used, 0), float(left), retry_after)


def sliding_decision(
    allowed: bool, limit: int, window: int, windows: tuple[int, float, int, float], cost: int
) -> Decision:
    """The decision where the previous window fades, and the current one will.

    Args:
        allowed: What was decided.
        limit: What a window has room for.
        window: Seconds.
        windows: The count of the previous window and the seconds until it has faded, and the same
            of the current one.
        cost: What was asked for.
    """
    previous, fades, current, ends = windows
    used = math.floor(previous * fades / window + current)
    free_after = ends if current else fades
    remaining = max(limit - used, 0)
    retry_after = 0.0 if allowed else _wait(limit - cost, window, windows)
    more_after = _wait(limit - remaining - 1, window, windows) if remaining < limit else 0.0
    return Decision(allowed, limit, remaining, free_after, retry_after, more_after=more_after)


def _wait(most: int, window: int, windows: tuple[int, float, int, float]) -> float:
    """Seconds until no more than `most` is used."""
    previous, fades, current, ends = windows
    room = most + 1  # what is used must be less, and is then rounded down
    if room < 1:
        return math.inf
    if current >= room:  # the current window has to become the previous one, and fade
        return ends - room * window / current + TICK
    # The previous one has to fade; where it is gone, others have come between.
    return max(fades - (room - current) * window / max(previous, 1), 0.0) + TICK

"""Bounded table of the keys that have used the most of a shared limit."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import nlargest

_MAX_KEYS = 1000
_MIN_SHARE = 0.5
_MAX_DELAY = 1.0  # seconds from a decision in the storage until it is recorded


class TopUsage:
    """Usage of the keys that have used at least half of a limit, by the last decision on each.

    At most twice `_MAX_KEYS` keys are stored until the least used ones are evicted, so that an
    eviction is rare.

    Args:
        limit: Requests or tokens per window.
        window: Seconds.
    """

    def __init__(self, limit: int, window: int) -> None:
        self._min_used = limit * _MIN_SHARE
        self._limit = limit
        self._window = window
        self._usage: dict[Hashable, tuple[int, float]] = {}

    def set_limit(self, limit: int) -> None:
        """Change the limit."""
        self._limit, self._min_used = limit, limit * _MIN_SHARE

    def record(self, key: Hashable, used: int, now: float, ends: float) -> None:
        """Store the usage of `key` in a window that ends at `ends`."""
        if used < self._min_used:
            self._usage.pop(key, None)
            return
        self._usage[key] = used, ends
        if len(self._usage) > 2 * _MAX_KEYS:
            self._evict(now)

    def correct(self, key: Hashable, amount: int, since: float) -> None:
        """Add a charge for a hit at `since`; a refund of an earlier window is ignored."""
        if key not in self._usage:
            return
        used, ends = self._usage[key]
        if amount > 0 or since >= ends - self._window - _MAX_DELAY:
            self._usage[key] = used + amount, ends

    def entries(self, now: float) -> list[tuple[Hashable, int, float]]:
        """Return (key, used, seconds until the window ends) of the most used keys."""
        self._evict(now)
        return [
            (key, min(used, self._limit), ends - now)
            for key, (used, ends) in self._usage.items()
            if used >= self._min_used
        ]

    def _evict(self, now: float) -> None:
        """Remove the keys whose window has ended, and the least used of too many."""
        current = [item for item in self._usage.items() if item[1][1] > now]
        if len(current) > _MAX_KEYS:
            current = nlargest(_MAX_KEYS, current, key=lambda item: item[1][0])
        self._usage = dict(current)

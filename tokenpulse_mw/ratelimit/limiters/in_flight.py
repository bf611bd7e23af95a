"""Limit of concurrent requests per key."""

from __future__ import annotations

import math
from collections.abc import Hashable
from itertools import islice

from ...validation import check_integer
from .decision import Decision

MAX_SLOTS = 1_000_000
_new = tuple.__new__  # twice as fast as calling Decision
_NAME, _UNIT = "default", "requests"
_RETRY_AFTER_SECONDS = 1.0  # it is unknown when a slot becomes free


class InFlight:
    """Limiter of concurrent requests: at most `limit` per key, in this process.

    The middleware takes a slot when a request arrives and releases it when the response ends, in
    any way, before background tasks run. A WebSocket keeps its slot until it is closed. Keys
    without requests in progress use no memory.

    Args:
        limit: Slots per key.

    Attributes:
        clears: Number of calls of `clear`. A slot from before the last one must not be released.

    Raises:
        ValueError: `limit` is not an integer from 1 to 1,000,000.
    """

    window = None
    storage_kind = "memory"

    def __init__(self, limit: int) -> None:
        self.limit = check_integer("limit", limit, maximum=MAX_SLOTS)
        self.clears = 0
        self._taken: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def sample(self, most: int) -> list[Hashable]:
        """Return at most `most` keys with requests in progress in this process."""
        return list(islice(self._taken, most))

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Take `cost` slots for `key` if they are free; call `release` afterwards."""
        if type(cost) is not int or cost < 0:  # inline, since it is called on every request
            check_integer("cost", cost, minimum=0)
        limit, taken = self.limit, self._taken.get(key, 0) + cost
        if not cost or taken > limit:
            return self.peek(key, cost)
        self._taken[key] = taken
        return _new(
            Decision,
            (True, limit, limit - taken, 0.0, 0.0, _NAME, (), False, None, None, _UNIT, None, 429),
        )

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without taking slots.

        `reset_after` is 0 and the `retry_after` of a rejection is one second, because the duration
        of requests is unknown.

        Raises:
            ValueError: `cost` is not an integer of at least 0.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        return slots_decision(self.limit, self._taken.get(key, 0), cost)

    def has_room(self, key: Hashable, cost: int) -> bool:
        """Return True if `hit` would take `cost` slots."""
        return self._taken.get(key, 0) + cost <= self.limit or not cost

    def release(self, key: Hashable, cost: int = 1) -> None:
        """Release `cost` slots of `key`.

        Raises:
            ValueError: `cost` is not an integer of at least 0.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        left = self._taken.get(key, 0) - cost
        if left > 0:
            self._taken[key] = left
        else:
            self._taken.pop(key, None)

    def clear(self) -> None:
        """Release the slots of all keys."""
        self._taken.clear()
        self.clears += 1


def slots_decision(limit: int, used: int, cost: int) -> Decision:
    """Return the decision on a request for `cost` slots while `used` are taken."""
    free = max(limit - used, 0)
    if cost <= free:
        return Decision(True, limit, free, 0.0, 0.0)
    return Decision(False, limit, free, 0.0, _RETRY_AFTER_SECONDS if cost <= limit else math.inf)

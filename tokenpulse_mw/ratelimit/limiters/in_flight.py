"""How many exchanges of a key may be in progress at once."""

from __future__ import annotations

import math
from collections.abc import Hashable

from .decision import Decision
from .rate import check_cost

_MAX_LIMIT = 1_000_000
_RETRY_AFTER_SECONDS = 1.0  # seconds; nobody can tell when a place becomes free


class InFlight:
    """At most `limit` exchanges of each key at the same time, in this process.

    The middleware takes a place when a request comes in, and gives it back when the answer has
    ended: however it ends, and before background tasks. A WebSocket keeps its place until it is
    closed. Keys with nothing in progress are not kept.

    Args:
        limit: Places of each key.

    Raises:
        ValueError: `limit` is not a whole number above 0, or more than anybody has.
    """

    window = None

    def __init__(self, limit: int) -> None:
        if type(limit) is not int or not 1 <= limit <= _MAX_LIMIT:
            raise ValueError(f"limit must be a whole number from 1 to {_MAX_LIMIT}, got {limit!r}")
        self.limit = limit
        self._taken: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._taken)

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Take `cost` places for `key`, if so many are free; `release` them afterwards."""
        decision = self.peek(key, cost)
        if not decision.allowed or not cost:
            return decision
        self._taken[key] = self._taken.get(key, 0) + cost
        return Decision(True, self.limit, decision.remaining - cost, 0.0, 0.0)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Whether `cost` places are free for `key`; takes none.

        `reset_after` is 0, since nobody can tell how long a request will take, and the
        `retry_after` of a refusal is a second.

        Raises:
            ValueError: `cost` is negative, or no whole number.
        """
        free = self.limit - self._taken.get(key, 0)
        if check_cost(cost) <= free:
            return Decision(True, self.limit, free, 0.0, 0.0)
        return Decision(
            False, self.limit, free, 0.0, _RETRY_AFTER_SECONDS if cost <= self.limit else math.inf
        )

    def release(self, key: Hashable, cost: int = 1) -> None:
        """Give back `cost` places that were taken for `key`.

        Raises:
            ValueError: `cost` is negative, or no whole number.
        """
        left = self._taken.get(key, 0) - check_cost(cost)
        if left > 0:
            self._taken[key] = left
        else:
            self._taken.pop(key, None)

"""Bounded table of rejections by a storage, which are repeated without asking it."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable

from ..limiters import Decision
from ..limiters.decision import EPSILON

MAX_SECONDS = 1.0  # of a rejection, so that a reset in another process has an effect

_new = tuple.__new__  # twice as fast as calling Decision


class Refusals:
    """Rejections of the last second by the storage of one limiter.

    A rejection is repeated until the key has more room, but not longer than a second after the
    request to the storage. If the table is full, the oldest rejection is evicted: then the storage
    decides.

    Args:
        max_keys: Size of the table.
        for_larger_costs: True if a rejection applies to larger costs too, with the same wait.

    Attributes:
        changes: Number of changes of the usage by this process, except hits.
    """

    def __init__(self, max_keys: int, *, for_larger_costs: bool) -> None:
        self.changes = 0
        self._max_keys = max_keys
        self._for_larger_costs = for_larger_costs
        self._rejections: OrderedDict[Hashable, tuple[float, float, int, Decision]] = OrderedDict()
        self._latest = -math.inf

    def __len__(self) -> int:
        return len(self._rejections)

    def find(self, key: Hashable, cost: int, now: float) -> Decision | None:
        """Return the rejection of `cost` for `key` at the time `now`, or None if it is unknown."""
        if now < self._latest:  # the clock was set back, so that the ends are unknown
            self._rejections.clear()
        self._latest = now
        try:
            rejection = self._rejections.get(key)
        except TypeError:  # unhashable
            return None
        if rejection is None:
            return None
        at, ends, rejected, decision = rejection
        if now >= ends:
            del self._rejections[key]
            return None
        if cost != rejected and (cost < rejected or not self._for_larger_costs):
            return None
        _, limit, remaining, reset_after, retry_after, *_ = decision
        more_after = decision.more_after
        passed = now - at
        retry_after = retry_after - passed if cost <= limit else math.inf
        if more_after is not None:
            more_after -= passed
        fields = (False, limit, remaining, reset_after - passed, retry_after)
        rest = ("default", (), False, more_after, None, "requests", None, 429)
        return _new(Decision, (*fields, *rest))

    def record(
        self,
        key: Hashable,
        cost: int,
        decision: Decision,
        *,
        asked: float,
        now: float,
        changes: int,
    ) -> None:
        """Store a rejection by the storage, or remove the one before an allowed hit.

        Args:
            key: Key of the hit.
            cost: Cost of the hit.
            decision: Decision of the storage.
            asked: Time of the request to the storage.
            now: Time of its response.
            changes: Value of `changes` at the time `asked`.
        """
        lasts = 0.0
        if not decision.allowed and changes == self.changes and asked <= now:
            lasts = min(MAX_SECONDS, decision.reset_after, decision.retry_after)
            lasts = lasts if decision.more_after is None else min(lasts, decision.more_after)
        ends = asked + lasts - EPSILON  # so that a client which waits is decided by the storage
        # The time until the reset of an unused key is that of a window which is not open.
        if ends <= now or decision.remaining == decision.limit:
            self._rejections.pop(key, None)
            return
        self._rejections[key] = now, ends, cost, decision
        self._rejections.move_to_end(key)
        if len(self._rejections) > self._max_keys:
            self._rejections.popitem(last=False)

    def remove(self, key: Hashable) -> None:
        """Remove the rejection of `key`, and ignore the hits that are in progress."""
        self._rejections.pop(key, None)
        self.changes += 1

    def clear(self) -> None:
        """Remove all rejections, and ignore the hits that are in progress."""
        self._rejections.clear()
        self.changes += 1

"""Keys that limits have rejected last."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from itertools import islice

from ..exchange import Exchange, Recorder
from .policy import Policy

_MAX_KEYS = 200


class RejectedKey:
    """Rejections of one key by one policy.

    Attributes:
        policy: The policy.
        key: The key.
        count: Number of rejections.
        first: Time of the first rejection, in seconds since the epoch.
        last: Time of the last rejection.
        route: Route of the last rejected request, or None if it is not known.
    """

    __slots__ = ("count", "first", "key", "last", "policy", "route")

    needs_close = False

    def __init__(self, policy: Policy, key: Hashable, now: float) -> None:
        self.policy = policy
        self.key = key
        self.count = 0
        self.first = self.last = now
        self.route: str | None = None

    def finished(self, exchange: Exchange) -> None:
        """Note the route of a rejected request, which is known when it ends."""
        self.route = exchange.route

    async def close(self) -> None:
        """Do nothing: `needs_close` is False."""


class Rejections:
    """Last rejected keys; they cost nothing until a request is rejected.

    Args:
        max_keys: Number of keys of policies that are stored; the one that was rejected longest ago
            is evicted.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, *, max_keys: int = _MAX_KEYS, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_keys = max_keys
        self._clock = clock
        self._keys: OrderedDict[tuple[str, Hashable], RejectedKey] = OrderedDict()

    def add(self, policy: Policy, key: Hashable, recorder: Recorder | None) -> None:
        """Count a rejection."""
        now = self._clock()
        name = policy.name, key
        rejected = self._keys.get(name)
        if rejected is None:
            rejected = self._keys[name] = RejectedKey(policy, key, now)
            if len(self._keys) > self._max_keys:
                self._keys.popitem(last=False)
        else:
            self._keys.move_to_end(name)
        rejected.count += 1
        rejected.last = now
        if recorder is not None:
            recorder.add_callback(rejected)

    def newest(self, limit: int) -> list[RejectedKey]:
        """Return at most `limit` keys, of which the one that was rejected last is the first."""
        return list(islice(reversed(self._keys.values()), limit))

    def clear(self) -> None:
        """Remove all keys."""
        self._keys.clear()

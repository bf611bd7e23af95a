"""Windows in Memcached, whose counters can only be added to: look first, then count."""

from __future__ import annotations

import asyncio
import time

from limits.aio.storage import MemcachedStorage

from ..limiters import Decision
from .decisions import MAX_COUNT, TICK, fixed_decision, sliding_decision


class FixedOnMemcached:
    """Fixed windows."""

    def __init__(self, storage: MemcachedStorage, limit: int, window: int) -> None:
        self._storage = storage
        self._limit = limit
        self._window = window

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if there is room for it."""
        decision = await self.peek(key, cost)
        if not decision.allowed:
            return decision
        limit = self._limit
        used = await self._storage.incr(key, self._window, cost)
        left = float(self._window) if used == cost else decision.reset_after
        if used > limit:  # others have come between
            await self._storage.bridge.decr(key, cost)
            return fixed_decision(False, limit, used - cost, cost, left)
        return fixed_decision(True, limit, used, cost, left)

    async def peek(self, key: str, cost: int) -> Decision:
        """Whether there is room for `cost`."""
        used, left = await asyncio.gather(self._storage.get(key), self._left(key))
        return fixed_decision(
            used + cost <= self._limit, self._limit, used, cost, left or self._window
        )

    async def charge(self, key: str, amount: int, age: float) -> None:
        """Count `amount`, or give it back if what was taken `age` seconds ago still counts."""
        if amount > 0:
            used = await self._storage.incr(key, self._window, amount)
            if used > MAX_COUNT:  # its counters begin again at 0 after 2**64
                await self._storage.bridge.decr(key, used - MAX_COUNT)
            return
        left = await self._left(key)
        if left and age - TICK <= self._window - left:
            await self._storage.bridge.decr(key, -amount)  # Memcached stops at 0

    async def reset(self, key: str) -> None:
        """Forget the window."""
        await self._storage.clear(key)

    async def _left(self, key: str) -> float:
        """Seconds until the window ends; 0 where that is not known."""
        left = await self._storage.get_expiry(key) - time.time()
        return max(0.0, min(left, float(self._window)))


class SlidingOnMemcached:
    """Sliding window counters, whose windows are those of the wall clock."""

    def __init__(self, storage: MemcachedStorage, limit: int, window: int) -> None:
        self._storage = storage
        self._limit = limit
        self._window = window

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if there is room for it."""
        allowed = await self._storage.acquire_sliding_window_entry(
            key, self._limit, self._window, cost
        )
        windows = await self._storage.get_sliding_window(key, self._window)
        return sliding_decision(allowed, self._limit, self._window, windows, cost)

    async def peek(self, key: str, cost: int) -> Decision:
        """Whether there is room for `cost`."""
        windows = await self._storage.get_sliding_window(key, self._window)
        decision = sliding_decision(True, self._limit, self._window, windows, cost)
        if cost <= decision.remaining:
            return decision
        return sliding_decision(False, self._limit, self._window, windows, cost)

    async def reset(self, key: str) -> None:
        """Forget both windows."""
        await self._storage.clear_sliding_window(key, self._window)

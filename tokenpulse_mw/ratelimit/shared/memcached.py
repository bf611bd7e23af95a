"""Windows in Memcached, which has no atomic check: read first, then count, then correct."""

from __future__ import annotations

import asyncio
import time

from limits.aio.storage import MemcachedStorage

from ..limiters import Decision
from .decisions import MAX_COUNT, TICK, fixed_decision, sliding_decision


class FixedOnMemcached:
    """Fixed windows."""

    def __init__(self, storage: MemcachedStorage, window: int) -> None:
        self._storage = storage
        self._window = window

    async def hit(self, key: str, cost: int, limit: int) -> Decision:
        """Count `cost` if it is within the limit."""
        decision = await self.peek(key, cost, limit)
        if not decision.allowed:
            return decision
        used = await self._storage.incr(key, self._window, cost)
        left = float(self._window) if used == cost else decision.reset_after
        if used > limit:  # another process has counted meanwhile
            await self._storage.bridge.decr(key, cost)
            return fixed_decision(False, limit, used - cost, cost, left)
        return fixed_decision(True, limit, used, cost, left)

    async def peek(self, key: str, cost: int, limit: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        used, left = await asyncio.gather(self._storage.get(key), self._left(key))
        return fixed_decision(used + cost <= limit, limit, used, cost, left or self._window)

    async def charge(self, key: str, amount: int, age: float) -> None:
        """Count `amount`; a refund of a hit `age` seconds ago applies only in the same window."""
        if amount > 0:
            used = await self._storage.incr(key, self._window, amount)
            if used > MAX_COUNT:  # counters of Memcached wrap at 2**64
                await self._storage.bridge.decr(key, used - MAX_COUNT)
            return
        left = await self._left(key)
        if left and age - TICK <= self._window - left:
            await self._storage.bridge.decr(key, -amount)  # Memcached stops at 0

    async def reset(self, key: str) -> None:
        """Delete the counter of `key`."""
        await self._storage.clear(key)

    async def _left(self, key: str) -> float:
        """Return the seconds until the window ends; 0 if unknown."""
        left = await self._storage.get_expiry(key) - time.time()
        return max(0.0, min(left, float(self._window)))


class SlidingOnMemcached:
    """Sliding window counters with windows of the wall clock."""

    def __init__(self, storage: MemcachedStorage, window: int) -> None:
        self._storage = storage
        self._window = window

    async def hit(self, key: str, cost: int, limit: int) -> Decision:
        """Count `cost` if it is within the limit."""
        allowed = await self._storage.acquire_sliding_window_entry(key, limit, self._window, cost)
        windows = await self._storage.get_sliding_window(key, self._window)
        return sliding_decision(allowed, limit, self._window, windows, cost)

    async def peek(self, key: str, cost: int, limit: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        windows = await self._storage.get_sliding_window(key, self._window)
        decision = sliding_decision(True, limit, self._window, windows, cost)
        if cost <= decision.remaining:
            return decision
        return sliding_decision(False, limit, self._window, windows, cost)

    async def reset(self, key: str) -> None:
        """Delete both counters of `key`."""
        await self._storage.clear_sliding_window(key, self._window)

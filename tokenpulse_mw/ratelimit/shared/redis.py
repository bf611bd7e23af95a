"""Windows in Redis: each question is one script, which nothing can come between.

The scripts are sent whole. To name them by their hash would fail once in every new server, and
the driver answers such a failure by breaking the connection, whoever else waits on it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from limits.aio.storage import RedisStorage

from ..limiters import Decision
from .decisions import MAX_COUNT, TICK, fixed_decision, sliding_decision

# What the scripts begin with. A counter without an end is none: who began it broke off.
_LOOK = """
local window = tonumber(ARGV[1])
local function look(key)
    local count = tonumber(redis.call('get', key) or 0)
    local left = redis.call('pttl', key)
    if left <= 0 then return 0, 0 end
    return count, left
end
local function add(key, amount, left, ends)
    local text = string.format('%.0f', amount)
    if left == 0 then
        redis.call('set', key, text, 'px', ends)
        return ends
    end
    redis.call('incrby', key, text)
    return left
end
"""


_FIXED = f"""{_LOOK}
local used, left = look(KEYS[1])
local cost = tonumber(ARGV[3])
local allowed = used + cost <= tonumber(ARGV[2])
if allowed and ARGV[4] == '1' then
    left = add(KEYS[1], cost, left, window)
    used = used + cost
end
return {{allowed and 1 or 0, used, left}}
"""


_CHARGE = f"""{_LOOK}
local used, left = look(KEYS[1])
local amount, age = tonumber(ARGV[2]), tonumber(ARGV[3])
if amount < 0 and (left == 0 or age > window - left) then return 0 end
add(KEYS[1], math.max(math.min(amount, {MAX_COUNT} - used), -used), left, window)
return 1
"""


# A counter lives for two windows. In the second it is the previous one.
_SLIDING = f"""{_LOOK}
local current, ends = look(KEYS[1])
local previous, fades = look(KEYS[2])
local rolled = ends > 0 and ends <= window
if rolled then previous, fades, current, ends = current, ends, 0, 0 end
local cost = tonumber(ARGV[3])
local used = math.floor(previous * fades / window) + current
local allowed = used + cost <= tonumber(ARGV[2])
if allowed and cost > 0 and ARGV[4] == '1' then
    if rolled then redis.call('rename', KEYS[1], KEYS[2]) end
    ends = add(KEYS[1], cost, ends, window + (fades > 0 and fades or window))
    current = current + cost
end
return {{allowed and 1 or 0, previous, fades, current, ends}}
"""


class _OnRedis:
    counters: ClassVar[tuple[str, ...]]

    def __init__(self, storage: RedisStorage, limit: int, window: int) -> None:
        bridge: Any = storage.bridge
        self._client = bridge.get_connection()
        self._prefixed = bridge.prefixed_key
        self._limit = limit
        self._window = window

    def _names(self, key: str) -> list[str]:
        """The names of the counters of `key`; braces keep them on one server of a cluster."""
        name = self._prefixed(f"{{{key}}}")
        return [f"{name}/{each}" for each in self.counters]

    async def reset(self, key: str) -> None:
        """Forget what was counted."""
        await self._client.delete(self._names(key))


class FixedOnRedis(_OnRedis):
    """Fixed windows."""

    counters = ("fixed",)

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if there is room for it."""
        return await self._ask(key, cost, count=True)

    async def peek(self, key: str, cost: int) -> Decision:
        """Whether there is room for `cost`."""
        return await self._ask(key, cost, count=False)

    async def charge(self, key: str, amount: int, age: float) -> None:
        """Count `amount`, or give it back if what was taken `age` seconds ago still counts."""
        milliseconds = math.floor((age - TICK) * 1000)
        arguments = [self._window * 1000, amount, milliseconds]
        await self._client.eval(_CHARGE, self._names(key), arguments)

    async def _ask(self, key: str, cost: int, *, count: bool) -> Decision:
        arguments = [self._window * 1000, self._limit, cost, int(count)]
        answer = await self._client.eval(_FIXED, self._names(key), arguments)
        allowed, used, left = answer
        return fixed_decision(bool(allowed), self._limit, used, cost, left / 1000 or self._window)


class SlidingOnRedis(_OnRedis):
    """Sliding window counters; the first window is opened by the first request."""

    counters = ("current", "previous")

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if there is room for it."""
        return await self._ask(key, cost, count=True)

    async def peek(self, key: str, cost: int) -> Decision:
        """Whether there is room for `cost`."""
        return await self._ask(key, cost, count=False)

    async def _ask(self, key: str, cost: int, *, count: bool) -> Decision:
        arguments = [self._window * 1000, self._limit, cost, int(count)]
        answer = await self._client.eval(_SLIDING, self._names(key), arguments)
        allowed, previous, fades, current, ends = answer
        windows = (previous, fades / 1000, current, ends / 1000)
        return sliding_decision(bool(allowed), self._limit, self._window, windows, cost)

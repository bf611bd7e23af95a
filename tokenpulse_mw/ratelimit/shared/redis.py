"""Windows in Redis: each operation is an atomic script.

The driver closes its connection on every error reply, and all requests on this connection fail. So
scripts are sent in full, because `EVALSHA` fails once on each new server, and a script returns a
refused write as a value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from limits.aio.storage import RedisStorage

from ..limiters import Decision
from .decisions import MAX_COUNT, TICK, fixed_decision, sliding_decision

_MEMBERS_PER_SCRIPT = 100

# Common functions of the scripts. A counter without an expiry was left by an interrupted write,
# and is ignored.
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
    local reply
    if left == 0 then
        reply = redis.pcall('set', key, text, 'px', ends)
        left = ends
    else
        reply = redis.pcall('incrby', key, text)
    end
    return left, type(reply) == 'table' and reply.err
end
"""


_FIXED = f"""{_LOOK}
local used, left = look(KEYS[1])
local cost = tonumber(ARGV[3])
local allowed = used + cost <= tonumber(ARGV[2])
if allowed and ARGV[4] == '1' then
    local refused
    left, refused = add(KEYS[1], cost, left, window)
    if refused then return {{-1, refused}} end
    used = used + cost
end
return {{allowed and 1 or 0, used, left}}
"""


_CHARGE = f"""{_LOOK}
local used, left = look(KEYS[1])
local amount, age = tonumber(ARGV[2]), tonumber(ARGV[3])
if amount < 0 and (left == 0 or age > window - left) then return {{0}} end
amount = math.max(math.min(amount, {MAX_COUNT} - used), -used)
local _, refused = add(KEYS[1], amount, left, window)
return {{refused and -1 or 1, refused or nil}}
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
    local refused
    ends, refused = add(KEYS[1], cost, ends, window + (fades > 0 and fades or window))
    if refused then return {{-1, refused}} end
    current = current + cost
end
return {{allowed and 1 or 0, previous, fades, current, ends}}
"""


# Take a slot for each member if all are free. Times are those of the server, in milliseconds.
_TAKE = """
local time = redis.call('time')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local used = redis.call('zcount', KEYS[1], '(' .. now, '+inf')
if #ARGV > 2 and #ARGV - 2 <= ARGV[2] - used then
    for number = 3, #ARGV do
        local reply = redis.pcall('zadd', KEYS[1], now + ARGV[1], ARGV[number])
        if type(reply) == 'table' then return {-1, reply.err} end
    end
    redis.call('zremrangebyscore', KEYS[1], '-inf', now)
    redis.call('pexpire', KEYS[1], ARGV[1])
end
return {used}
"""


class WriteRefusedError(Exception):
    """Redis responds but refuses to write: it is full or read-only."""


class _OnRedis:
    counters: ClassVar[tuple[str, ...]]

    def __init__(self, storage: RedisStorage, window: float) -> None:
        bridge: Any = storage.bridge
        self._client = bridge.get_connection()
        self._prefixed = bridge.prefixed_key
        self._milliseconds = round(window * 1000)
        self._window = window

    def _names(self, key: str) -> list[str]:
        """Return the names of the counters; braces place them on one server of a cluster."""
        name = self._prefixed(f"{{{key}}}")
        return [f"{name}/{counter}" for counter in self.counters]

    async def _eval(self, script: str, key: str, arguments: list[int | str]) -> list[Any]:
        """Run `script` for `key`.

        Raises:
            WriteRefusedError: Redis refused to write.
        """
        reply: list[Any] = await self._client.eval(script, self._names(key), arguments)
        if reply[0] < 0:
            raise WriteRefusedError(reply[1].decode().removeprefix("-"))
        return reply

    async def reset(self, key: str) -> None:
        """Delete the counters of `key`."""
        await self._client.delete(self._names(key))


class FixedOnRedis(_OnRedis):
    """Fixed windows."""

    counters = ("fixed",)

    async def hit(self, key: str, cost: int, limit: int) -> Decision:
        """Count `cost` if it is within the limit."""
        return await self._decide(key, cost, limit, count=True)

    async def peek(self, key: str, cost: int, limit: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        return await self._decide(key, cost, limit, count=False)

    async def charge(self, key: str, amount: int, age: float) -> None:
        """Count `amount`; a refund of a hit `age` seconds ago applies only in the same window."""
        milliseconds = math.floor((age - TICK) * 1000)
        arguments: list[int | str] = [self._milliseconds, amount, milliseconds]
        await self._eval(_CHARGE, key, arguments)

    async def _decide(self, key: str, cost: int, limit: int, *, count: bool) -> Decision:
        arguments: list[int | str] = [self._milliseconds, limit, cost, int(count)]
        allowed, used, left = await self._eval(_FIXED, key, arguments)
        return fixed_decision(bool(allowed), limit, used, cost, left / 1000 or self._window)


class SlidingOnRedis(_OnRedis):
    """Sliding window counters; the first request opens the first window."""

    counters = ("current", "previous")

    async def hit(self, key: str, cost: int, limit: int) -> Decision:
        """Count `cost` if it is within the limit."""
        return await self._decide(key, cost, limit, count=True)

    async def peek(self, key: str, cost: int, limit: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        return await self._decide(key, cost, limit, count=False)

    async def _decide(self, key: str, cost: int, limit: int, *, count: bool) -> Decision:
        arguments: list[int | str] = [self._milliseconds, limit, cost, int(count)]
        allowed, previous, fades, current, ends = await self._eval(_SLIDING, key, arguments)
        windows = (previous, fades / 1000, current, ends / 1000)
        return sliding_decision(bool(allowed), limit, self._window, windows, cost)


class SlotsOnRedis(_OnRedis):
    """Slots of requests in progress: a sorted set of members by the time at which they lapse."""

    counters = ("slots",)

    def __init__(self, storage: RedisStorage, limit: int, window: float) -> None:
        super().__init__(storage, window)
        self._limit = limit

    async def take(self, key: str, members: Sequence[str]) -> int:
        """Take a slot for each member if all are free, and return the number of taken ones before.

        Without members, only return the number.
        """
        return await self._take(key, self._limit, members)

    async def extend(self, key: str, members: Sequence[str]) -> None:
        """Postpone the lapse of slots, and take those again that have lapsed in an outage."""
        for start in range(0, len(members), _MEMBERS_PER_SCRIPT):
            await self._take(key, MAX_COUNT, members[start : start + _MEMBERS_PER_SCRIPT])

    async def release(self, key: str, members: Iterable[str]) -> None:
        """Release the slots of `members`."""
        await self._client.zrem(self._names(key)[0], members)

    async def _take(self, key: str, limit: int, members: Sequence[str]) -> int:
        used, *_ = await self._eval(_TAKE, key, [self._milliseconds, limit, *members])
        return int(used)

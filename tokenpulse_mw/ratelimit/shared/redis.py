"""Windows and slots in Redis: operations, and the atomic scripts that run them.

The driver closes its connection on every error reply, and all requests on this connection fail.
So a script catches the errors of an operation, such as a refused write, and returns them as values.
`EVALSHA` returns its errors as values too (`open_storage`), since it fails on each new server.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from limits.aio.storage import RedisClusterStorage, RedisStorage

from ..limiters import CalendarClock, Decision
from .decisions import MAX_COUNT, TICK, fixed_decision, sliding_decision

_MEMBERS_PER_SCRIPT = 100


class Script:
    """Script for Redis.

    Args:
        text: Source in Lua.

    Attributes:
        text: Source in Lua.
        digest: Name of the script in the cache of a server.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = sha1(text.encode(), usedforsecurity=False).hexdigest()


# Run transactions of operations in their order, and return the reply to each operation.
#
# Before a transaction of several operations comes their number. It is first run without counting.
# It counts if none of its operations with the option 2 exceeds its limit: all with another option
# than 0 that do not exceed theirs. A charge has the age of the hit in milliseconds in place of the
# limit. If an operation fails, all replies of its transaction are {-1, error}; the others continue.
#
# A counter without an expiry was left by an interrupted write, and is ignored. A counter of a
# sliding window lives for two windows. In the second it is the previous one.
_TRANSACTIONS = Script(f"""
local call = redis.call
local function look(key)
    local count = tonumber(call('get', key) or 0)
    local left = call('pttl', key)
    if left <= 0 then return 0, 0 end
    return count, left
end
local function add(key, amount, left, ends)
    if left > 0 then
        call('incrby', key, amount)
        return left
    end
    call('set', key, amount, 'px', ends)
    return ends
end

local kinds = {{}}
function kinds.fixed(at, key, counts)
    local used, left = look(KEYS[key])
    local allowed = used + ARGV[at + 3] <= tonumber(ARGV[at + 2])
    if allowed and counts then
        left = add(KEYS[key], ARGV[at + 3], left, ARGV[at + 1])
        used = used + ARGV[at + 3]
    end
    return {{allowed and 1 or 0, used, tonumber(left)}}
end
function kinds.charge(at, key)
    local used, left = look(KEYS[key])
    local amount, window, age = tonumber(ARGV[at + 3]), ARGV[at + 1], tonumber(ARGV[at + 2])
    if amount < 0 and (left == 0 or age > window - left) then return {{0}} end
    amount = math.max(math.min(amount, {MAX_COUNT} - used), -used)
    add(KEYS[key], string.format('%.0f', amount), left, window)
    return {{1}}
end
function kinds.sliding(at, key, counts)
    local window, cost = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 3])
    local current, ends = look(KEYS[key])
    local previous, fades = look(KEYS[key + 1])
    local rolled = ends > 0 and ends <= window
    if rolled then previous, fades, current, ends = current, ends, 0, 0 end
    local used = math.floor(previous * fades / window) + current
    local allowed = used + cost <= tonumber(ARGV[at + 2])
    if allowed and counts and cost > 0 then
        if rolled then call('rename', KEYS[key], KEYS[key + 1]) end
        ends = add(KEYS[key], ARGV[at + 3], ends, window + (fades > 0 and fades or window))
        current = current + cost
    end
    return {{allowed and 1 or 0, previous, fades, current, ends}}
end
function kinds.reset(at, key)
    call('del', KEYS[key], KEYS[key + 1])
    return {{1}}
end

local keys = {{fixed = 1, charge = 1, sliding = 2, reset = 2}}
local function together(at, key, size)
    local counts, replies = true, nil
    for _, pass in ipairs({{'look', 'count'}}) do
        local at, key = at, key
        replies = {{}}
        for number = 1, size do
            local kind, option = ARGV[at], ARGV[at + 4]
            local reply = kinds[kind](at, key, pass == 'count' and counts and option ~= '0')
            if pass == 'look' and reply[1] == 0 and option == '2' then counts = false end
            replies[number], at, key = reply, at + 5, key + keys[kind]
        end
    end
    return replies
end

local replies, at, key = {{}}, 1, 1
while ARGV[at] do
    local decide, size = kinds[ARGV[at]], tonumber(ARGV[at])
    local succeeded, reply
    if decide then
        succeeded, reply = pcall(decide, at, key, ARGV[at + 4] ~= '0')
    else
        at = at + 1
        succeeded, reply = pcall(together, at, key, size)
    end
    for number = 1, size or 1 do
        if not succeeded then
            replies[#replies + 1] = {{-1, tostring(type(reply) == 'table' and reply.err or reply)}}
        else
            replies[#replies + 1] = decide and reply or reply[number]
        end
        at, key = at + 5, key + keys[ARGV[at]]
    end
end
return replies
""")

# Take a slot for each member if all are free. Times are those of the server, in milliseconds.
_TAKE = Script("""
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
""")

Reply = list[Any]
PEEK, COUNT, COUNT_ALL_OR_NONE = range(3)  # options of an operation
_RESET = ("reset", 0, 0, 0, COUNT)
_CALENDAR_SLACK = 3_600_000  # milliseconds that a counter of the calendar outlives its window


class Operation(NamedTuple):
    """Operation on the counters of a key, for the script.

    Attributes:
        names: Names of the counters.
        arguments: Kind, window in milliseconds, limit, amount and option.
        ends: End of the window of the calendar whose counter is named.
    """

    names: tuple[str, ...]
    arguments: tuple[str, int, int, int, int]
    ends: float = 0.0


def has_counted(operations: Sequence[Operation], replies: Sequence[Reply] | None) -> bool:
    """Return True if a transaction with these replies has added to a counter."""
    results = [
        (kind != "reset" and option, reply[0] == 1)
        for (_, (kind, *_, option), _), reply in zip(operations, replies or (), strict=False)
    ]
    return (COUNT_ALL_OR_NONE, False) not in results and any(map(all, results))


class WriteRefusedError(Exception):
    """Redis responds but refuses to write: it is full or read-only."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply[1].decode().removeprefix("-"))


class _Redis:
    """Scripts in an open storage.

    Args:
        storage: Storage that `open_storage` has returned.
    """

    def __init__(self, storage: RedisStorage) -> None:
        from coredis.commands.constants import CommandName
        from coredis.exceptions import NoScriptError, RedisError
        from coredis.typing import RedisCommand

        bridge: Any = storage.bridge
        self._client = bridge.get_connection()
        self._prefixed: Callable[[str], str] = bridge.prefixed_key
        self._is_cluster = isinstance(storage, RedisClusterStorage)
        self._missing, self._error = NoScriptError, RedisError
        self._command, self._by_digest = RedisCommand, CommandName.EVALSHA

    async def _evaluate(self, script: Script, keys: list[str], arguments: list[Any]) -> Any:
        """Run `script`, and send its text only to a server that does not have it.

        A cluster gets the text always: its driver has to see the errors that redirect a command.
        """
        if self._is_cluster:
            return await self._client.eval(script.text, keys, arguments)
        # Not `evalsha`, which checks the type of each argument.
        values = (script.digest, len(keys), *keys, *arguments)
        reply = await self._client.execute_command(self._command(self._by_digest, values))
        if isinstance(reply, self._missing):
            reply = await self._client.eval(script.text, keys, arguments)
        elif isinstance(reply, self._error):
            raise reply
        return reply


class TransactionsOnRedis(_Redis):
    """Transactions of operations, many of which run in one script.

    A cluster runs a script for each operation, and so does a single server that rejects keys of
    several hash slots in one script.
    """

    def __init__(self, storage: RedisStorage) -> None:
        from coredis.exceptions import ClusterCrossSlotError

        super().__init__(storage)
        self._cross_slot = ClusterCrossSlotError
        self._one_by_one = self._is_cluster

    async def run(self, transactions: Sequence[Sequence[Operation]]) -> Sequence[Sequence[Reply]]:
        """Run transactions in their order, and return the replies to their operations.

        A transaction of several operations that needs several scripts is not run: its replies
        are empty.
        """
        if not self._one_by_one:
            try:
                return await self._run(transactions)
            except self._cross_slot:  # raised before anything is counted
                self._one_by_one = True
        runs = [self._run([operations]) for operations in transactions if len(operations) == 1]
        replies = iter(await asyncio.gather(*runs))
        return [next(replies)[0] if len(operations) == 1 else () for operations in transactions]

    async def _run(self, transactions: Sequence[Sequence[Operation]]) -> list[list[Reply]]:
        keys: list[str] = []
        arguments: list[Any] = []
        for operations in transactions:
            if len(operations) > 1:
                arguments.append(len(operations))
            for names, values, _ in operations:
                keys += map(self._prefixed, names)
                arguments += values
        replies = iter(await self._evaluate(_TRANSACTIONS, keys, arguments))
        return [[next(replies) for _ in operations] for operations in transactions]


class FixedOnRedis:
    """Fixed windows."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._milliseconds = window * 1000

    def hit(self, key: str, cost: int, limit: int, option: int = COUNT) -> Operation:
        """Return the operation that counts `cost` if it is within the limit."""
        return Operation(_fixed(key), ("fixed", self._milliseconds, limit, cost, option))

    def charge(self, key: str, amount: int, age: float) -> Operation:
        """Return the operation that counts `amount`.

        A refund of a hit `age` seconds ago applies only in the same window.
        """
        milliseconds = math.floor((age - TICK) * 1000)
        return Operation(_fixed(key), ("charge", self._milliseconds, milliseconds, amount, COUNT))

    def reset(self, key: str) -> Operation:
        """Return the operation that deletes the counters of `key`."""
        return Operation(2 * _fixed(key), _RESET)

    def decision(self, hit: Operation, reply: Reply) -> Decision:
        """Return the decision in the reply to a `hit`."""
        _, _, limit, cost, _ = hit.arguments
        allowed, used, left = reply
        return fixed_decision(allowed == 1, limit, used, cost, left / 1000 or self._window)


class CalendarOnRedis(FixedOnRedis):
    """Windows of a calendar, by the clock of this process.

    The name of a counter has the start of its window, and the counter lives an hour longer. So
    processes whose clocks differ by less than an hour count a window together until each has left
    it. A wait is until this process leaves the window; the lifetime of the counter is by the clock
    of the process that has created it.
    """

    def __init__(self, clock: CalendarClock) -> None:
        self._clock = clock

    def hit(self, key: str, cost: int, limit: int, option: int = COUNT) -> Operation:
        """Return the operation that counts `cost` if it is within the limit."""
        names, lifetime, ends = self._counter(key)
        return Operation(names, ("fixed", lifetime, limit, cost, option), ends)

    def charge(self, key: str, amount: int, age: float) -> Operation:  # noqa: ARG002
        """Return the operation that counts `amount` in the present window."""
        names, lifetime, _ = self._counter(key)
        return Operation(names, ("charge", lifetime, -_CALENDAR_SLACK, amount, COUNT))

    def reset(self, key: str) -> Operation:
        """Return the operation that deletes the present counter of `key`."""
        names, _, _ = self._counter(key)
        return Operation(2 * names, _RESET)

    def decision(self, hit: Operation, reply: Reply) -> Decision:
        """Return the decision in the reply to a `hit`; without a wait if its window has ended."""
        _, _, limit, cost, _ = hit.arguments
        allowed, used, _ = reply
        return fixed_decision(allowed == 1, limit, used, cost, self._clock.until(hit.ends))

    def _counter(self, key: str) -> tuple[tuple[str, ...], int, float]:
        """Return the name, the lifetime in milliseconds, and the end of the present window."""
        starts, ends = self._clock.window()
        lifetime = math.ceil(self._clock.until(ends) * 1000) + _CALENDAR_SLACK
        return (f"{{{key}}}/calendar/{starts:.0f}",), lifetime, ends


class SlidingOnRedis:
    """Sliding window counters; the first request opens the first window."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._milliseconds = window * 1000

    def hit(self, key: str, cost: int, limit: int, option: int = COUNT) -> Operation:
        """Return the operation that counts `cost` if it is within the limit."""
        return Operation(_sliding(key), ("sliding", self._milliseconds, limit, cost, option))

    def reset(self, key: str) -> Operation:
        """Return the operation that deletes the counters of `key`."""
        return Operation(_sliding(key), _RESET)

    def decision(self, hit: Operation, reply: Reply) -> Decision:
        """Return the decision in the reply to a `hit`."""
        _, _, limit, cost, _ = hit.arguments
        allowed, previous, fades, current, ends = reply
        windows = (previous, fades / 1000, current, ends / 1000)
        return sliding_decision(allowed == 1, limit, self._window, windows, cost)


def _fixed(key: str) -> tuple[str, ...]:
    return (f"{{{key}}}/fixed",)


def _sliding(key: str) -> tuple[str, ...]:
    """Return the names of both counters; braces place them on one server of a cluster."""
    return f"{{{key}}}/current", f"{{{key}}}/previous"


class SlotsOnRedis(_Redis):
    """Slots of requests in progress: a sorted set of members by the time at which they lapse."""

    def __init__(self, storage: RedisStorage, limit: int, lease: float) -> None:
        super().__init__(storage)
        self._limit = limit
        self._milliseconds = round(lease * 1000)

    async def take(self, key: str, members: Sequence[str]) -> int:
        """Take a slot for each member if all are free, and return the number of taken ones before.

        Without members, only return the number.

        Raises:
            WriteRefusedError: Redis refused to write.
        """
        return await self._take(key, self._limit, members)

    async def extend(self, key: str, members: Sequence[str]) -> None:
        """Postpone the lapse of slots, and take those again that have lapsed in an outage.

        Raises:
            WriteRefusedError: Redis refused to write.
        """
        for start in range(0, len(members), _MEMBERS_PER_SCRIPT):
            await self._take(key, MAX_COUNT, members[start : start + _MEMBERS_PER_SCRIPT])

    async def release(self, key: str, members: Iterable[str]) -> None:
        """Release the slots of `members`."""
        await self._client.zrem(self._name(key), members)

    async def _take(self, key: str, limit: int, members: Sequence[str]) -> int:
        arguments = [self._milliseconds, limit, *members]
        reply = await self._evaluate(_TAKE, [self._name(key)], arguments)
        if reply[0] < 0:
            raise WriteRefusedError(reply)
        return int(reply[0])

    def _name(self, key: str) -> str:
        return self._prefixed(f"{{{key}}}/slots")

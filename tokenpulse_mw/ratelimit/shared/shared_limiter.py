"""Limiter that counts in a storage shared by several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, cast

from limits.aio.storage import MemcachedStorage

from ...secret import Secret, hide_arguments, hide_url
from ...validation import check_choice, check_integer, check_seconds
from ..callables import check_name
from ..encoding import encode_key
from ..limiters import (
    CalendarClock,
    Decision,
    Limiter,
    Rate,
    StoredLimiter,
    blocked_decision,
    check_amount,
    parse_change,
    parse_rate,
)
from .batches import Batches
from .client import FALLBACKS, StorageClient
from .memcached import FixedOnMemcached, SlidingOnMemcached
from .redis import (
    COUNT,
    COUNT_ALL_OR_NONE,
    CalendarOnRedis,
    FixedOnRedis,
    Reply,
    SlidingOnRedis,
    TransactionsOnRedis,
)
from .refusals import Refusals
from .storage import SharedStorage, check_storage, check_window, is_cluster, is_memcached
from .top_usage import TopUsage
from .windows import Windows, WindowsOnMemcached, WindowsOnRedis

_STRATEGIES = ("fixed-window", "sliding-window-counter")


class SharedLimiter(StoredLimiter):
    """Rate limiter of all processes that use the same storage.

    Limiters with the same storage, prefix, limit and strategy share their counters. Keys are
    bytes, strings, integers, None, or tuples of these.

    In a Redis, concurrent requests are decided by one script, each as if it were alone. A key that
    Redis has rejected is rejected without asking it again until the key has more room, but at most
    for a second, so that a reset or a refund in another process has an effect.

    If the storage fails or exceeds the timeout, `on_error` applies. During an outage one request
    per second tries the storage, and the others do not wait for it. The drivers require asyncio:
    on trio, every request is decided as during an outage.

    Args:
        limit: A rate such as "100/minute" or "20 USD/day". In a Redis, it may be of the calendar,
            such as "1000/calendar day"; then the windows are those of the clock of this process.
        storage: URL such as "redis://host:6379" (`tokenpulse-mw[redis]`) or
            "memcached://host:11211" (`tokenpulse-mw[memcached]`).
        on_error: Decision during an outage: by an in-memory `Limiter` of this process ("local"),
            allow every request ("allow", fail open) or none ("deny", fail closed). The in-memory
            `Limiter` follows the storage for keys that have used a quarter of their limit, so that
            a key over its limit stays limited.
        strategy: "fixed-window" or "sliding-window-counter".
        prefix: Beginning of the names of the counters: letters, digits, `_`, `.`, `:` and `-`.
            Limiters with different prefixes count separately.
        max_keys: Size of the table of the in-memory `Limiter`, and of that of the keys which the
            storage has rejected in the last second.
        timeout: Seconds that a decision may wait for the storage.
        clock: Monotonic seconds; of a calendar limit, only for outages and repeated rejections.
        timezone: Time zone of calendar windows; UTC when None.
        wall_clock: Seconds since the epoch, for calendar windows.

    Attributes:
        limit: Requests, tokens or micro-dollars per window.
        window: Seconds; of the largest calendar window.
        currency: "USD" if the limiter counts micro-dollars, else None.
        period: "hour", "day", "week", "month" or "year" of calendar windows, else None.
        timezone: Time zone of calendar windows, else None.
        storage_kind: "redis" (or Valkey) or "memcached".
        supports_refund: True if `charge` can be used.
        counters: Identity of the counters: limiters with an equal value share them.
        place: Identity of the storage and its timeout: hits of limiters with an equal value can be
            decided by `hit_together`. None if they cannot.

    Raises:
        ValueError: An argument is malformed, or the driver of the storage is not installed.
    """

    clears = 0  # a clear does not reach the storage, so charges stay valid

    @hide_arguments
    def __init__(
        self,
        limit: str,
        *,
        storage: str | Secret[str],
        on_error: str = "local",
        strategy: str = "fixed-window",
        prefix: str = "tokenpulse",
        max_keys: int = 5000,
        timeout: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
        timezone: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        storage = hide_url(storage)
        self.limit, self.window, self.currency, self.period = parse_rate(limit)
        self._blocked_until = None if self.limit else math.inf
        check_choice("strategy", strategy, _STRATEGIES)
        check_choice("on_error", on_error, tuple(FALLBACKS))
        check_seconds("timeout", timeout)
        check_name("prefix", prefix)
        check_storage(storage)
        if self.period is None:
            check_window(storage, self.window, strategy)
        elif is_memcached(storage):
            raise ValueError(
                f"limit must not be of the calendar in a Memcached, got {limit!r}: use Redis, or a "
                "window such as '20 USD/day'"
            )
        self.storage_kind = "memcached" if is_memcached(storage) else "redis"
        self.strategy = strategy
        self.supports_refund = strategy == "fixed-window"
        self._on_error = on_error
        self._clock = clock
        self._local = Limiter(
            limit,
            max_keys=max_keys,
            strategy=strategy,
            clock=clock,
            timezone=timezone,
            wall_clock=wall_clock,
        )
        self.timezone = self._local.timezone
        local_clock = self._local.clock
        self._calendar_clock = local_clock if isinstance(local_clock, CalendarClock) else None
        # The first limit is a part of the name, so a limit that changes keeps its counters.
        amount = f"{self.limit}{self.currency or ''}"
        window = f"{self.period}/{self.timezone}" if self._calendar_clock else self.window
        self._prefix = f"{prefix}/{amount}/{window}/"
        self.counters = (storage, strategy, self._prefix)
        one_server = not is_memcached(storage) and not is_cluster(storage)
        self.place = (storage, timeout) if one_server else None
        # Keys with more remaining are not copied: a flood of new keys must not fill the table.
        self._max_remaining_to_adopt = self.limit * 3 // 4
        self._top_usage = TopUsage(self.limit, self.window)
        self._client: StorageClient[Any] = StorageClient(
            storage,
            partial(_counters, strategy=strategy, window=self.window),
            on_error=on_error,
            timeout=timeout,
            clock=clock,
        )
        self._refusals = Refusals(max_keys, for_larger_costs=self.supports_refund)
        self._refusals_end = math.inf  # of the calendar window of the rejections
        self._on_redis: WindowsOnRedis | None = None
        self._windows: Windows
        if is_memcached(storage):
            self._windows = WindowsOnMemcached(self._client)
        else:
            operations: FixedOnRedis | SlidingOnRedis
            if self._calendar_clock is not None:
                operations = CalendarOnRedis(self._calendar_clock)
            elif strategy == "fixed-window":
                operations = FixedOnRedis(self.window)
            else:
                operations = SlidingOnRedis(self.window)
            self._windows = self._on_redis = WindowsOnRedis(Batches(self._client), operations)

    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` for `key` if it is within the limit.

        A rejected request is not counted.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        if type(cost) is not int or cost < 0:  # inline, since it is called on every request
            check_integer("cost", cost, minimum=0)
        asked = self._clock()
        refusal = self._refusal(key, cost, asked)
        if refusal is not None:
            return refusal
        changes = self._refusals.changes
        decision = await self._windows.hit(self._name(key), cost, self.limit)
        if decision is None:
            return self._decide_locally(self._local.hit, key, cost)
        self._record(key, cost, decision, asked=asked, changes=changes)
        return decision

    async def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without counting.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        check_integer("cost", cost, minimum=0)
        name = self._name(key)
        if self._blocked_until is not None and (blocked := self._blocked(cost)) is not None:
            return blocked
        decision = await self._windows.peek(name, cost, self.limit)
        return decision or self._decide_locally(self._local.peek, key, cost)

    async def reset(self, key: Hashable) -> None:
        """Remove the usage of `key`; during an outage, only that in this process.

        Raises:
            ValueError: `key` cannot be shared.
        """
        name = self._name(key)
        self._local.reset(key)
        self._top_usage.record(key, 0, now=0.0, ends=0.0)
        self._refusals.remove(key)
        await self._windows.reset(name)
        self._refusals.remove(key)  # again, for hits that were sent meanwhile

    async def charge(
        self,
        key: Hashable,
        amount: int,
        *,
        since: float | None = None,
        degraded: bool = False,
    ) -> None:
        """Correct the cost of a hit, regardless of the limit.

        A negative amount is a refund, for the part of the hit that still counts.

        Args:
            key: Key to charge.
            amount: Difference between the real cost and the cost of the hit.
            since: Seconds of `clock`; now when None. Read it after the hit, but before the hit of
                a calendar limit, which counts in the window of that time.
            degraded: True if the hit was decided without the storage (`Decision.degraded`): then
                the storage is not charged either.

        Raises:
            ValueError: The strategy is not "fixed-window", `amount` is not an integer, or `key`
                cannot be shared.
        """
        if not self.supports_refund:
            raise ValueError(
                f"strategy must be 'fixed-window' to use charge() in a storage, "
                f"got {self.strategy!r}"
            )
        amount = check_amount(amount)
        name = self._name(key)
        now, calendar = self.clock(), self._calendar_clock
        age = 0.0 if since is None else now - since
        if amount < 0 and calendar is not None and now - age < calendar.window()[0]:
            return  # the window of the hit has ended

        self._refusals.remove(key)
        charged = not degraded and await self._windows.charge(name, amount, age)
        self._refusals.remove(key)  # again, for hits that were sent meanwhile
        if charged:
            self._top_usage.correct(key, amount, now - age)
        if not charged or self._on_error == "local":
            self._local.charge(key, amount, since=since)

    @property
    def rate(self) -> Rate:
        """Present rate; its text can be parsed again."""
        limit = self.limit if self.blocked_for() is None else 0
        return Rate(limit, self.window, self.currency, self.period)

    def set_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Change the limit of this process; the counters in the storage stay.

        Args:
            limit: A rate of the same currency and window, or "0".
            seconds: For a limit of 0: seconds after which the limit before returns; until it is
                changed again when None.

        Raises:
            ValueError: `limit` is not such a rate.
        """
        change = self.check_limit(limit, seconds=seconds)
        self._local.set_limit(limit, seconds=seconds)
        if change is None:
            self._blocked_until = math.inf if seconds is None else self.clock() + seconds
            return
        self._blocked_until = None
        self.limit = change.amount
        self._max_remaining_to_adopt = self.limit * 3 // 4
        self._top_usage.set_limit(self.limit)
        self._refusals.clear()

    def check_limit(self, limit: str, *, seconds: float | None = None) -> Rate | None:
        """Return the rate that `set_limit` would set, or None for a block, without changing it.

        Raises:
            ValueError: As `set_limit`.
        """
        return parse_change(limit, self.rate, seconds, fixed="in a storage")

    def blocked_for(self) -> float | None:
        """Return the seconds until a block ends, infinite if that is not known; None without."""
        left = 0.0 if self._blocked_until is None else self._blocked_until - self.clock()
        return left if left > 0 else None

    def _blocked(self, cost: int) -> Decision | None:
        """Return the decision of a limit of 0, or None if its time is over."""
        left = cast(float, self._blocked_until) - self.clock()
        if left > 0:
            return blocked_decision(cost, None if math.isinf(left) else left)
        self._blocked_until = None
        return None

    def clear(self) -> None:
        """Remove the usage that this process has counted; that in the storage stays."""
        self._local.clear()
        self._refusals.clear()
        self._top_usage = TopUsage(self.limit, self.window)

    def usage(self) -> list[tuple[Hashable, int, float]]:
        """Return (key, used, seconds until the window ends) of keys that have used the most.

        These are at most 1,000 keys that have used at least half of their limit.
        This is the usage in the last decision on each key in this process, plus its charges since.
        Keys that only other processes have used, and windows that have ended, are left out.
        """
        return self._top_usage.entries(self.clock())

    @property
    def clock(self) -> Callable[[], float]:
        """Clock of the windows: monotonic seconds; of a calendar limit, seconds since the epoch.

        Setting it replaces the argument `clock`, or `wall_clock` of a calendar limit.
        """
        return self._local.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        if self._calendar_clock is None:
            self._clock = clock
        else:
            if not isinstance(clock, CalendarClock):
                clock = CalendarClock(self._calendar_clock.calendar, clock)
            self._calendar_clock = clock
            cast(WindowsOnRedis, self._on_redis).operations = CalendarOnRedis(clock)
        self._local.clock = clock
        self._refusals.clear()

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        await self._client.aclose()

    def _record(
        self, key: Hashable, cost: int, decision: Decision, *, asked: float, changes: int
    ) -> None:
        """Record a decision of the storage on a hit, for those without the storage and `usage`."""
        if self._on_redis is not None and (self._refusals or not decision.allowed):
            self._refusals.record(
                key, cost, decision, asked=asked, now=self._clock(), changes=changes
            )
        used, now, left = decision.limit - decision.remaining, self.clock(), decision.reset_after
        self._top_usage.record(key, used, now, now + left)
        if (
            decision.remaining <= self._max_remaining_to_adopt
            and self._on_error == "local"
            and left > 0  # else the window has ended meanwhile
        ):
            self._local.adopt(key, decision)

    def _refusal(self, key: Hashable, cost: int, now: float) -> Decision | None:
        """Return a rejection that needs no storage: of a block, or one of the last second."""
        if self._blocked_until is not None and (blocked := self._blocked(cost)) is not None:
            return blocked
        calendar = self._calendar_clock
        if calendar is not None and (ends := calendar.window()[1]) != self._refusals_end:
            self._refusals_end = ends
            self._refusals.clear()
        return self._refusals.find(key, cost, now)

    def _name(self, key: Hashable) -> str:
        return self._prefix + hash_key(key)

    def _decide_locally(
        self, local: Callable[[Hashable, int], Decision], key: Hashable, cost: int
    ) -> Decision:
        """Return the decision of `on_error`."""
        if self._on_error == "allow":
            calendar = self._calendar_clock
            left = float(self.window) if calendar is None else calendar.left()
            return Decision(True, self.limit, self.limit, left, 0.0, degraded=True)
        if self._on_error == "deny":
            return Decision(False, self.limit, 0, 1.0, 1.0, degraded=True)
        return local(key, cost)._replace(degraded=True)


class SharedHit:
    """Hit of a limiter with a `place`, to be decided by `hit_together`.

    Args:
        limiter: Limiter.
        key: Key of the hit.
        cost: Cost of the hit.
        enforced: True if no other hit is to be counted when this one is rejected.

    Attributes:
        at: Time of the limiter's clock at which the counter was named.

    Raises:
        ValueError: `key` cannot be shared.
    """

    __slots__ = (
        "_asked",
        "_changes",
        "_cost",
        "_key",
        "_limiter",
        "_on_redis",
        "_operation",
        "at",
        "enforced",
    )

    def __init__(self, limiter: SharedLimiter, key: Hashable, cost: int, *, enforced: bool) -> None:
        assert limiter._on_redis is not None
        self._limiter = limiter
        self._on_redis = limiter._on_redis
        self._key = key
        self._cost = cost
        self._asked = limiter._clock()
        self._changes = limiter._refusals.changes
        option = COUNT_ALL_OR_NONE if enforced else COUNT
        self.at = limiter.clock()
        self._operation = self._on_redis.operations.hit(
            limiter._name(key), cost, limiter.limit, option
        )
        self.enforced = enforced

    def refusal(self) -> Decision | None:
        """Return the rejection that the storage need not repeat, or None."""
        return self._limiter._refusal(self._key, self._cost, self._asked)

    async def run(self, hits: Sequence[SharedHit]) -> Sequence[Reply] | None:
        """Return the replies of the storage to `hits`, as `Batches.run`."""
        return await self._on_redis.batches.run(*[hit._operation for hit in hits])

    def decide(self, reply: Reply | None) -> Decision:
        """Return the decision in a reply; that of `on_error` without one."""
        limiter, key, cost = self._limiter, self._key, self._cost
        if reply is None:
            return limiter._decide_locally(limiter._local.hit, key, cost)
        decision = self._on_redis.operations.decision(self._operation, reply)
        limiter._record(key, cost, decision, asked=self._asked, changes=self._changes)
        return decision


async def hit_together(hits: Sequence[SharedHit]) -> list[Decision] | None:
    """Count hits with the same `place` in one round trip, or none if an enforced one is rejected.

    Without the storage, the limiters decide in turn until an enforced hit is rejected, and count
    those before it.

    Returns:
        Decisions on the hits, or on those before a rejection without the storage; None if the
        storage cannot decide these hits together.
    """
    replies = await hits[0].run(hits)
    if replies is not None:
        return [hit.decide(reply) for hit, reply in zip(hits, replies, strict=False)] or None
    decisions: list[Decision] = []
    for hit in hits:
        decisions.append(hit.decide(None))
        if hit.enforced and not decisions[-1].allowed:
            break
    return decisions


def _counters(
    storage: SharedStorage, *, strategy: str, window: int
) -> TransactionsOnRedis | FixedOnMemcached | SlidingOnMemcached:
    if not isinstance(storage, MemcachedStorage):
        return TransactionsOnRedis(storage)
    on_memcached = FixedOnMemcached if strategy == "fixed-window" else SlidingOnMemcached
    return on_memcached(storage, window)


def hash_key(key: Hashable) -> str:
    """Return 32 hexadecimal digits that identify `key` without revealing it.

    Raises:
        ValueError: `key` is, or contains, a value of a type that differs between processes.
    """
    return blake2b(encode_key(key), digest_size=16).hexdigest()

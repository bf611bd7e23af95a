"""Limiter that counts in a storage shared by several processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from functools import partial
from hashlib import blake2b
from typing import Protocol, cast

from limits.aio.storage import MemcachedStorage

from ...secret import Secret, hide_arguments, hide_url
from ...validation import check_choice, check_integer, check_seconds
from ..callables import check_name
from ..encoding import encode_key
from ..limiters import (
    Decision,
    Limiter,
    Rate,
    blocked_decision,
    check_amount,
    parse_change,
    parse_rate,
)
from .client import FALLBACKS, StorageClient
from .memcached import FixedOnMemcached, SlidingOnMemcached
from .redis import FixedOnRedis, SlidingOnRedis
from .storage import SharedStorage, check_storage, check_window
from .top_usage import TopUsage

_STRATEGIES = ("fixed-window", "sliding-window-counter")


class Windows(Protocol):
    """Operations of a strategy on the counters of one limit."""

    async def hit(self, key: str, cost: int, limit: int) -> Decision:
        """Count `cost` if it is within the limit."""
        ...

    async def peek(self, key: str, cost: int, limit: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        ...

    async def reset(self, key: str) -> None:
        """Delete the counters of `key`."""
        ...


class SharedLimiter:
    """Rate limiter of all processes that use the same storage.

    Limiters with the same storage, prefix, limit and strategy share their counters. Keys are
    bytes, strings, integers, None, or tuples of these.

    If the storage fails or exceeds the timeout, `on_error` applies. During an outage one request
    per second tries the storage, and the others do not wait for it. The drivers require asyncio:
    on trio, every request is decided as during an outage.

    Args:
        limit: A rate such as "100/minute" or "20 USD/day"; not of the calendar.
        storage: URL such as "redis://host:6379" (`tokenpulse-mw[redis]`) or
            "memcached://host:11211" (`tokenpulse-mw[memcached]`).
        on_error: Decision during an outage: by an in-memory `Limiter` of this process ("local"),
            allow every request ("allow", fail open) or none ("deny", fail closed). The in-memory
            `Limiter` follows the storage for keys that have used a quarter of their limit, so that
            a key over its limit stays limited.
        strategy: "fixed-window" or "sliding-window-counter".
        prefix: Beginning of the names of the counters: letters, digits, `_`, `.`, `:` and `-`.
            Limiters with different prefixes count separately.
        max_keys: Size of the table of the in-memory `Limiter`.
        timeout: Seconds that a decision may wait for the storage.
        clock: Monotonic seconds.

    Attributes:
        limit: Requests, tokens or micro-dollars per window.
        window: Seconds.
        currency: "USD" if the limiter counts micro-dollars, else None.
        supports_refund: True if `charge` can be used.
        counters: Identity of the counters: limiters with an equal value share them.

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
    ) -> None:
        storage = hide_url(storage)
        self.limit, self.window, self.currency, self.period = parse_rate(limit)
        if self.period is not None:
            raise ValueError(
                f"limit must not be of the calendar in a storage, got {limit!r}: use Limiter or "
                "ZoneLimiter, or a window such as '20 USD/day'"
            )
        self._blocked_until = None if self.limit else math.inf
        check_choice("strategy", strategy, _STRATEGIES)
        check_choice("on_error", on_error, tuple(FALLBACKS))
        check_seconds("timeout", timeout)
        check_name("prefix", prefix)
        check_storage(storage)
        check_window(storage, self.window, strategy)
        self.strategy = strategy
        self.supports_refund = strategy == "fixed-window"
        self._on_error = on_error
        # The first limit is a part of the name, so a limit that changes keeps its counters.
        amount = f"{self.limit}{self.currency or ''}"
        self._prefix = f"{prefix}/{amount}/{self.window}/"
        self.counters = (storage, strategy, self._prefix)
        # Keys with more remaining are not copied: a flood of new keys must not fill the table.
        self._max_remaining_to_adopt = self.limit * 3 // 4
        self._local = Limiter(limit, max_keys=max_keys, strategy=strategy, clock=clock)
        self._top_usage = TopUsage(self.limit, self.window)
        self._client: StorageClient[Windows] = StorageClient(
            storage,
            partial(_windows, strategy=strategy, window=self.window),
            on_error=on_error,
            timeout=timeout,
            clock=clock,
        )

    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` for `key` if it is within the limit.

        A rejected request is not counted.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        check_integer("cost", cost, minimum=0)
        name = self._name(key)
        if self._blocked_until is not None and (blocked := self._blocked(cost)) is not None:
            return blocked
        limit = self.limit
        response = await self._client.call(
            lambda windows: windows.hit(name, cost, limit), wrote=lambda decision: decision.allowed
        )
        if not response:
            return self._decide_locally(self._local.hit, key, cost)
        (decision,) = response
        now = self.clock()
        used = limit - decision.remaining
        self._top_usage.record(key, used, now, now + decision.reset_after)
        if decision.remaining <= self._max_remaining_to_adopt and self._on_error == "local":
            self._local.adopt(key, decision)
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
        limit = self.limit
        response = await self._client.call(lambda windows: windows.peek(name, cost, limit))
        return response[0] if response else self._decide_locally(self._local.peek, key, cost)

    async def reset(self, key: Hashable) -> None:
        """Remove the usage of `key`; during an outage, only that in this process.

        Raises:
            ValueError: `key` cannot be shared.
        """
        name = self._name(key)
        self._local.reset(key)
        self._top_usage.record(key, 0, now=0.0, ends=0.0)
        await self._client.call(lambda windows: windows.reset(name))

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
            since: Seconds of `clock`, read after the hit; now when None.
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
        now = self.clock()
        age = 0.0 if since is None else now - since

        async def charged(windows: Windows) -> None:
            await cast(FixedOnRedis | FixedOnMemcached, windows).charge(name, amount, age)

        response = None if degraded else await self._client.call(charged)
        if response:
            self._top_usage.correct(key, amount, now - age)
        if not response or self._on_error == "local":
            self._local.charge(key, amount, since=since)

    @property
    def rate(self) -> Rate:
        """Present rate; its text can be parsed again."""
        limit = self.limit if self._blocked_until is None else 0
        return Rate(limit, self.window, self.currency)

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
        self._top_usage = TopUsage(self.limit, self.window)

    def usage(self) -> list[tuple[Hashable, int]]:
        """Return (key, used) of at most 1,000 keys that have used at least half of their limit.

        This is the usage in the last decision on each key in this process, plus its charges since.
        Keys that only other processes have used, and windows that have ended, are left out.
        """
        return self._top_usage.entries(self.clock())

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds."""
        return self._local.clock

    @clock.setter
    def clock(self, clock: Callable[[], float]) -> None:
        self._local.clock = clock

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        await self._client.aclose()

    def _name(self, key: Hashable) -> str:
        return self._prefix + hash_key(key)

    def _decide_locally(
        self, local: Callable[[Hashable, int], Decision], key: Hashable, cost: int
    ) -> Decision:
        """Return the decision of `on_error`."""
        if self._on_error == "allow":
            return Decision(True, self.limit, self.limit, float(self.window), 0.0, degraded=True)
        if self._on_error == "deny":
            return Decision(False, self.limit, 0, 1.0, 1.0, degraded=True)
        return local(key, cost)._replace(degraded=True)


def _windows(storage: SharedStorage, *, strategy: str, window: int) -> Windows:
    sliding = strategy == "sliding-window-counter"
    if isinstance(storage, MemcachedStorage):
        on_memcached = SlidingOnMemcached if sliding else FixedOnMemcached
        return on_memcached(storage, window)
    on_redis = SlidingOnRedis if sliding else FixedOnRedis
    return on_redis(storage, window)


def hash_key(key: Hashable) -> str:
    """Return 32 hexadecimal digits that identify `key` without revealing it.

    Raises:
        ValueError: `key` is, or contains, a value of a type that differs between processes.
    """
    return blake2b(encode_key(key), digest_size=16).hexdigest()

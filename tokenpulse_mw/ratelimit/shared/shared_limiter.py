"""The limiter of several processes: it counts in a storage that they share, and does without it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from hashlib import blake2b
from typing import TypeVar, cast

from ...secret import Secret, hide_arguments, hide_url, redact
from ...validation import check_seconds
from ..callables import check_name
from ..limiters import Decision, Limiter, check_amount, check_cost, parse_rate
from .circuit_breaker import CircuitBreaker
from .connections import STRATEGIES, StoragePool, Windows
from .memcached import FixedOnMemcached
from .redis import FixedOnRedis
from .storage import check_storage, check_window, refuses_writes

_Answer = TypeVar("_Answer")


_MEANWHILE = {
    "local": "each process decides from its own table",
    "allow": "every request is allowed",
    "deny": "every request is rejected",
}


class SharedLimiter:
    """Decides how much each key may still do, in all processes that share a storage together.

    Limiters with the same storage, prefix, limit and strategy share their counters. Keys are
    bytes, strings, whole numbers, None, or tuples of these.

    When the storage fails, or takes too long, `on_error` says how to decide. One request a second
    then finds out whether it is back; the others do not wait for it. It runs on asyncio; on trio
    there is no driver, so that every decision is made as if the storage had failed.

    Args:
        limit: A rate such as "100/minute" or "1000 per day".
        storage: Where to count, such as "async+redis://host:6379" (`tokenpulse-mw[redis]`) or
            "async+memcached://host:11211" (`tokenpulse-mw[memcached]`).
        on_error: Without the storage, decide by an in-memory `Limiter` of this process ("local"),
            let every request pass ("allow"), or none ("deny"). The `Limiter` follows the
            storage for clients that have used a quarter of their limit, so that one over its limit
            stays limited.
        strategy: "fixed-window" or "sliding-window-counter".
        prefix: What the names of the counters begin with: letters, digits, `_`, `.`, `:` and `-`.
            Limiters that are not to count together need different ones.
        max_keys: Clients that the in-memory `Limiter` keeps one by one.
        timeout: Seconds that a decision may wait for the storage.
        clock: Monotonic seconds.

    Attributes:
        limit: What a window has room for.
        window: Seconds.
        supports_refund: `charge` can be used.
        counters: What tells its counters from others: limiters for which it is equal are one.

    Raises:
        ValueError: An argument is malformed, or the driver of the storage is not installed.
    """

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
        self.limit, self.window = parse_rate(limit)
        _check_choice("strategy", strategy, STRATEGIES)
        _check_choice("on_error", on_error, tuple(_MEANWHILE))
        check_seconds("timeout", timeout)
        check_name("prefix", prefix)
        check_storage(storage)
        check_window(storage, self.window, strategy)
        self.strategy = strategy
        self.supports_refund = strategy == "fixed-window"
        self.clock = clock
        self._url = storage
        self._on_error = on_error
        self._timeout = timeout
        self._prefix = f"{prefix}/{self.limit}/{self.window}/"
        self.counters = (storage, strategy, self._prefix)
        # A flood of keys that come once must not pay for a table that only outages need.
        self._near = self.limit * 3 // 4
        self._local = Limiter(limit, max_keys=max_keys, strategy=strategy, clock=clock)
        self._stored = StoragePool(storage, strategy=strategy, limit=self.limit, window=self.window)
        self._outage = CircuitBreaker(
            str(storage), meanwhile=_MEANWHILE[on_error], patience=timeout, clock=clock
        )
        self._asking: set[asyncio.Task[object]] = set()

    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` against `key`, if there is room for it.

        A request that is not allowed costs nothing.

        Raises:
            ValueError: `cost` is negative or no whole number, or `key` cannot be shared.
        """
        check_cost(cost)
        name = self._name(key)
        answer = await self._call(
            lambda windows: windows.hit(name, cost), wrote=lambda decision: decision.allowed
        )
        if not answer:
            return self._without(self._local.hit, key, cost)
        (decision,) = answer
        if decision.remaining <= self._near and self._on_error == "local":
            self._local.adopt(key, decision)
        return decision

    async def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Whether a request of `cost` would be allowed now, and what remains; counts nothing.

        Raises:
            ValueError: `cost` is negative or no whole number, or `key` cannot be shared.
        """
        check_cost(cost)
        name = self._name(key)
        answer = await self._call(lambda windows: windows.peek(name, cost))
        return answer[0] if answer else self._without(self._local.peek, key, cost)

    async def reset(self, key: Hashable) -> None:
        """Forget what `key` has used; without the storage, only what this process has seen.

        Raises:
            ValueError: `key` cannot be shared.
        """
        name = self._name(key)
        self._local.reset(key)
        await self._call(lambda windows: windows.reset(name))

    async def charge(
        self,
        key: Hashable,
        amount: int,
        *,
        since: float | None = None,
        degraded: bool = False,
    ) -> None:
        """Count `amount` against `key` with no regard to the limit.

        A negative amount gives back what a hit has taken, as far as that still counts.

        Args:
            key: Who is charged.
            amount: How much, once it is known that a hit has cost more, or less.
            since: When the hit was, in seconds of `clock`, read after it; now when None.
            degraded: The hit was decided without the storage (`Decision.degraded`), so this is
                kept from it as well.

        Raises:
            ValueError: The strategy is not "fixed-window", `amount` is no whole number, or `key`
                cannot be shared.
        """
        if not self.supports_refund:
            raise ValueError(
                f"the strategy {self.strategy!r} does not support charge() in a storage: "
                "use 'fixed-window'"
            )
        amount = check_amount(amount)
        name = self._name(key)
        age = 0.0 if since is None else self.clock() - since

        async def charged(windows: Windows) -> None:
            await cast(FixedOnRedis | FixedOnMemcached, windows).charge(name, amount, age)

        asked = None if degraded else await self._call(charged)
        if not asked or self._on_error == "local":
            self._local.charge(key, amount, since=since)

    async def aclose(self) -> None:
        """Close the connections of the running event loop; the next request opens new ones."""
        with suppress(RuntimeError):  # on trio, where there are none
            await self._stored.drop()

    def _name(self, key: Hashable) -> str:
        return self._prefix + hash_key(key)

    def _without(
        self, local: Callable[[Hashable, int], Decision], key: Hashable, cost: int
    ) -> Decision:
        """The decision where the storage cannot be asked."""
        if self._on_error == "allow":
            return Decision(True, self.limit, self.limit, float(self.window), 0.0, degraded=True)
        if self._on_error == "deny":
            return Decision(False, self.limit, 0, 1.0, 1.0, degraded=True)
        return local(key, cost)._replace(degraded=True)

    async def _call(
        self,
        question: Callable[[Windows], Awaitable[_Answer]],
        wrote: Callable[[_Answer], bool] = lambda _: False,
    ) -> tuple[_Answer] | None:
        """Return the storage's answer, or None if it cannot be asked.

        Args:
            question: Asks the storage.
            wrote: Returns True if the storage has counted something for this answer.
        """
        if not self._outage.allows():
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._outage.record_failure("the drivers support asyncio only, not trio")
            return None
        # In a task of its own, for a driver that is broken off loses track of whose answer comes.
        asking = loop.create_task(self._asked(question, wrote))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        return await asyncio.shield(asking)

    async def _asked(
        self, question: Callable[[Windows], Awaitable[_Answer]], wrote: Callable[[_Answer], bool]
    ) -> tuple[_Answer] | None:
        is_trial, storage = self._outage.down, None
        try:
            async with asyncio.timeout(self._timeout):
                storage = await self._stored.for_running_loop()
                answer = await question(await storage.connected())
        except Exception as error:  # noqa: BLE001 - whatever it is, the request goes on
            if refuses_writes(error):  # and the connection is good
                self._outage.record_failure(self._reason(error), of_writes=True)
            # Others that waited on the same connections fail with it, and have nothing to add.
            elif storage is None or await self._stored.drop(storage):
                self._outage.record_failure(self._reason(error))
            return None
        if is_trial:
            self._outage.answered(wrote=wrote(answer))
        return (answer,)

    def _reason(self, error: Exception) -> str:
        text = str(error) or f"no response within {self._timeout} s"
        return redact(f"{type(error).__name__}: {text}", self._url)[:300]


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is not known: expected one of {list(choices)}")


def hash_key(key: Hashable) -> str:
    """32 hexadecimal digits that only `key` has.

    What it is made of cannot be read from it.

    Raises:
        ValueError: `key` is, or contains, something that other processes would not write alike.
    """
    return blake2b(_encoded(key), digest_size=16).hexdigest()


def _encoded(key: object) -> bytes:
    """`key` with the kind and the length of every part before it, so that no two are alike."""
    if key is None:
        return b"n"
    if isinstance(key, bytes):
        return b"b%d:%b" % (len(key), key)
    if isinstance(key, str):
        text = str.encode(key, "utf-8", "surrogatepass")
        return b"s%d:%b" % (len(text), text)
    if isinstance(key, int):
        return b"i%d;" % key
    if isinstance(key, tuple):
        return b"t%d:%b" % (len(key), b"".join(map(_encoded, key)))
    raise ValueError(
        f"a shared key must be bytes, str, int, None or a tuple of these, "
        f"got one of type {type(key).__name__}"
    )

"""Limiter of concurrent requests that counts in a storage shared by several processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import count, islice
from secrets import token_hex
from typing import cast

from limits.aio.storage import RedisStorage

from ...secret import Secret, hide_arguments, hide_url
from ...validation import check_choice, check_integer, check_seconds
from ..callables import check_name
from ..limiters import MAX_SLOTS, Decision, StoredInFlight, slots_decision
from .client import FALLBACKS, StorageClient
from .redis import SlotsOnRedis
from .shared_limiter import hash_key
from .storage import check_storage, is_memcached

_KEYS_PER_CALL = 20
_EXTENSIONS_PER_LEASE = 3  # so two may fail


class _HeldSlots:
    """Slots that the requests of one event loop hold, in the storage or without it.

    Attributes:
        members: Names of the slots in the storage, by key.
        task: Task that extends their lease; None if no slot is held.
    """

    def __init__(self) -> None:
        self.members: dict[str, set[str]] = {}
        self.task: asyncio.Task[None] | None = None
        self._process = token_hex(8)
        self._numbers = count()

    def create(self, amount: int) -> list[str]:
        """Return names for new slots."""
        return [f"{self._process}:{number}" for number in islice(self._numbers, amount)]

    def count(self, name: str) -> int:
        """Return the number of slots held for a key."""
        return len(self.members.get(name, ()))

    def add(self, name: str, members: Iterable[str]) -> None:
        """Hold slots of a key."""
        self.members.setdefault(name, set()).update(members)

    def remove(self, name: str, amount: int) -> list[str]:
        """Return at most `amount` slots of a key that are no longer held."""
        held = self.members.get(name, set())
        removed = [held.pop() for _ in range(min(amount, len(held)))]
        if not held:
            self.members.pop(name, None)
        return removed


class SharedInFlight(StoredInFlight):
    """Limiter of the concurrent requests in all processes that use the same storage.

    The middleware takes a slot when a request arrives and releases it when the response ends, as
    for `InFlight`. Limiters with the same storage, prefix and limit share their slots. Keys are
    bytes, strings, integers, None, or tuples of these.

    A slot in the storage has a lease, which its process extends while the request lasts, so the
    slots of a killed process are free after `lease` seconds. Times are those of the storage.

    If the storage fails or exceeds the timeout, `on_error` applies, as for `SharedLimiter`. When
    the storage responds again, the requests in progress are counted there within a third of
    `lease`, and may together exceed the limit until they end. The drivers require asyncio: on
    trio, every request is decided as during an outage.

    Args:
        limit: Slots per key.
        storage: URL of a Redis or Valkey, such as "redis://host:6379" (`tokenpulse-mw[redis]`).
        on_error: Decision during an outage: by the slots that this process holds ("local"), allow
            every request ("allow", fail open) or none ("deny", fail closed).
        prefix: Beginning of the names in the storage: letters, digits, `_`, `.`, `:` and `-`.
            Limiters with different prefixes have separate slots.
        lease: Seconds after which the slots of a killed process are free.
        timeout: Seconds that a decision may wait for the storage.
        clock: Monotonic seconds.

    Attributes:
        clears: Number of calls of `clear`. A slot from before the last one must not be released.
        counters: Identity of the slots: limiters with an equal value share them.

    Raises:
        ValueError: An argument is malformed, or the driver of the storage is not installed.
    """

    window = None
    storage_kind = "redis"
    supports_refund = True

    @hide_arguments
    def __init__(
        self,
        limit: int,
        *,
        storage: str | Secret[str],
        on_error: str = "local",
        prefix: str = "tokenpulse",
        lease: float = 30.0,
        timeout: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        storage = hide_url(storage)
        self.limit = check_integer("limit", limit, maximum=MAX_SLOTS)
        check_choice("on_error", on_error, tuple(FALLBACKS))
        check_seconds("lease", lease)
        check_seconds("timeout", timeout)
        check_name("prefix", prefix)
        check_storage(storage)
        if is_memcached(storage):
            raise ValueError(
                f"storage must be a Redis or Valkey, got {storage!r}: Memcached cannot count "
                "requests in progress; use redis://host:6379, or InFlight to count within one "
                "process"
            )
        self.clears = 0
        self._on_error = on_error
        self._extends_after = lease / _EXTENSIONS_PER_LEASE
        self._prefix = f"{prefix}/{self.limit}/"
        self.counters = (storage, "in-flight", self._prefix)
        self._client = StorageClient(
            storage,
            lambda opened: SlotsOnRedis(cast(RedisStorage, opened), limit, lease),
            on_error=on_error,
            timeout=timeout,
            clock=clock,
        )
        self._held: dict[asyncio.AbstractEventLoop | None, _HeldSlots] = {}

    def __len__(self) -> int:
        """Return the number of keys with requests in progress in this process."""
        return sum(len(held.members) for held in self._held.values())

    async def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Take `cost` slots for `key` if they are free; call `release` afterwards.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        check_integer("cost", cost, minimum=0)
        name, loop = self._name(key), _running_loop()
        held = self._held_in(loop)
        members = held.create(cost) if cost <= self.limit else []
        response = await self._client.call(
            lambda slots: slots.take(name, members),
            wrote=lambda used: 0 < len(members) <= self.limit - used,
            on_cancel=partial(self._release, name, members),
        )
        decision = self._decide(response, held.count(name), cost)
        if not decision.allowed or not cost:
            return decision
        held.add(name, members)
        if held.task is None and loop is not None:
            # In an empty context, since the task outlives the request.
            held.task = loop.create_task(self._extend(held, loop), context=Context())
        return decision._replace(remaining=max(decision.remaining - cost, 0))

    async def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without taking slots.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        check_integer("cost", cost, minimum=0)
        name = self._name(key)
        response = await self._client.call(lambda slots: slots.take(name, ()))
        return self._decide(response, self._held_in(_running_loop()).count(name), cost)

    def release(self, key: Hashable, cost: int = 1) -> None:
        """Release `cost` slots of `key` that were taken in this event loop.

        The call does not wait for the storage. A release that fails is complete when the lease of
        the slot ends.

        Raises:
            ValueError: `cost` is not an integer of at least 0, or `key` cannot be shared.
        """
        check_integer("cost", cost, minimum=0)
        name, loop = self._name(key), _running_loop()
        members = self._held_in(loop).remove(name, cost)
        if members and loop is not None:
            self._release(name, members)

    def clear(self) -> None:
        """Release the slots of this process; those in the storage are free after their lease."""
        self._held.clear()
        self.clears += 1

    async def aclose(self) -> None:
        """Close the connections of the running event loop, after the releases in progress."""
        held = self._held_in(_running_loop())
        if held.task is not None and not held.members:
            held.task.cancel()
            held.task = None
        await self._client.aclose()

    def _name(self, key: Hashable) -> str:
        return self._prefix + hash_key(key)

    def _held_in(self, loop: asyncio.AbstractEventLoop | None) -> _HeldSlots:
        """Return the slots of one event loop; a forked process has another one."""
        if loop not in self._held:
            for closed in [loop for loop in self._held if loop is not None and loop.is_closed()]:
                del self._held[closed]
            self._held[loop] = _HeldSlots()
        return self._held[loop]

    def _decide(self, response: tuple[int] | None, held: int, cost: int) -> Decision:
        """Return the decision by the response of the storage, or that of `on_error`."""
        if response:
            return slots_decision(self.limit, response[0], cost)
        if self._on_error == "allow":
            return Decision(True, self.limit, self.limit, 0.0, 0.0, degraded=True)
        if self._on_error == "deny":
            return Decision(False, self.limit, 0, 0.0, 1.0, degraded=True)
        return slots_decision(self.limit, held, cost)._replace(degraded=True)

    def _release(self, name: str, members: Iterable[str]) -> None:
        self._client.start(lambda slots: slots.release(name, members))

    async def _extend(self, held: _HeldSlots, loop: asyncio.AbstractEventLoop) -> None:
        """Extend the lease of all slots in `held` until none is held, or after `clear`."""
        while True:
            await asyncio.sleep(self._extends_after)
            if not held.members or self._held.get(loop) is not held:
                break
            names = list(held.members)
            for start in range(0, len(names), _KEYS_PER_CALL):
                await self._extend_keys(held, names[start : start + _KEYS_PER_CALL])
        held.task = None

    async def _extend_keys(self, held: _HeldSlots, names: list[str]) -> None:
        """Extend the lease of the slots of some keys, in one round trip."""
        extended = {name: list(held.members.get(name, ())) for name in names}

        async def extend(slots: SlotsOnRedis) -> None:
            await asyncio.gather(*[slots.extend(*item) for item in extended.items()])

        await self._client.call(extend)
        for name, members in extended.items():
            # Those that were released meanwhile, perhaps before the extension took them again.
            released = [slot for slot in members if slot not in held.members.get(name, ())]
            if released:
                self._release(name, released)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop of asyncio; None on trio, or after the event loop."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None

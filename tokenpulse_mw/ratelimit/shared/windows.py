"""Windows of one limit in a shared storage: one call per operation, or one for many."""

from __future__ import annotations

from typing import Protocol, cast

from ..limiters import Decision
from .batches import Batches
from .client import StorageClient
from .memcached import FixedOnMemcached, SlidingOnMemcached
from .redis import PEEK, FixedOnRedis, Operation, SlidingOnRedis


class Windows(Protocol):
    """Operations of a strategy on the counters of one limit; False or None without the storage."""

    async def hit(self, name: str, cost: int, limit: int) -> Decision | None:
        """Count `cost` if it is within the limit."""
        ...

    async def peek(self, name: str, cost: int, limit: int) -> Decision | None:
        """Return what `hit` would decide, without counting."""
        ...

    async def charge(self, name: str, amount: int, age: float) -> bool:
        """Count `amount`; a refund of a hit `age` seconds ago applies only in the same window."""
        ...

    async def reset(self, name: str) -> None:
        """Delete the counters of a key."""
        ...


class WindowsOnMemcached:
    """Windows in Memcached, with a call for each operation."""

    def __init__(self, client: StorageClient[FixedOnMemcached | SlidingOnMemcached]) -> None:
        self._client = client

    async def hit(self, name: str, cost: int, limit: int) -> Decision | None:
        """Count `cost` if it is within the limit."""
        response = await self._client.call(
            lambda windows: windows.hit(name, cost, limit), wrote=lambda decision: decision.allowed
        )
        return response and response[0]

    async def peek(self, name: str, cost: int, limit: int) -> Decision | None:
        """Return what `hit` would decide, without counting."""
        response = await self._client.call(lambda windows: windows.peek(name, cost, limit))
        return response and response[0]

    async def charge(self, name: str, amount: int, age: float) -> bool:
        """Count `amount`; a refund of a hit `age` seconds ago applies only in the same window."""

        async def charged(windows: FixedOnMemcached | SlidingOnMemcached) -> None:
            await cast(FixedOnMemcached, windows).charge(name, amount, age)

        return await self._client.call(charged) is not None

    async def reset(self, name: str) -> None:
        """Delete the counters of a key."""
        await self._client.call(lambda windows: windows.reset(name))


class WindowsOnRedis:
    """Windows in Redis, with a call for all operations that wait at the same time.

    Attributes:
        batches: Transactions in the storage.
        operations: Operations and decisions of the strategy.
    """

    def __init__(self, batches: Batches, operations: FixedOnRedis | SlidingOnRedis) -> None:
        self.batches = batches
        self.operations = operations

    async def hit(self, name: str, cost: int, limit: int) -> Decision | None:
        """Count `cost` if it is within the limit."""
        return await self._decide(self.operations.hit(name, cost, limit))

    async def peek(self, name: str, cost: int, limit: int) -> Decision | None:
        """Return what `hit` would decide, without counting."""
        return await self._decide(self.operations.hit(name, cost, limit, PEEK))

    async def charge(self, name: str, amount: int, age: float) -> bool:
        """Count `amount`; a refund of a hit `age` seconds ago applies only in the same window."""
        fixed = cast(FixedOnRedis, self.operations)
        return await self.batches.run(fixed.charge(name, amount, age)) is not None

    async def reset(self, name: str) -> None:
        """Delete the counters of a key."""
        await self.batches.run(self.operations.reset(name))

    async def _decide(self, hit: Operation) -> Decision | None:
        replies = await self.batches.run(hit)
        return self.operations.decision(hit, replies[0]) if replies else None

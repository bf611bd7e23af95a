"""Connections to a shared storage, one per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Protocol

from limits.aio.storage import MemcachedStorage

from ...secret import Secret
from ..limiters import Decision
from .memcached import FixedOnMemcached, SlidingOnMemcached
from .redis import FixedOnRedis, SlidingOnRedis
from .storage import SharedStorage, close_storage, open_storage

STRATEGIES = ("fixed-window", "sliding-window-counter")


class Windows(Protocol):
    """Operations of a strategy on the counters of one limit."""

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if it is within the limit."""
        ...

    async def peek(self, key: str, cost: int) -> Decision:
        """Return what `hit` would decide, without counting."""
        ...

    async def reset(self, key: str) -> None:
        """Delete the counters of `key`."""
        ...


class Connection:
    """A storage that was opened in one event loop.

    Args:
        lifetime: Generator that closes the storage when it ends.
        storage: Storage to connect to.
        windows: Counters in the storage.
    """

    def __init__(
        self, lifetime: AsyncGenerator[SharedStorage], storage: SharedStorage, windows: Windows
    ) -> None:
        self._lifetime = lifetime
        self._storage = storage
        self._windows = windows
        self._connecting = asyncio.Lock()
        self._is_connected = False
        self._is_closed = False

    async def connected(self) -> Windows:
        """Return the counters after connecting.

        Concurrent requests wait for the first connection instead of opening several.

        Raises:
            ConnectionError: The connection was closed meanwhile.
        """
        if not self._is_connected:
            async with self._connecting:
                await self._connect()
        return self._windows

    async def close(self) -> None:
        """Close all connections."""
        self._is_closed = True
        await self._lifetime.aclose()

    def close_at_once(self) -> None:
        """Close all connections from synchronous code; closing never suspends."""
        with suppress(StopIteration):
            self._lifetime.aclose().__await__().send(None)

    async def _connect(self) -> None:
        if self._is_closed:
            raise ConnectionError("closed")
        if not self._is_connected:
            await self._storage.get_expiry("tokenpulse")  # any response proves the connection
            self._is_connected = True


class StoragePool:
    """Connections to one storage, one per event loop.

    A connection is closed with its event loop. Drop a connection after an error: a late response
    could be read as the response to another request.

    Args:
        url: URL of the storage.
        strategy: "fixed-window" or "sliding-window-counter".
        limit: Requests or tokens per window.
        window: Seconds.
    """

    def __init__(self, url: Secret[str], *, strategy: str, limit: int, window: int) -> None:
        self._url = url
        self._sliding = strategy == "sliding-window-counter"
        self._limit = limit
        self._window = window
        self._open: dict[asyncio.AbstractEventLoop, Connection] = {}

    async def for_running_loop(self) -> Connection:
        """Return the connection of the running asyncio event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for closed_loop in [loop for loop in self._open if loop.is_closed()]:
                del self._open[closed_loop]
            lifetime = _storage_lifetime(self._url)
            storage = await anext(lifetime)
            self._open[loop] = Connection(lifetime, storage, self._windows(storage))
        return self._open[loop]

    async def drop(self, connection: Connection | None = None) -> bool:
        """Close the connection of the running event loop.

        Args:
            connection: Close only this connection; any when None.

        Returns:
            True if a connection was closed.
        """
        loop = asyncio.get_running_loop()
        current = self._open.get(loop)
        if current is None or (connection is not None and current is not connection):
            return False
        del self._open[loop]
        await current.close()
        return True

    def __del__(self) -> None:
        for connection in self._open.values():
            connection.close_at_once()

    def _windows(self, storage: SharedStorage) -> Windows:
        if isinstance(storage, MemcachedStorage):
            on_memcached = SlidingOnMemcached if self._sliding else FixedOnMemcached
            return on_memcached(storage, self._limit, self._window)
        on_redis = SlidingOnRedis if self._sliding else FixedOnRedis
        return on_redis(storage, self._limit, self._window)


async def _storage_lifetime(url: Secret[str]) -> AsyncGenerator[SharedStorage]:
    """Yield an open storage, and close it when the generator ends.

    An event loop ends its generators when it shuts down, so connections never outlive it.
    """
    storage = open_storage(url)
    try:
        yield storage
    finally:
        await close_storage(storage)

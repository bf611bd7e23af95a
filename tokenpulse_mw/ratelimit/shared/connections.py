"""Connections to a shared storage, one per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Generic, TypeVar

from ...secret import Secret
from .storage import SharedStorage, close_storage, open_storage

Counters = TypeVar("Counters")


class Connection(Generic[Counters]):
    """A storage that was opened in one event loop.

    Args:
        lifetime: Generator that closes the storage when it ends.
        storage: Storage to connect to.
        counters: Counters of one limit in the storage.
    """

    def __init__(
        self, lifetime: AsyncGenerator[SharedStorage], storage: SharedStorage, counters: Counters
    ) -> None:
        self._lifetime = lifetime
        self._storage = storage
        self._counters = counters
        self._connecting = asyncio.Lock()
        self._is_connected = False
        self._is_closed = False

    async def connected(self) -> Counters:
        """Return the counters after connecting.

        Concurrent requests wait for the first connection instead of opening several.

        Raises:
            ConnectionError: The connection was closed meanwhile.
        """
        if not self._is_connected:
            async with self._connecting:
                await self._connect()
        return self._counters

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


class StoragePool(Generic[Counters]):
    """Connections to one storage, one per event loop.

    A connection is closed with its event loop. Drop a connection after an error: a late response
    could be read as the response to another request.

    Args:
        url: URL of the storage.
        create: Function that returns the counters of a limit in an open storage.
    """

    def __init__(self, url: Secret[str], create: Callable[[SharedStorage], Counters]) -> None:
        self._url = url
        self._create = create
        self._open: dict[asyncio.AbstractEventLoop, Connection[Counters]] = {}

    async def for_running_loop(self) -> Connection[Counters]:
        """Return the connection of the running asyncio event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for closed_loop in [loop for loop in self._open if loop.is_closed()]:
                del self._open[closed_loop]
            lifetime = _storage_lifetime(self._url)
            storage = await anext(lifetime)
            self._open[loop] = Connection(lifetime, storage, self._create(storage))
        return self._open[loop]

    async def drop(self, connection: Connection[Counters] | None = None) -> bool:
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


async def _storage_lifetime(url: Secret[str]) -> AsyncGenerator[SharedStorage]:
    """Yield an open storage, and close it when the generator ends.

    An event loop ends its generators when it shuts down, so connections never outlive it.
    """
    storage = open_storage(url)
    try:
        yield storage
    finally:
        await close_storage(storage)

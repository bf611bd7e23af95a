"""What a strategy does in a storage, and the storage that each event loop has for it."""

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
    """What a strategy does with the counters of one limit; keys are short texts."""

    async def hit(self, key: str, cost: int) -> Decision:
        """Count `cost` if there is room for it."""
        ...

    async def peek(self, key: str, cost: int) -> Decision:
        """Whether there is room for `cost`."""
        ...

    async def reset(self, key: str) -> None:
        """Forget what was counted."""
        ...


class Connection:
    """A storage that one event loop has opened.

    Args:
        keeper: Holds the storage open until it is ended itself.
        storage: What is asked first, to connect.
        windows: What is asked then.
    """

    def __init__(
        self, keeper: AsyncGenerator[SharedStorage], storage: SharedStorage, windows: Windows
    ) -> None:
        self._keeper = keeper
        self._storage = storage
        self._windows = windows
        self._connecting = asyncio.Lock()
        self._is_connected = False
        self._is_closed = False

    async def connected(self) -> Windows:
        """The windows, once there is a connection.

        One request makes it and the others wait: else each would make one of its own.

        Raises:
            ConnectionError: The storage was closed meanwhile.
        """
        if not self._is_connected:
            async with self._connecting:
                await self._connect()
        return self._windows

    async def close(self) -> None:
        """Close all connections."""
        self._is_closed = True
        await self._keeper.aclose()

    def close_at_once(self) -> None:
        """As `close`, where nothing can be waited for; and there is nothing to wait for."""
        with suppress(StopIteration):
            self._keeper.aclose().__await__().send(None)

    async def _connect(self) -> None:
        if self._is_closed:
            raise ConnectionError("closed")
        if not self._is_connected:
            await self._storage.get_expiry("tokenpulse")  # whatever it is, it has answered
            self._is_connected = True


class StoragePool:
    """The windows of one limit in one storage, over connections of each event loop's own.

    Connections belong to the loop that made them, and are closed with it. A storage that failed
    is to be dropped: an answer that comes too late could be taken for that of another question.

    Args:
        url: The storage.
        strategy: How windows are counted.
        limit: What a window has room for.
        window: Seconds.
    """

    def __init__(self, url: Secret[str], *, strategy: str, limit: int, window: int) -> None:
        self._url = url
        self._sliding = strategy == "sliding-window-counter"
        self._limit = limit
        self._window = window
        self._open: dict[asyncio.AbstractEventLoop, Connection] = {}

    async def for_running_loop(self) -> Connection:
        """The storage of the running event loop, which is one of asyncio."""
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for closed in [each for each in self._open if each.is_closed()]:
                del self._open[closed]
            keeper = _kept_open(self._url)
            storage = await anext(keeper)
            self._open[loop] = Connection(keeper, storage, self._windows(storage))
        return self._open[loop]

    async def drop(self, storage: Connection | None = None) -> bool:
        """Close the storage of the running loop, if it still is `storage`, or whichever it is.

        Returns:
            Whether it was.
        """
        loop = asyncio.get_running_loop()
        found = self._open.get(loop)
        if found is None or (storage is not None and found is not storage):
            return False
        del self._open[loop]
        await found.close()
        return True

    def __del__(self) -> None:
        for storage in self._open.values():
            storage.close_at_once()

    def _windows(self, storage: SharedStorage) -> Windows:
        if isinstance(storage, MemcachedStorage):
            on_memcached = SlidingOnMemcached if self._sliding else FixedOnMemcached
            return on_memcached(storage, self._limit, self._window)
        on_redis = SlidingOnRedis if self._sliding else FixedOnRedis
        return on_redis(storage, self._limit, self._window)


async def _kept_open(url: Secret[str]) -> AsyncGenerator[SharedStorage]:
    """A storage that is closed when this ends.

    An event loop that is shut down ends all generators that were begun in it, so connections
    never outlive theirs.
    """
    storage = open_storage(url)
    try:
        yield storage
    finally:
        await close_storage(storage)

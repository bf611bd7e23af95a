"""A database that is asked in whole transactions, one writer at a time, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError, NoSuchModuleError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ....seconds import check_seconds
from ....secret import Secret, has_password, redact
from ..protocol import BadRecord, Conflict, StoreError, UnknownAlert
from .address import EXAMPLES, backend
from .advice import advice
from .blame import is_of_data
from .dialects import Dialect, dialects
from .schema import make_tables

_Answer = TypeVar("_Answer")
_CONNECTIONS = 3  # in SQLite each is a thread
_PAUSE = 0.05  # seconds


class Database:
    """A database of which the tables are made when it is first asked.

    Args:
        url: Where it is.
        timeout: Seconds that a transaction may take.

    Raises:
        ValueError: `url` is not one that can be used, `timeout` is not above 0, or a package that
            it needs is missing.
    """

    def __init__(self, url: Secret[str], *, timeout: float) -> None:
        check_seconds("timeout", timeout)
        # SQLite is to say that another process writes before the deadline says less.
        kinds = dialects(timeout / 2)
        self.dialect: Dialect = kinds[backend(url, kinds)]
        self.place = str(url)
        self._url = url
        self._timeout = timeout
        self._engine = self._new_engine()
        self._lock = asyncio.Lock()
        self._opened = False
        self._made = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[_Answer]]) -> _Answer:
        """What `work` finds, all of it as of one moment."""
        return await self._whole(lambda: self._read(work))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[_Answer]]) -> _Answer:
        """Have all that `work` does, or nothing of it; also where the caller is cancelled."""
        return await self._whole(lambda: self._write(work))

    async def aclose(self) -> None:
        """Close the connections, after what is being done; they are opened again when needed."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout)
        if self._opened:
            await self._whole(self._engine.dispose)
            self._opened = self._made = False
            self._lock = asyncio.Lock()  # which belongs to one event loop

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[_Answer]]) -> _Answer:
        if not self._made:
            async with self._lock:
                await self._make()
        return await self._transaction(self.dialect.read, work)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[_Answer]]) -> _Answer:
        async with self._lock:
            await self._make()
            return await self._transaction(self.dialect.write, work)

    async def _make(self) -> None:
        if not self._made:
            try:
                await self._prepare()
            except StoreError:
                # A thread of SQLite's driver may be about to end, and needs the event loop for it.
                await asyncio.sleep(_PAUSE)
                raise
            await self._transaction(self.dialect.write, make_tables)
            self._made = True

    async def _prepare(self) -> None:
        while True:
            try:
                return await self._transaction(self.dialect.first, _nothing)
            except StoreError as error:
                # Of two processes that make a SQLite file at once, one is not made to wait.
                if "database is locked" not in str(error):
                    raise
            await asyncio.sleep(_PAUSE)

    async def _transaction(
        self, begin: str, work: Callable[[AsyncConnection], Awaitable[_Answer]]
    ) -> _Answer:
        try:
            async with self._engine.connect() as connection, connection.begin():
                await connection.exec_driver_sql(begin)
                return await work(connection)
        except (Conflict, StoreError, UnknownAlert):
            raise
        except Exception as error:  # noqa: BLE001 - whichever driver's it is
            # Its own text and its causes may hold the password.
            raise self._failure(error) from (None if has_password(self._url) else error)

    async def _whole(self, work: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """What `work` gives, within the deadline; a caller that is cancelled leaves it to end."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "SQLAlertStore runs on asyncio only, as SQLAlchemy does: on trio use "
                "MemoryAlertStore"
            ) from None
        self._opened = True
        task = loop.create_task(self._ending(work))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # Who waits is answered in time, also while a connection that is lost is being closed.
        done, _ = await asyncio.wait({task}, timeout=self._timeout)
        return task.result() if done else self._give_up()

    async def _ending(self, work: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """What `work` gives; at the deadline it ends, whether anyone still waits for it or not."""
        try:
            async with asyncio.timeout(self._timeout):
                return await work()
        except TimeoutError:
            self._give_up()

    def _give_up(self) -> NoReturn:
        raise StoreError(f"{self.place} gave no answer for {self._timeout:g} seconds")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio would log it where nobody waits any more

    def _failure(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        text = redact(str(cause), self._url)
        kind = BadRecord if is_of_data(error) else StoreError
        return kind(f"{self.place}: {type(cause).__name__}: {text}{advice(text)}")

    def _new_engine(self) -> AsyncEngine:
        try:
            engine = create_async_engine(
                self._url.reveal(),
                connect_args=self.dialect.connect_arguments,
                hide_parameters=True,  # an error's text is to hold no alerts
                pool_size=_CONNECTIONS,
                max_overflow=0,
                pool_timeout=self._timeout,
                pool_pre_ping=True,
            )
        except (InvalidRequestError, NoSuchModuleError):
            raise ValueError(
                f"url must name an asynchronous driver, as in {EXAMPLES}, got {self.place!r}"
            ) from None
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self.place!r} needs the package {error.name}: pip install {error.name}"
            ) from error
        for sentence in self.dialect.on_connect:
            event.listen(engine.sync_engine, "connect", partial(_say, sentence))
        return engine


def _say(sentence: str, connection: Any, _record: object) -> None:
    connection.cursor().execute(sentence)


async def _nothing(_: AsyncConnection) -> None:
    """A transaction of which the beginning is all."""

"""A database that is asked in whole transactions, one writer at a time, each within a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from functools import partial
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    IntegrityError,
    InvalidRequestError,
    NoSuchModuleError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ....secret import Secret, has_password, redact
from ....validation import check_seconds
from ..protocol import BadRecord, Conflict, StoreError, UnknownAlert
from .schema import DatabaseDialect, dialects, make_tables

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
        self.dialect: DatabaseDialect = kinds[backend(url, kinds)]
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
        kind = BadRecord if is_data_error(error) else StoreError
        return kind(f"{self.place}: {type(cause).__name__}: {text}{hint(text)}")

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
            event.listen(engine.sync_engine, "connect", partial(_execute, sentence))
        return engine


def _execute(sentence: str, connection: Any, _record: object) -> None:
    connection.cursor().execute(sentence)


async def _nothing(_: AsyncConnection) -> None:
    """A transaction of which the beginning is all."""


EXAMPLES = "'sqlite+aiosqlite:///alerts.db' or 'postgresql+asyncpg://user:password@host/name'"


def backend(url: Secret[str], kinds: Container[str]) -> str:
    """Return the kind of the database at `url`.

    Args:
        url: As it is given.
        kinds: The kinds of databases that can be used, by name.

    Raises:
        ValueError: It is not the URL of a database that can be used. What cannot be parsed is not
            quoted, because any part of it may be a password.
    """
    try:
        parsed = make_url(url.reveal())
    except (ArgumentError, ValueError, TypeError, AttributeError):
        raise ValueError(f"url must be that of a database, such as {EXAMPLES}") from None
    kind = parsed.get_backend_name()
    if kind not in kinds:
        raise ValueError(f"url must be like {EXAMPLES}, got one of {kind!r}")
    if kind == "sqlite" and _in_memory(parsed):
        raise ValueError(
            f"url must name a file, as in {EXAMPLES}, got {url!r}: "
            "for a store in memory use MemoryAlertStore"
        )
    return kind


def _in_memory(url: URL) -> bool:
    name = url.database or ":memory:"
    return ":memory:" in name or url.query.get("mode") == "memory"


_HINTS = {
    "unable to open database file": "its folder must exist, and this process must be able to "
    "write to it",
    "readonly database": "this process must be able to write to the file and to its folder",
    "not a database": "the file is damaged or something else: restore it, or move it away and "
    "begin with a new one",
    "malformed": "the file is damaged: restore it, or move it away and begin with a new one",
    "database is locked": "another process holds it: wait, or let each process have its own",
    "disk is full": "make room on the disk",
    "disk i/o error": "look whether the disk is full, or broken",
}


def hint(message: str) -> str:
    """What to do about an error of which `message` is the text, as the end of a sentence."""
    for part, cure in _HINTS.items():
        if part in message.lower():
            return f" ({cure})"
    return ""


# Classes of SQLSTATE: values that are none, constraints, and what is too large for the database.
_OF_DATA = ("22", "23", "54")


def is_data_error(error: Exception) -> bool:
    """Whether it is of what was to be written: then it comes again however often it is tried."""
    if not isinstance(error, StatementError):
        return False
    if isinstance(error, DataError | IntegrityError):
        return True
    # PostgreSQL says more than a class of errors; a value of the wrong type no driver is told of.
    state = str(getattr(error.orig, "sqlstate", None))
    return state.startswith(_OF_DATA) or isinstance(error.orig, TypeError | ValueError)

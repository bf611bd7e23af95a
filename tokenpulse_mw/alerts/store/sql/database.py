"""Database that runs whole transactions, each with a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sqlalchemy import URL, event
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ....filesystem import network_file_system
from ....secret import Secret, has_password, redact
from ....validation import check_seconds
from ..protocol import BadRecord, Conflict, Fenced, StoreError, UnknownAlert
from .schema import DatabaseDialect, create_tables, dialects
from .url import driver_arguments, parse_url, sqlite_file

_Result = TypeVar("_Result")

_MAX_CONNECTIONS = 2  # a reader and a writer; each is a thread in SQLite
_RETRY_SECONDS = 0.05


class Database:
    """Database whose tables are created before the first transaction.

    Args:
        url: URL of the database.
        timeout: Timeout of a transaction in seconds.
        wall: Returns seconds since the epoch; None for the clock of the database.

    Attributes:
        dialect: Dialect of the database.
        location: The URL without its secrets.

    Raises:
        ValueError: `url` or `timeout` is invalid, or a package is missing.
    """

    def __init__(
        self, url: Secret[str], *, timeout: float, wall: Callable[[], float] | None
    ) -> None:
        check_seconds("timeout", timeout)
        parsed = parse_url(url)
        name = parsed.get_backend_name()
        self.dialect: DatabaseDialect = dialects(timeout, wall)[name]
        self._file = sqlite_file(parsed) if name == "sqlite" else None
        self.location = str(url)
        self._url = url
        self._timeout = timeout
        self._engine = self._new_engine(parsed)
        self._lock = asyncio.Lock()
        self._is_used = False
        self._has_tables = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        """Run `work` on a snapshot of the database and return its result."""
        return await self._run(lambda: self._read(work))

    async def write(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        """Run `work` in a transaction: commit all its changes or none, even if cancelled.

        The transactions of one process run one after another.
        """
        return await self._run(lambda: self._write(work))

    async def aclose(self) -> None:
        """Wait for running transactions and close the connections."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._timeout)
        if self._is_used:
            await self._run(self._engine.dispose)
            self._is_used = self._has_tables = False
            self._lock = asyncio.Lock()  # a lock belongs to one event loop

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        if not self._has_tables:
            async with self._lock:
                await self._create_tables()
        return await self._transaction(self.dialect.begin_read, work)

    async def _write(self, work: Callable[[AsyncConnection], Awaitable[_Result]]) -> _Result:
        async with self._lock:
            await self._create_tables()
            return await self._transaction(self.dialect.begin_write, work)

    async def _create_tables(self) -> None:
        if not self._has_tables:
            if self._file is not None:
                await asyncio.to_thread(_check_is_local, self._file)
            try:
                await self._prepare()
            except StoreError:
                # A thread of SQLite's driver may be ending, which needs the event loop.
                await asyncio.sleep(_RETRY_SECONDS)
                raise
            await self._transaction(
                self.dialect.begin_create,
                lambda connection: create_tables(connection, self.dialect.now),
            )
            self._has_tables = True

    async def _prepare(self) -> None:
        while True:
            try:
                return await self._transaction(self.dialect.prepare, _do_nothing)
            except StoreError as error:
                # If two processes create a SQLite file at once, SQLite does not wait for the lock.
                if "database is locked" not in str(error):
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    async def _transaction(
        self, begin: str, work: Callable[[AsyncConnection], Awaitable[_Result]]
    ) -> _Result:
        try:
            async with self._engine.connect() as connection, connection.begin():
                await connection.exec_driver_sql(begin)
                return await work(connection)
        except (Conflict, Fenced, StoreError, UnknownAlert):
            raise
        except Exception as error:  # noqa: BLE001 - each driver has its own errors
            # The texts of the error and its causes may contain the password.
            raise self._failure(error) from (None if has_password(self._url) else error)

    async def _run(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """Run `work` within the timeout; if the caller is cancelled, it still runs to its end."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError(
                "SQLAlertStore runs on asyncio only, as SQLAlchemy does: on trio use "
                "MemoryAlertStore"
            ) from None
        self._is_used = True
        task = loop.create_task(self._with_timeout(work))
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        # The caller returns in time even if closing a lost connection takes longer.
        done, _ = await asyncio.wait({task}, timeout=self._timeout)
        return task.result() if done else self._raise_timeout()

    async def _with_timeout(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        """Return the result of `work`; it ends at the timeout, also without a caller."""
        try:
            async with asyncio.timeout(self._timeout):
                return await work()
        except TimeoutError:
            self._raise_timeout()

    def _raise_timeout(self) -> NoReturn:
        raise StoreError(f"{self.location} did not respond within {self._timeout:g} seconds")

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it after a timeout

    def _failure(self, error: Exception) -> StoreError:
        cause = getattr(error, "orig", None) or error
        text = redact(str(cause), self._url)
        kind = BadRecord if _is_data_error(error) else StoreError
        return kind(f"{self.location}: {type(cause).__name__}: {text}{_hint(text)}")

    def _new_engine(self, parsed: URL) -> AsyncEngine:
        url, arguments = driver_arguments(parsed)
        try:
            engine = create_async_engine(
                url,
                connect_args={**self.dialect.connect_arguments, **arguments},
                hide_parameters=True,  # errors must not show alerts
                pool_size=_MAX_CONNECTIONS,
                max_overflow=0,
                pool_timeout=self._timeout,
                pool_pre_ping=True,
            )
        except (ArgumentError, ValueError) as error:
            reason = redact(str(error).partition("\n")[0], self._url)
            raise ValueError(
                f"url must have valid hosts, ports and options, got {self.location!r}: {reason}"
            ) from None
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{self.location!r} needs the package {error.name}: pip install {error.name}"
            ) from error
        for statement in self.dialect.on_connect:
            event.listen(engine.sync_engine, "connect", partial(_execute, statement))
        return engine


def _execute(statement: str, connection: Any, _record: object) -> None:
    connection.cursor().execute(statement)


async def _do_nothing(_: AsyncConnection) -> None:
    """Do nothing: the first statement of the transaction is all it needs."""


_HINTS = {
    "unable to open database file": "create its folder, and allow this process to write to it",
    "readonly database": "allow this process to write to the file and to its folder",
    "not a database": "the file is damaged or not a database: restore it, or move it away to start "
    "with a new one",
    "malformed": "the file is damaged: restore it, or move it away to start with a new one",
    "database is locked": "another process holds the lock: if it is stopped, resume or end it",
    "lock timeout": "another process holds the lock: if it is stopped, the server ends its "
    "transaction soon",
    "disk is full": "free space on the disk",
    "disk i/o error": "check if the disk is full or broken",
    "root certificate": "add sslrootcert=system to the URL, or the path of a file",
}


def _hint(message: str) -> str:
    """Return how to fix the error with this message, in parentheses; empty if unknown."""
    for part, fix in _HINTS.items():
        if part in message.lower():
            return f" ({fix})"
    return ""


# Classes of SQLSTATE: data exceptions, constraint violations, exceeded limits of the database.
_DATA_ERROR_CLASSES = ("22", "23", "54")


def _is_data_error(error: Exception) -> bool:
    """Return True if the written values caused the error, so that a retry cannot succeed."""
    if not isinstance(error, StatementError):
        return False
    if isinstance(error, DataError | IntegrityError):
        return True
    # SQLAlchemy has no class for exceeded limits; a wrong type fails before the driver.
    state = str(getattr(error.orig, "sqlstate", None))
    return state.startswith(_DATA_ERROR_CLASSES) or isinstance(error.orig, TypeError | ValueError)


def _check_is_local(file: Path) -> None:
    """Raise StoreError if a SQLite file is on a network file system, as far as that is known."""
    kind = network_file_system(file)
    if kind is not None:
        raise StoreError(
            f"a SQLite file must be on a local disk, got {str(file)!r} on {kind!r}: use a "
            "local path, or PostgreSQL if several machines share the store"
        )

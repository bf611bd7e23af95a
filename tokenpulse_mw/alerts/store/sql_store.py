"""A store in a database, which survives a restart and a kill."""

from __future__ import annotations

import time
from collections.abc import Callable

from ...secret import Secret, hide_arguments, hide_url
from .paging import check_filters, from_cursor, page
from .protocol import Changes, EngineState, Page, check_history, check_limit
from .records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Json,
    Severity,
    Silence,
    State,
    ThresholdsVersion,
    TransitionRecord,
    check_finite,
    json_copy,
)


class SQLAlertStore:
    """An `AlertStore` in SQLite, or in PostgreSQL: nothing that it has kept is lost by a kill.

    It needs the extra `sql`, and for PostgreSQL a driver such as `asyncpg`. The tables are made
    when it is first asked. It runs on asyncio only, and belongs to the event loop that first asks
    it, until it is closed. Other processes may use the same database: what one does is there for
    all. A SQLite file must lie on a disk of this machine.

    Args:
        url: Of the database, as SQLAlchemy writes it.
        timeout: Seconds that a call may take; then it raises, and may have happened or not.
        max_history: Resolved alerts, dead letters and versions of thresholds that are kept, each.
        wall: Seconds since the epoch, for which silences have ended when it is loaded.

    Raises:
        ValueError: `url` is none that can be used, `timeout` or `max_history` is too small, or a
            package is missing; the message says how to install it.
        StoreError: By every method, when the database fails; a `BadRecord` where the fault is of
            what was to be kept. No part of `url` that is secret is in it.
        RuntimeError: By every method, where the event loop is not asyncio's.
    """

    @hide_arguments
    def __init__(
        self,
        url: str | Secret[str] = "sqlite+aiosqlite:///alerts.db",
        *,
        timeout: float = 10,
        max_history: int = 10_000,
        wall: Callable[[], float] = time.time,
    ) -> None:
        url = hide_url(url)
        check_history(max_history)
        try:
            from .sql.database import Database
            from .sql.queries import Queries
        except ModuleNotFoundError as error:
            raise ValueError(
                f"SQLAlertStore needs the package {error.name}: pip install 'tokenpulse-mw[sql]'"
            ) from error
        self._database = Database(url, timeout=timeout)
        self._work = Queries(self._database.dialect, max_history)
        self._wall = wall

    def __repr__(self) -> str:
        return f"SQLAlertStore({self._database.place!r})"

    async def load(self) -> EngineState:
        """What an engine goes on with."""
        now = self._wall()
        return await self._database.read(lambda connection: self._work.load(connection, now))

    async def commit(self, changes: Changes) -> str | None:
        """Keep what has changed, all of it or nothing, and give the engine of the round before."""
        rows = await self._work.rows(changes)
        return await self._database.write(
            lambda connection: self._work.commit(connection, rows, changes)
        )

    async def delivered(self, notification_id: str) -> None:
        """Forget a notification that was taken."""
        await self._database.write(
            lambda connection: self._work.delivered(connection, notification_id)
        )

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str
    ) -> None:
        """Note that a sink did not take a notification, and when it is asked again."""
        check_finite("due_at", due_at)
        values = {"attempts": attempts, "due_at": due_at, "last_error": error}
        await self._database.write(
            lambda connection: self._work.postponed(connection, notification_id, values)
        )

    async def dead(self, notification_id: str, at: float, error: str) -> None:
        """Give a notification up."""
        check_finite("at", at)
        await self._database.write(
            lambda connection: self._work.dead(connection, notification_id, at, error)
        )

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """What was given up, the newest first."""
        check_limit(limit)
        return await self._database.read(
            lambda connection: self._work.dead_letters(connection, limit)
        )

    async def acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        """Note who has seen an alert, or with None that nobody has."""
        return await self._database.write(
            lambda connection: self._work.acknowledge(connection, alert_id, ack)
        )

    async def set_thresholds(
        self, values: Json, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Make a new version of the thresholds, out of the version `expected`."""
        wanted = ThresholdsVersion(0, json_copy("values", values), at, by)
        return await self._database.write(
            lambda connection: self._work.set_thresholds(connection, wanted, expected)
        )

    async def history(self, limit: int) -> tuple[ThresholdsVersion, ...]:
        """The thresholds that were set, the newest first."""
        check_limit(limit)
        return await self._database.read(lambda connection: self._work.history(connection, limit))

    async def add_silence(self, silence: Silence) -> None:
        """Keep a silence, in place of one of the same id."""
        await self._database.write(lambda connection: self._work.add_silence(connection, silence))

    async def remove_silence(self, silence_id: str) -> bool:
        """Forget a silence, and say whether there was one."""
        return await self._database.write(
            lambda connection: self._work.remove_silence(connection, silence_id)
        )

    async def silences(self, now: float) -> tuple[Silence, ...]:
        """Silences that end after `now`, by their start."""
        return await self._database.read(lambda connection: self._work.silences(connection, now))

    async def alerts(
        self,
        *,
        state: State | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """A page of alerts, the newest first."""
        check_filters(state, severity, limit)
        after = None if cursor is None else from_cursor(cursor)
        wanted = {"state": state, "severity": severity, "type": type, "subject": subject}
        found = await self._database.read(
            lambda connection: self._work.newest(connection, wanted, after, limit + 1)
        )
        return page(found, limit)

    async def alert(self, alert_id: str) -> AlertRecord | None:
        """One alert, or None."""
        return await self._database.read(lambda connection: self._work.alert(connection, alert_id))

    async def transitions(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """What has happened to an alert, the oldest first."""
        return await self._database.read(
            lambda connection: self._work.transitions(connection, alert_id)
        )

    async def prune(self, before: float) -> None:
        """Forget what was over before `before`."""
        await self._database.write(lambda connection: self._work.prune(connection, before))

    async def aclose(self) -> None:
        """Close the connections; they are opened again when it is asked again."""
        await self._database.aclose()

"""Alert store in SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

from ....secret import Secret, hide_arguments, hide_url
from ....validation import check_integer
from ...steps import batches, in_steps, mapped
from ..paging import accepted_values, from_cursor, page
from ..protocol import Changes, Conflict, EngineState, Page, UnknownAlert, check_limit
from ..records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Json,
    Severity,
    Silence,
    StateFilter,
    ThresholdsVersion,
    TransitionRecord,
    check_finite,
    json_copy,
)
from .rows import (
    Row,
    Values,
    ack_text,
    alert_of,
    alert_values,
    dead_letter_of,
    notification_of,
    notification_values,
    silence_of,
    silence_values,
    thresholds_of,
    thresholds_values,
    transition_of,
    transition_values,
)

_Record = TypeVar("_Record")

# SQLAlchemy is an extra, imported when a store is created; this is its `AsyncConnection`.
_Connection = Any


class SQLAlertStore:
    """`AlertStore` in SQLite or PostgreSQL; stored data survives a crash of the process.

    It needs the extra `sql`, and for PostgreSQL a driver such as `asyncpg`. The first call creates
    the tables. It runs on asyncio only, and until it is closed only in the event loop of the first
    call. Several processes may share a database. A SQLite file must be on a local disk.

    Args:
        url: URL of the database, as SQLAlchemy or a vendor of PostgreSQL writes it; that of a
            pooler in transaction mode, such as PgBouncer, is supported.
        timeout: Timeout of each call in seconds; a call that times out may have taken effect.
        max_history: Maximum number of resolved alerts, of dead letters, and of versions of
            thresholds.
        wall: Returns seconds since the epoch; `load` omits silences that have ended.

    Raises:
        ValueError: `url`, `timeout` or `max_history` is invalid, or a package is missing; the
            message names the command that installs it.
        StoreError: Raised by all methods if the database fails; `BadRecord` if a value cannot be
            stored. Secrets of `url` are redacted.
        RuntimeError: Raised by all methods if the event loop is not asyncio's.
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
        self._max_history = check_integer("max_history", max_history)
        try:
            from .database import Database
            from .statements import Statements
        except ModuleNotFoundError as error:
            raise ValueError(
                f"SQLAlertStore needs the package {error.name}: pip install 'tokenpulse-mw[sql]'"
            ) from error
        self._database = Database(url, timeout=timeout)
        self._sql = Statements(self._database.dialect)
        self._wall = wall

    def __repr__(self) -> str:
        return f"SQLAlertStore({self._database.location!r})"

    async def load(self) -> EngineState:
        """Return the state from which an engine continues."""
        now = self._wall()

        async def read(connection: _Connection) -> EngineState:
            alerts = await _fetch(connection, alert_of, self._sql.open_alerts)
            silences = await _fetch(connection, silence_of, self._sql.lasting_silences, now=now)
            newest = await _fetch(connection, thresholds_of, self._sql.newest_thresholds, limit=1)
            waiting = await _fetch(connection, notification_of, self._sql.waiting)
            return EngineState(
                tuple(alerts), tuple(silences), newest[0] if newest else None, tuple(waiting)
            )

        return await self._database.read(read)

    async def commit(self, changes: Changes) -> str | None:
        """Store the changes and return the engine that stored the previous evaluation."""
        alerts = await in_steps(mapped(alert_values, changes.alerts))
        transitions = await in_steps(mapped(transition_values, changes.transitions))
        notifications = await in_steps(mapped(notification_values, changes.notifications))
        changed = dict.fromkeys(row["alert_id"] for row in transitions)
        new = {row["id"] for row in alerts}
        elsewhere = [alert_id for alert_id in changed if alert_id not in new]

        async def write(connection: _Connection) -> str | None:
            sql = self._sql
            await _check_stored(connection, sql.stored_ids, elsewhere)
            await _execute_many(connection, sql.put_alert, alerts)
            await _execute_many(connection, sql.add_transition, transitions)
            trimmed = ({"alert_id": alert_id} for alert_id in changed)
            await _execute_many(connection, sql.trim_transitions, trimmed)
            await _execute_many(connection, sql.add_notification, notifications)
            forgotten = ({"alert_id": alert_id} for alert_id in changes.forgotten)
            await _execute_many(connection, sql.delete_alert, forgotten)
            if any(row["state"] == "resolved" for row in alerts):
                await connection.execute(sql.trim_alerts, {"max_history": self._max_history})
            previous: str | None = await connection.scalar(sql.engine)
            if changes.engine not in ("", previous):
                await connection.execute(sql.put_engine, {"id": 1, "engine": changes.engine})
            return previous

        return await self._database.write(write)

    async def delivered(self, notification_id: str) -> None:
        """Delete a delivered notification or dead letter."""
        await self._execute(
            (self._sql.delete_notification, {"notification_id": notification_id}),
        )

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str
    ) -> None:
        """Record a failed attempt of a notification and the time of the next one."""
        check_finite("due_at", due_at)
        values = {"attempts": attempts, "due_at": due_at, "last_error": error}
        await self._execute(
            (self._sql.update_waiting, {"notification_id": notification_id, **values})
        )

    async def dead(self, notification_id: str, at: float, error: str) -> None:
        """Turn a notification into a dead letter."""
        check_finite("at", at)
        values = {"dead_at": at, "last_error": error}
        await self._execute(
            (self._sql.update_waiting, {"notification_id": notification_id, **values}),
            (self._sql.trim_dead, {"max_history": self._max_history}),
        )

    async def dead_letters(self, limit: int) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, the newest first."""
        check_limit(limit)
        return tuple(await self._select(dead_letter_of, self._sql.newest_dead, limit=limit))

    async def acknowledge(self, alert_id: str, ack: Ack | None) -> AlertRecord | None:
        """Set the acknowledgement of an alert, or remove it with None."""
        values = {"alert_id": alert_id, "ack": ack_text(ack)}

        async def write(connection: _Connection) -> AlertRecord | None:
            await connection.execute(self._sql.set_ack, values)
            alerts = await _fetch(connection, alert_of, self._sql.alert, alert_id=alert_id)
            return alerts[0] if alerts else None

        return await self._database.write(write)

    async def set_thresholds(
        self, values: Json, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Store a new version of the thresholds, made from the version `expected`."""
        new = ThresholdsVersion(0, json_copy("values", values), at, by)

        async def write(connection: _Connection) -> ThresholdsVersion:
            sql = self._sql
            current: int | None = await connection.scalar(sql.current_version)
            if current != expected:
                raise Conflict(current)
            version = replace(new, version=(current or 0) + 1)
            await connection.execute(sql.add_thresholds, thresholds_values(version))
            trimmed = {"last": version.version - self._max_history}
            await connection.execute(sql.trim_thresholds, trimmed)
            return (await _fetch(connection, thresholds_of, sql.newest_thresholds, limit=1))[0]

        return await self._database.write(write)

    async def history(self, limit: int) -> tuple[ThresholdsVersion, ...]:
        """Return the newest thresholds, the newest first."""
        check_limit(limit)
        return tuple(await self._select(thresholds_of, self._sql.newest_thresholds, limit=limit))

    async def add_silence(self, silence: Silence) -> None:
        """Store a silence; it replaces one of the same id."""
        await self._execute(
            (self._sql.delete_silence, {"silence_id": silence.id}),
            (self._sql.add_silence, silence_values(silence)),
        )

    async def remove_silence(self, silence_id: str) -> bool:
        """Delete a silence; return False if it is unknown."""
        return await self._execute((self._sql.delete_silence, {"silence_id": silence_id})) > 0

    async def silences(self, now: float) -> tuple[Silence, ...]:
        """Return the silences that end after `now`, by start."""
        return tuple(await self._select(silence_of, self._sql.lasting_silences, now=now))

    async def alerts(
        self,
        *,
        state: StateFilter | None = None,
        severity: Severity | None = None,
        type: str | None = None,
        subject: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return a page of alerts, the newest first."""
        check_limit(limit)
        after = None if cursor is None else from_cursor(cursor)
        accepted = accepted_values(state, severity, type, subject)
        query = self._sql.page(accepted, after, limit + 1)
        return page(await self._select(alert_of, query), limit)

    async def alert(self, alert_id: str) -> AlertRecord | None:
        """Return an alert, or None if it is unknown."""
        alerts = await self._select(alert_of, self._sql.alert, alert_id=alert_id)
        return alerts[0] if alerts else None

    async def transitions(self, alert_id: str) -> tuple[TransitionRecord, ...]:
        """Return the transitions of an alert, the oldest first."""
        return tuple(
            await self._select(transition_of, self._sql.transitions_of_alert, alert_id=alert_id)
        )

    async def prune(self, before: float) -> None:
        """Delete resolved alerts, dead letters and silences that ended before `before`."""
        statements = (self._sql.prune_alerts, self._sql.prune_dead, self._sql.prune_silences)
        await self._execute(*((statement, {"before": before}) for statement in statements))

    async def aclose(self) -> None:
        """Close the connections; the next call opens them again."""
        await self._database.aclose()

    async def _select(
        self, convert: Callable[[Row], _Record], query: Any, **values: Any
    ) -> list[_Record]:
        """Return the records of a query."""
        return await self._database.read(
            lambda connection: _fetch(connection, convert, query, **values)
        )

    async def _execute(self, *statements: tuple[Any, Values]) -> int:
        """Execute statements in one transaction; return the number of rows the last one changed."""

        async def write(connection: _Connection) -> int:
            changed = 0
            for statement, values in statements:
                changed = (await connection.execute(statement, values)).rowcount
            return changed

        return await self._database.write(write)


async def _fetch(
    connection: _Connection, convert: Callable[[Row], _Record], query: Any, **values: Any
) -> list[_Record]:
    """Return the records of a query."""
    result = await connection.execute(query, values)
    return await in_steps(mapped(convert, result.mappings()))


async def _execute_many(connection: _Connection, statement: Any, rows: Iterable[Values]) -> None:
    """Execute a statement for each of `rows`."""
    for batch in batches(rows):
        await connection.execute(statement, batch)


async def _check_stored(connection: _Connection, query: Any, alert_ids: Iterable[str]) -> None:
    """Raise UnknownAlert if an alert is not stored."""
    for batch in batches(alert_ids):
        stored = set(await connection.scalars(query, {"alert_ids": batch}))
        for alert_id in batch:
            if alert_id not in stored:
                raise UnknownAlert(alert_id)

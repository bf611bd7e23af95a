"""Alert store in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ....secret import Secret, hide_arguments, hide_url
from ....validation import check_integer
from ...steps import batches as in_batches
from ...steps import in_steps, mapped
from ..limits import LimitWindow, LimitWindows
from ..paging import accepted_values, from_cursor, page
from ..protocol import (
    Changes,
    Conflict,
    EngineState,
    Fenced,
    FleetState,
    Leader,
    LeaderState,
    LeaseRequest,
    Page,
    SamplePage,
    UnknownAlert,
    check_limit,
)
from ..records import (
    Ack,
    AlertRecord,
    Batch,
    DeadLetter,
    Json,
    Process,
    Severity,
    Silence,
    StateFilter,
    ThresholdsVersion,
    TransitionRecord,
    check_finite,
    json_copy,
    json_text,
)
from ..usage import UsageQuery, UsageRecord, UsageRevision
from .rows import (
    Connection,
    Row,
    Values,
    ack_text,
    alert_of,
    alert_values,
    dead_letter_of,
    execute_many,
    fetch,
    notification_of,
    notification_values,
    queue_length_of,
    setting_of,
    silence_of,
    silence_values,
    thresholds_of,
    thresholds_values,
    transition_of,
    transition_values,
)

_Record = TypeVar("_Record")


class SQLAlertStore:
    """`AlertStore` in SQLite or PostgreSQL; stored data survives a crash of the process.

    It needs the extra `sql`, and for PostgreSQL a driver such as `asyncpg`. The first call creates
    the tables. It runs on asyncio only, and until it is closed only in the event loop of the first
    call. All processes that share a database are one fleet. A SQLite file must be on a local disk.

    Args:
        url: URL of the database, as SQLAlchemy or a vendor of PostgreSQL writes it; that of a
            pooler in transaction mode, such as PgBouncer, is supported.
        timeout: Timeout of each call in seconds; a call that times out may have taken effect.
        max_history: Maximum number of resolved alerts, of dead letters, and of versions of
            thresholds.
        usage_days: Days for which the usage of models is kept.
        wall: Returns seconds since the epoch; None for the clock of the database. `load` omits
            silences that have ended.

    Raises:
        ValueError: `url` or a number is invalid, or a package is missing; the
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
        usage_days: int = 400,
        wall: Callable[[], float] | None = None,
    ) -> None:
        url = hide_url(url)
        self._max_history = check_integer("max_history", max_history)
        self._usage_days = check_integer("usage_days", usage_days, maximum=36_500)
        try:
            from .database import Database
            from .fleet import Fleet
            from .limits import LimitsTable
            from .samples import SamplesTable
            from .statements import Statements
            from .usage import UsageTable
        except ModuleNotFoundError as error:
            raise ValueError(
                f"SQLAlertStore needs the package {error.name}: pip install 'tokenpulse-mw[sql]'"
            ) from error
        self._database = Database(url, timeout=timeout, wall=wall)
        self._sql = Statements(self._database.dialect)
        self._usage = UsageTable(self._database.dialect)
        self._limits = LimitsTable(self._database.dialect)
        self._samples = SamplesTable(self._database.dialect)
        self._fleet = Fleet(self._database.dialect, self._usage)

    def __repr__(self) -> str:
        return f"SQLAlertStore({self._database.location!r})"

    async def heartbeat(
        self,
        process: Process,
        /,
        *,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Store the traffic of a process, change the lease, and return the fleet."""
        return await self._database.write(
            lambda connection: self._fleet.heartbeat(connection, process, batches, through, lease)
        )

    async def take_over(self, leader: Leader, /) -> LeaderState:
        """Return the state from which a new leader continues, in one snapshot."""

        async def read(connection: Connection) -> LeaderState:
            fleet = await self._fleet.state(connection)
            if (fleet["epoch"], fleet["holder"]) != leader:
                raise Fenced
            return LeaderState(
                await self._state(connection, fleet["revision"]),
                tuple(await fetch(connection, notification_of, self._sql.waiting)),
                await self._fleet.windows(connection),
                await self._fleet.batches(connection, {}),
                fleet["evaluated_at"],
                fleet["complete_since"],
            )

        return await self._database.read(read)

    async def batches(self, after: Mapping[str, int], /) -> tuple[Batch, ...]:
        """Return the batches whose number is above that of their process in `after`."""
        return await self._database.read(lambda connection: self._fleet.batches(connection, after))

    async def load(self, known_revision: int | None = None, /) -> EngineState | None:
        """Return the state that all processes share; None if it has the known revision."""

        async def read(connection: Connection) -> EngineState | None:
            revision = await self._fleet.revision(connection)
            return None if revision == known_revision else await self._state(connection, revision)

        return await self._database.read(read)

    async def _state(self, connection: Connection, revision: int) -> EngineState:
        sql = self._sql
        newest = await fetch(connection, thresholds_of, sql.newest_thresholds, limit=1)
        return EngineState(
            revision,
            tuple(await fetch(connection, alert_of, sql.open_alerts)),
            tuple(await fetch(connection, silence_of, sql.current_silences)),
            newest[0] if newest else None,
            dict(await fetch(connection, setting_of, sql.settings)),
        )

    async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
        """Store the changes of an evaluation and return the new revision."""
        alerts = await in_steps(mapped(alert_values, changes.alerts))
        transitions = await in_steps(mapped(transition_values, changes.transitions))
        notifications = await in_steps(mapped(notification_values, changes.notifications))
        changed = dict.fromkeys(row["alert_id"] for row in transitions)
        new = {row["id"] for row in alerts}
        elsewhere = [alert_id for alert_id in changed if alert_id not in new]

        async def write(connection: Connection) -> int:
            sql = self._sql
            revision = await self._fleet.commit(connection, changes, leader)
            await _check_stored(connection, sql.stored_ids, elsewhere)
            await execute_many(connection, sql.put_alert, alerts)
            await execute_many(connection, sql.add_transition, transitions)
            trimmed = ({"alert_id": alert_id} for alert_id in changed)
            await execute_many(connection, sql.trim_transitions, trimmed)
            await execute_many(connection, sql.add_notification, notifications)
            forgotten = ({"alert_id": alert_id} for alert_id in changes.forgotten)
            await execute_many(connection, sql.delete_alert, forgotten)
            if any(row["state"] == "resolved" for row in alerts):
                await connection.execute(sql.trim_alerts, {"max_history": self._max_history})
            return revision

        return await self._database.write(write)

    async def claim(self, notification_id: str, /, *, leader: Leader) -> None:
        """Count an attempt of a notification before it is made; an unknown id is ignored."""

        async def write(connection: Connection) -> None:
            await self._fleet.lead(connection, leader)
            await connection.execute(self._sql.claim, {"notification_id": notification_id})

        await self._database.write(write)

    async def delivered(self, notification_id: str, /) -> None:
        """Delete a delivered notification or dead letter."""
        await self._execute(
            None, (self._sql.delete_notification, {"notification_id": notification_id})
        )

    async def postponed(
        self, notification_id: str, attempts: int, due_at: float, error: str, /
    ) -> None:
        """Record a failed attempt of a notification and the time of the next one."""
        check_finite("due_at", due_at)
        values = {"attempts": attempts, "due_at": due_at, "last_error": error}
        await self._execute(
            None, (self._sql.update_waiting, {"notification_id": notification_id, **values})
        )

    async def dead(self, notification_id: str, at: float, error: str, /) -> None:
        """Turn a notification into a dead letter."""
        check_finite("at", at)
        values = {"dead_at": at, "last_error": error}
        await self._execute(
            self._fleet.lock,
            (self._sql.update_waiting, {"notification_id": notification_id, **values}),
            (self._sql.trim_dead, {"max_history": self._max_history}),
        )

    async def dead_letters(self, limit: int, /) -> tuple[DeadLetter, ...]:
        """Return the newest dead letters, the newest first."""
        check_limit(limit)
        return tuple(await self._select(dead_letter_of, self._sql.newest_dead, limit=limit))

    async def queue_lengths(self) -> Mapping[str, int]:
        """Return the number of undelivered notifications by sink, without sinks that have none."""
        return dict(await self._select(queue_length_of, self._sql.queue_lengths))

    async def dead_letter_counts(self) -> Mapping[str, int]:
        """Return the number of dead letters by sink, without sinks that have none."""
        return dict(await self._select(queue_length_of, self._sql.dead_letter_counts))

    async def acknowledge(self, alert_id: str, ack: Ack | None, /) -> AlertRecord | None:
        """Set the acknowledgement of an alert, or remove it with None."""
        values = {"alert_id": alert_id, "ack": ack_text(ack)}

        async def write(connection: Connection) -> AlertRecord | None:
            await self._fleet.change(connection)
            await connection.execute(self._sql.set_ack, values)
            alerts = await fetch(connection, alert_of, self._sql.alert, alert_id=alert_id)
            return alerts[0] if alerts else None

        return await self._database.write(write)

    async def set_thresholds(
        self, values: Json, /, *, expected: int | None, by: str, at: float
    ) -> ThresholdsVersion:
        """Store a new version of the thresholds, made from the version `expected`."""
        new = ThresholdsVersion(0, json_copy("values", values), at, by)

        async def write(connection: Connection) -> ThresholdsVersion:
            sql = self._sql
            await self._fleet.change(connection)
            current: int | None = await connection.scalar(sql.current_version)
            if current != expected:
                raise Conflict(current)
            version = replace(new, version=(current or 0) + 1)
            await connection.execute(sql.add_thresholds, thresholds_values(version))
            trimmed = {"last": version.version - self._max_history}
            await connection.execute(sql.trim_thresholds, trimmed)
            return (await fetch(connection, thresholds_of, sql.newest_thresholds, limit=1))[0]

        return await self._database.write(write)

    async def history(self, limit: int, /) -> tuple[ThresholdsVersion, ...]:
        """Return the newest thresholds, the newest first."""
        check_limit(limit)
        return tuple(await self._select(thresholds_of, self._sql.newest_thresholds, limit=limit))

    async def add_silence(self, silence: Silence, /) -> None:
        """Store a silence; it replaces one of the same id."""
        await self._execute(
            self._fleet.change,
            (self._sql.delete_silence, {"silence_id": silence.id}),
            (self._sql.add_silence, silence_values(silence)),
        )

    async def remove_silence(self, silence_id: str, /) -> bool:
        """Delete a silence; return False if it is unknown."""
        deletion = self._sql.delete_silence, {"silence_id": silence_id}
        return await self._execute(self._fleet.change, deletion) > 0

    async def usage(self, query: UsageQuery, /) -> tuple[UsageRecord, ...]:
        """Return the usage of models by time and dimensions, in this order."""
        return await self._database.read(lambda connection: self._usage.read(connection, query))

    async def unexported_usage(self, before: int, limit: int, /) -> tuple[UsageRevision, ...]:
        """Return at most `limit` rows that have grown since their export, by hour and key."""
        return await self._database.read(
            lambda connection: self._usage.unexported(connection, before, limit)
        )

    async def confirm_export(self, revisions: Sequence[UsageRevision], /) -> None:
        """Record that revisions were exported; rows that have grown since are exported again."""
        await self._database.write(
            lambda connection: self._usage.confirm_export(connection, revisions)
        )

    async def save_windows(
        self,
        policy: str,
        process: str,
        windows: Sequence[LimitWindow],
        /,
        *,
        replaces: Sequence[str] = (),
    ) -> None:
        """Replace the stored windows of a limit of a process, and delete those it has loaded."""
        await self._database.write(
            lambda connection: self._limits.save(connection, policy, process, windows, replaces)
        )

    async def load_windows(self, policy: str, /) -> LimitWindows:
        """Return the windows of a limit that have not ended."""
        return await self._database.read(lambda connection: self._limits.load(connection, policy))

    async def watch_samples(self, seconds: float, /) -> None:
        """Request samples from all processes for some seconds; an earlier end has no effect."""
        check_finite("seconds", seconds)
        await self._database.write(lambda connection: self._samples.watch(connection, seconds))

    async def samples_watched(self) -> float:
        """Return the seconds for which samples are requested; 0 or less if they are not."""
        return await self._database.read(self._samples.watched)

    async def put_sample(self, process: str, number: int, payload: bytes, /) -> None:
        """Store a sample of a process, and delete its samples that are older than an hour."""
        await self._database.write(
            lambda connection: self._samples.put(connection, process, number, payload)
        )

    async def samples(self, after: float, limit: int, /) -> SamplePage:
        """Return the samples of the last hour that were stored after a time, the oldest first."""
        check_limit(limit)
        return await self._database.read(
            lambda connection: self._samples.read(connection, after, limit)
        )

    async def silences(self, now: float, /) -> tuple[Silence, ...]:
        """Return the silences that end after `now`, by start."""
        return tuple(await self._select(silence_of, self._sql.lasting_silences, now=now))

    async def set_setting(self, name: str, value: Any, /, *, by: str, at: float) -> None:
        """Store a named JSON value that all processes share."""
        check_finite("at", at)
        values = {"name": name, "value": json_text("value", value), "by": by, "at": at}
        await self._execute(self._fleet.change, (self._sql.put_setting, values))

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

    async def alert(self, alert_id: str, /) -> AlertRecord | None:
        """Return an alert, or None if it is unknown."""
        alerts = await self._select(alert_of, self._sql.alert, alert_id=alert_id)
        return alerts[0] if alerts else None

    async def transitions(self, alert_id: str, /) -> tuple[TransitionRecord, ...]:
        """Return the transitions of an alert, the oldest first."""
        return tuple(
            await self._select(transition_of, self._sql.transitions_of_alert, alert_id=alert_id)
        )

    async def prune(self, before: float, /) -> None:
        """Delete resolved alerts, dead letters and silences that ended before `before`."""
        statements = (self._sql.prune_alerts, self._sql.prune_dead, self._sql.prune_silences)

        async def begin(connection: Connection) -> None:
            await self._fleet.prune(connection)
            await self._usage.prune(connection, days=self._usage_days)
            await self._limits.prune(connection)
            await self._samples.prune(connection)

        await self._execute(begin, *((statement, {"before": before}) for statement in statements))

    async def aclose(self) -> None:
        """Close the connections; the next call opens them again."""
        await self._database.aclose()

    async def _select(
        self, convert: Callable[[Row], _Record], query: Any, **values: Any
    ) -> list[_Record]:
        """Return the records of a query."""
        return await self._database.read(
            lambda connection: fetch(connection, convert, query, **values)
        )

    async def _execute(
        self,
        begin: Callable[[Connection], Awaitable[None]] | None,
        *statements: tuple[Any, Values],
    ) -> int:
        """Execute statements in one transaction; return the number of rows the last one changed.

        Args:
            begin: Begins the transaction; None if a single row is written.
            *statements: The statements and their values.
        """

        async def write(connection: Connection) -> int:
            if begin is not None:
                await begin(connection)
            changed = 0
            for statement, values in statements:
                changed = (await connection.execute(statement, values)).rowcount
            return changed

        return await self._database.write(write)


async def _check_stored(connection: Connection, query: Any, alert_ids: Iterable[str]) -> None:
    """Raise UnknownAlert if an alert is not stored."""
    for batch in in_batches(alert_ids):
        stored = set(await connection.scalars(query, {"alert_ids": batch}))
        for alert_id in batch:
            if alert_id not in stored:
                raise UnknownAlert(alert_id)

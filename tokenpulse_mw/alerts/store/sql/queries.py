"""What a call of the store does, step by step, within one transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ...steps import batches, in_steps, mapped
from ..paging import Position
from ..protocol import MAX_TRANSITIONS, Changes, Conflict, EngineState, UnknownAlert
from ..records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Notification,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
)
from .rows import (
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
from .schema import (
    DatabaseDialect,
    alerts,
    engines,
    notifications,
    silences,
    thresholds,
    transitions,
)

Rows = tuple[list[Values], list[Values], list[Values]]


async def one_alert(connection: AsyncConnection, alert_id: str) -> AlertRecord | None:
    """One alert, or None."""
    row = (await connection.execute(select(alerts).where(alerts.c.id == alert_id))).first()
    return None if row is None else alert_of(row)


async def newest_alerts(
    connection: AsyncConnection, wanted: Mapping[str, Any], after: Position | None, limit: int
) -> list[AlertRecord]:
    """At most `limit` alerts that have what is wanted, the newest first, from a place on."""
    query = select(alerts)
    for name, value in wanted.items():
        if value is not None:
            query = query.where(alerts.c[name] == value)
    if after is not None:
        query = query.where(tuple_(alerts.c.started_at, alerts.c.id) < tuple(after))
    query = query.order_by(alerts.c.started_at.desc(), alerts.c.id.desc()).limit(limit)
    return await in_steps(mapped(alert_of, await connection.execute(query)))


async def transitions_of(
    connection: AsyncConnection, alert_id: str
) -> tuple[TransitionRecord, ...]:
    """What has happened to an alert, the oldest first."""
    query = select(transitions).where(transitions.c.alert_id == alert_id)
    return tuple(map(transition_of, await connection.execute(query.order_by(transitions.c.seq))))


async def remove_notification(connection: AsyncConnection, notification_id: str) -> None:
    """Forget one."""
    await connection.execute(delete(notifications).where(notifications.c.id == notification_id))


async def change_waiting(connection: AsyncConnection, notification_id: str, values: Values) -> None:
    """Give one that waits new values."""
    waiting = (notifications.c.id == notification_id, _DEAD.is_(None))
    await connection.execute(update(notifications).where(*waiting).values(**values))


async def newest_dead(connection: AsyncConnection, limit: int) -> tuple[DeadLetter, ...]:
    """Those that were given up, the newest first."""
    query = select(notifications).where(_DEAD.is_not(None)).order_by(*_NEWEST).limit(limit)
    return tuple(await in_steps(mapped(dead_letter_of, await connection.execute(query))))


async def remove_silence(connection: AsyncConnection, silence_id: str) -> bool:
    """Forget a silence, and say whether there was one."""
    gone = await connection.execute(delete(silences).where(silences.c.id == silence_id))
    return gone.rowcount > 0


async def lasting_silences(connection: AsyncConnection, now: float) -> tuple[Silence, ...]:
    """Silences that end after `now`, by their start."""
    query = select(silences).where(silences.c.ends_at > now)
    rows = await connection.execute(query.order_by(silences.c.starts_at, silences.c.id))
    return tuple(map(silence_of, rows))


async def newest_thresholds(
    connection: AsyncConnection, limit: int
) -> tuple[ThresholdsVersion, ...]:
    """The thresholds that were set, the newest first."""
    query = select(thresholds).order_by(thresholds.c.version.desc()).limit(limit)
    return tuple(map(thresholds_of, await connection.execute(query)))


class Queries:
    """All that a store asks of a database.

    Args:
        dialect: Of the database.
        most: Resolved alerts, dead letters and versions of thresholds that are kept, each.
    """

    def __init__(self, dialect: DatabaseDialect, most: int) -> None:
        self._dialect = dialect
        self._most = most

    delivered = staticmethod(remove_notification)
    postponed = staticmethod(change_waiting)
    dead_letters = staticmethod(newest_dead)
    history = staticmethod(newest_thresholds)
    remove_silence = staticmethod(remove_silence)
    silences = staticmethod(lasting_silences)
    alert = staticmethod(one_alert)
    newest = staticmethod(newest_alerts)
    transitions = staticmethod(transitions_of)

    @staticmethod
    async def rows(changes: Changes) -> Rows:
        """Return the alerts, transitions and notifications of `changes` as rows.

        Raises:
            ValueError: A finding or an event is not JSON.
        """
        return (
            await in_steps(mapped(alert_values, changes.alerts)),
            await in_steps(mapped(transition_values, changes.transitions)),
            await in_steps(mapped(notification_values, changes.notifications)),
        )

    async def load(self, connection: AsyncConnection, now: float) -> EngineState:
        """What an engine goes on with."""
        return EngineState(
            await open_alerts(connection),
            await lasting_silences(connection, now),
            next(iter(await newest_thresholds(connection, 1)), None),
            await waiting(connection),
        )

    async def commit(self, connection: AsyncConnection, rows: Rows, changes: Changes) -> str | None:
        """Keep what has changed, and give the engine of the round before."""
        put, happened, told = rows
        await put_alerts(connection, self._dialect, put)
        await add_transitions(connection, self._dialect, happened)
        await add_notifications(connection, self._dialect, told)
        await forget_alerts(connection, changes.forgotten)
        if any(row["state"] == "resolved" for row in put):
            await trim_alerts(connection, self._most)
        return await put_engine(connection, self._dialect, changes.engine)

    async def dead(
        self, connection: AsyncConnection, notification_id: str, at: float, error: str
    ) -> None:
        """Give a notification up."""
        values = {"dead_at": at, "last_error": error}
        await change_waiting(connection, notification_id, values)
        await trim_dead(connection, self._most)

    async def acknowledge(
        self, connection: AsyncConnection, alert_id: str, ack: Ack | None
    ) -> AlertRecord | None:
        """Note who has seen an alert."""
        await set_ack(connection, alert_id, ack_text(ack))
        return await one_alert(connection, alert_id)

    async def set_thresholds(
        self, connection: AsyncConnection, wanted: ThresholdsVersion, expected: int | None
    ) -> ThresholdsVersion:
        """Make `wanted` the version after `expected`."""
        return await add_thresholds(connection, wanted, expected, self._most)

    async def add_silence(self, connection: AsyncConnection, silence: Silence) -> None:
        """Keep a silence."""
        await put_silence(connection, silence_values(silence))

    async def prune(self, connection: AsyncConnection, before: float) -> None:
        """Forget what was over before `before`."""
        await prune_alerts(connection, before)
        await prune_dead(connection, before)
        await prune_silences(connection, before)


# Who has seen an alert is not for its round to say, for that has not heard of it yet.
_ROUND_CHANGES = [each.name for each in alerts.c if each.name not in ("id", "ack")]


_newer = (
    select(transitions.c.seq)
    .where(transitions.c.alert_id == bindparam("of"))
    .order_by(transitions.c.seq.desc())
    .offset(MAX_TRANSITIONS)
    .scalar_subquery()
)


_TRIM_TRANSITIONS = delete(transitions).where(transitions.c.seq.in_(_newer))


async def put_alerts(
    connection: AsyncConnection, dialect: DatabaseDialect, rows: list[Values]
) -> None:
    """Put alerts in place of those of the same id."""
    if rows:
        new = dialect.insert(alerts)
        changed = {name: new.excluded[name] for name in _ROUND_CHANGES}
        put = new.on_conflict_do_update(index_elements=["id"], set_=changed)
        for batch in batches(rows):
            await connection.execute(put, batch)


async def add_transitions(
    connection: AsyncConnection, dialect: DatabaseDialect, rows: list[Values]
) -> None:
    """Add transitions that are not there yet, and drop the oldest of their alerts."""
    if not rows:
        return
    try:
        add = dialect.insert(transitions).on_conflict_do_nothing()
        for batch in batches(rows):
            await connection.execute(add, batch)
    except IntegrityError:  # they have one other rule: their alert must be there
        of = sorted({row["alert_id"] for row in rows})
        raise UnknownAlert(f"not all alerts of {of} are kept: commit them as well") from None
    of = sorted({row["alert_id"] for row in rows})
    for ids in batches(of):
        await connection.execute(_TRIM_TRANSITIONS, [{"of": each} for each in ids])


async def forget_alerts(connection: AsyncConnection, alert_ids: Sequence[str]) -> None:
    """Remove alerts; their transitions go with them."""
    if alert_ids:
        gone = delete(alerts).where(alerts.c.id == bindparam("of"))
        for ids in batches(alert_ids):
            await connection.execute(gone, [{"of": each} for each in ids])


async def trim_alerts(connection: AsyncConnection, most: int) -> None:
    """Remove all but the newest `most` of the alerts that are over."""
    newest = (
        select(alerts.c.id)
        .where(alerts.c.state == "resolved")
        .order_by(alerts.c.resolved_at.desc(), alerts.c.id.desc())
        .offset(most)
    )
    await connection.execute(delete(alerts).where(alerts.c.id.in_(newest)))


async def prune_alerts(connection: AsyncConnection, before: float) -> None:
    """Remove alerts that were over before `before`."""
    over = (alerts.c.state == "resolved", alerts.c.resolved_at < before)
    await connection.execute(delete(alerts).where(*over))


async def set_ack(connection: AsyncConnection, alert_id: str, ack: str | None) -> None:
    """Note who has seen an alert."""
    await connection.execute(update(alerts).where(alerts.c.id == alert_id).values(ack=ack))


async def open_alerts(connection: AsyncConnection) -> tuple[AlertRecord, ...]:
    """Alerts that are not over, the oldest first."""
    query = select(alerts).where(alerts.c.state != "resolved")
    rows = await connection.execute(query.order_by(alerts.c.started_at, alerts.c.id))
    return tuple(await in_steps(mapped(alert_of, rows)))


_DEAD = notifications.c.dead_at


_NEWEST = (_DEAD.desc(), notifications.c.seq.desc())


async def add_notifications(
    connection: AsyncConnection, dialect: DatabaseDialect, rows: list[Values]
) -> None:
    """Add those of which the id is not there yet."""
    add = dialect.insert(notifications).on_conflict_do_nothing()
    for batch in batches(rows):
        await connection.execute(add, batch)


async def trim_dead(connection: AsyncConnection, most: int) -> None:
    """Remove all but the newest `most` of the dead letters."""
    query = select(notifications.c.seq).where(_DEAD.is_not(None)).order_by(*_NEWEST)
    oldest = notifications.c.seq.in_(query.offset(most))
    await connection.execute(delete(notifications).where(oldest))


async def prune_dead(connection: AsyncConnection, before: float) -> None:
    """Remove dead letters from before `before`."""
    await connection.execute(delete(notifications).where(before > _DEAD))


async def waiting(connection: AsyncConnection) -> tuple[Notification, ...]:
    """Those that no sink took yet, in the order of their coming."""
    query = select(notifications).where(_DEAD.is_(None)).order_by(notifications.c.seq)
    return tuple(await in_steps(mapped(notification_of, await connection.execute(query))))


async def put_silence(connection: AsyncConnection, row: Values) -> None:
    """Put a silence in place of one of the same id."""
    await remove_silence(connection, row["id"])
    await connection.execute(insert(silences).values(**row))


async def prune_silences(connection: AsyncConnection, before: float) -> None:
    """Remove silences that ended before `before`."""
    await connection.execute(delete(silences).where(silences.c.ends_at < before))


async def add_thresholds(
    connection: AsyncConnection, wanted: ThresholdsVersion, expected: int | None, most: int
) -> ThresholdsVersion:
    """Make `wanted` the version after `expected`, and keep the newest `most`."""
    current = await connection.scalar(select(func.max(thresholds.c.version)))
    if current != expected:
        raise Conflict(current)
    made = replace(wanted, version=(current or 0) + 1)
    await connection.execute(insert(thresholds).values(**thresholds_values(made)))
    oldest = thresholds.c.version <= made.version - most
    await connection.execute(delete(thresholds).where(oldest))
    return (await newest_thresholds(connection, 1))[0]


async def put_engine(
    connection: AsyncConnection, dialect: DatabaseDialect, engine: str
) -> str | None:
    """Note whose round it is, unless that is known, and give whose the one before was."""
    before: str | None = await connection.scalar(select(engines.c.engine))
    if engine not in ("", before):
        new = dialect.insert(engines).values(id=1, engine=engine)
        changed = {"engine": new.excluded.engine}
        await connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=changed))
    return before

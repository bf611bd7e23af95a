"""The statements on alerts and their transitions, each within a transaction of the caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ...steps import batches, in_steps, mapped
from ..paging import Place
from ..protocol import MOST_TRANSITIONS, UnknownAlert
from ..records import AlertRecord, TransitionRecord
from .dialects import Dialect
from .rows import Values, alert_of, transition_of
from .tables import alerts, transitions

# Who has seen an alert is not for its round to say, for that has not heard of it yet.
_ROUND_CHANGES = [each.name for each in alerts.c if each.name not in ("id", "ack")]

_newer = (
    select(transitions.c.seq)
    .where(transitions.c.alert_id == bindparam("of"))
    .order_by(transitions.c.seq.desc())
    .offset(MOST_TRANSITIONS)
    .scalar_subquery()
)
_TRIM_TRANSITIONS = delete(transitions).where(transitions.c.seq.in_(_newer))


async def put_alerts(connection: AsyncConnection, dialect: Dialect, rows: list[Values]) -> None:
    """Put alerts in place of those of the same id."""
    if rows:
        new = dialect.insert(alerts)
        changed = {name: new.excluded[name] for name in _ROUND_CHANGES}
        put = new.on_conflict_do_update(index_elements=["id"], set_=changed)
        for batch in batches(rows):
            await connection.execute(put, batch)


async def add_transitions(
    connection: AsyncConnection, dialect: Dialect, rows: list[Values]
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


async def one_alert(connection: AsyncConnection, alert_id: str) -> AlertRecord | None:
    """One alert, or None."""
    row = (await connection.execute(select(alerts).where(alerts.c.id == alert_id))).first()
    return None if row is None else alert_of(row)


async def open_alerts(connection: AsyncConnection) -> tuple[AlertRecord, ...]:
    """Alerts that are not over, the oldest first."""
    query = select(alerts).where(alerts.c.state != "resolved")
    rows = await connection.execute(query.order_by(alerts.c.started_at, alerts.c.id))
    return tuple(await in_steps(mapped(alert_of, rows)))


async def newest_alerts(
    connection: AsyncConnection, wanted: Mapping[str, Any], after: Place | None, limit: int
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

"""The statements on notifications, each within a transaction of the caller."""

from __future__ import annotations

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ...steps import batches, in_steps, mapped
from ..records import DeadLetter, Notification
from .dialects import Dialect
from .rows import Values, dead_letter_of, notification_of
from .tables import notifications

_DEAD = notifications.c.dead_at
_NEWEST = (_DEAD.desc(), notifications.c.seq.desc())


async def add_notifications(
    connection: AsyncConnection, dialect: Dialect, rows: list[Values]
) -> None:
    """Add those of which the id is not there yet."""
    add = dialect.insert(notifications).on_conflict_do_nothing()
    for batch in batches(rows):
        await connection.execute(add, batch)


async def remove_notification(connection: AsyncConnection, notification_id: str) -> None:
    """Forget one."""
    await connection.execute(delete(notifications).where(notifications.c.id == notification_id))


async def change_waiting(connection: AsyncConnection, notification_id: str, values: Values) -> None:
    """Give one that waits new values."""
    waiting = (notifications.c.id == notification_id, _DEAD.is_(None))
    await connection.execute(update(notifications).where(*waiting).values(**values))


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


async def newest_dead(connection: AsyncConnection, limit: int) -> tuple[DeadLetter, ...]:
    """Those that were given up, the newest first."""
    query = select(notifications).where(_DEAD.is_not(None)).order_by(*_NEWEST).limit(limit)
    return tuple(await in_steps(mapped(dead_letter_of, await connection.execute(query))))

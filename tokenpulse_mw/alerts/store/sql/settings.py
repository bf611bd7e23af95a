"""The statements on what people set, silences and thresholds, and on whose engine it is."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..protocol import Conflict
from ..records import Silence, ThresholdsVersion
from .dialects import Dialect
from .rows import Values, silence_of, thresholds_of, thresholds_values
from .tables import engines, silences, thresholds


async def put_silence(connection: AsyncConnection, row: Values) -> None:
    """Put a silence in place of one of the same id."""
    await remove_silence(connection, row["id"])
    await connection.execute(insert(silences).values(**row))


async def remove_silence(connection: AsyncConnection, silence_id: str) -> bool:
    """Forget a silence, and say whether there was one."""
    gone = await connection.execute(delete(silences).where(silences.c.id == silence_id))
    return gone.rowcount > 0


async def prune_silences(connection: AsyncConnection, before: float) -> None:
    """Remove silences that ended before `before`."""
    await connection.execute(delete(silences).where(silences.c.ends_at < before))


async def lasting_silences(connection: AsyncConnection, now: float) -> tuple[Silence, ...]:
    """Silences that end after `now`, by their start."""
    query = select(silences).where(silences.c.ends_at > now)
    rows = await connection.execute(query.order_by(silences.c.starts_at, silences.c.id))
    return tuple(map(silence_of, rows))


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


async def newest_thresholds(
    connection: AsyncConnection, limit: int
) -> tuple[ThresholdsVersion, ...]:
    """The thresholds that were set, the newest first."""
    query = select(thresholds).order_by(thresholds.c.version.desc()).limit(limit)
    return tuple(map(thresholds_of, await connection.execute(query)))


async def put_engine(connection: AsyncConnection, dialect: Dialect, engine: str) -> str | None:
    """Note whose round it is, unless that is known, and give whose the one before was."""
    before: str | None = await connection.scalar(select(engines.c.engine))
    if engine not in ("", before):
        new = dialect.insert(engines).values(id=1, engine=engine)
        changed = {"engine": new.excluded.engine}
        await connection.execute(new.on_conflict_do_update(index_elements=["id"], set_=changed))
    return before

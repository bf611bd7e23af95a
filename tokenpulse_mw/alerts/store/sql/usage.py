"""Statements of the usage by hour."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from sqlalchemy import (
    BigInteger,
    Integer,
    Select,
    bindparam,
    cast,
    delete,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ..records import Batch
from ..usage import (
    USAGE_COUNTS,
    USAGE_DIMENSIONS,
    UsageQuery,
    UsageRecord,
    UsageRevision,
    add_usage,
)
from .rows import Row, execute_many, fetch
from .schema import DatabaseDialect, usage


class UsageTable:
    """Table of the usage; all methods run in a transaction of the caller.

    Args:
        dialect: Dialect of the database.
    """

    _unexported = (
        select(usage)
        .where(usage.c.hour < bindparam("before"), usage.c.revision > usage.c.exported)
        .order_by(usage.c.hour, *(usage.c[name] for name in USAGE_DIMENSIONS))
        .limit(bindparam("limit", type_=Integer))
    )
    _confirm = (
        update(usage)
        .where(*(usage.c[name] == bindparam(f"of_{name}") for name in ("hour", *USAGE_DIMENSIONS)))
        .values(exported=bindparam("sent"))
    )

    def __init__(self, dialect: DatabaseDialect) -> None:
        oldest = dialect.now / 3600 - 24 * bindparam("days", type_=Integer)
        self._prune = delete(usage).where(usage.c.hour < oldest)
        row = dialect.insert(usage)
        self._add = row.on_conflict_do_update(
            index_elements=["hour", *USAGE_DIMENSIONS],
            set_={
                **{name: usage.c[name] + row.excluded[name] for name in USAGE_COUNTS},
                "revision": usage.c.revision + 1,
            },
        )

    async def add(self, connection: AsyncConnection, batches: Iterable[Batch]) -> None:
        """Add the usage of new batches."""
        total = add_usage(record for batch in batches for record in batch.usage)
        # All transactions lock rows in the same order, so none of them is a deadlock.
        rows = sorted(total, key=attrgetter("hour", *USAGE_DIMENSIONS))
        values = ({**asdict(record), "revision": 1, "exported": 0} for record in rows)
        await execute_many(connection, self._add, values)

    async def read(self, connection: AsyncConnection, query: UsageQuery) -> tuple[UsageRecord, ...]:
        """Return the usage by time and dimensions."""
        return tuple(await fetch(connection, _record_of, _select(query)))

    async def unexported(
        self, connection: AsyncConnection, before: int, limit: int
    ) -> tuple[UsageRevision, ...]:
        """Return the usage of hours before `before` that has grown since its export."""
        values = {"before": before, "limit": limit}
        return tuple(await fetch(connection, _revision_of, self._unexported, **values))

    async def confirm_export(
        self, connection: AsyncConnection, revisions: Iterable[UsageRevision]
    ) -> None:
        """Record that revisions were exported."""
        ordered = sorted(revisions, key=lambda row: (row.usage.hour, row.usage.key))
        values = (
            {
                "of_hour": usage.hour,
                **{f"of_{name}": getattr(usage, name) for name in USAGE_DIMENSIONS},
                "sent": revision,
            }
            for usage, revision in ordered
        )
        await execute_many(connection, self._confirm, values)

    async def prune(self, connection: AsyncConnection, *, days: int) -> None:
        """Delete the usage that is older than `days`."""
        await connection.execute(self._prune, {"days": days})


def _select(query: UsageQuery) -> Select[Any]:
    hour = usage.c.hour
    groups: list[Any] = [literal(0, BigInteger) if query.step is None else hour - hour % query.step]
    groups += [usage.c[name] if name in query.by else literal("") for name in USAGE_DIMENSIONS]
    names = ("hour", *USAGE_DIMENSIONS)
    labelled = [group.label(f"by_{name}") for group, name in zip(groups, names, strict=True)]
    sums = [cast(func.sum(usage.c[name]), BigInteger).label(name) for name in USAGE_COUNTS]
    selected = select(*labelled, *sums).where(hour >= query.first, hour < query.last)
    if query.tenant is not None:
        selected = selected.where(usage.c.tenant == query.tenant)
    grouped = [usage.c[name] for name in USAGE_DIMENSIONS if name in query.by]
    if query.step is not None:
        grouped.insert(0, labelled[0])
    if not grouped:
        return selected.having(func.count() > 0)
    return selected.group_by(*grouped).order_by(*grouped).limit(query.limit)


def _record_of(row: Row) -> UsageRecord:
    hour, tenant, model, provider = (row[f"by_{name}"] for name in ("hour", *USAGE_DIMENSIONS))
    counts = (int(row[name]) for name in USAGE_COUNTS)
    return UsageRecord(hour, tenant, model, provider, *counts)


def _revision_of(row: Row) -> UsageRevision:
    values = {name: row[name] for name in ("hour", *USAGE_DIMENSIONS, *USAGE_COUNTS)}
    return UsageRevision(UsageRecord(**values), row["revision"])

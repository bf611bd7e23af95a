"""Statements of the usage of rate limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import bindparam, delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..limits import LimitWindow, LimitWindows, most_used
from .rows import Row, execute_many, fetch
from .schema import DatabaseDialect, limits


class LimitsTable:
    """Table of the windows of limits; all methods run in a transaction of the caller.

    Args:
        dialect: Dialect of the database.
    """

    _delete = delete(limits).where(
        limits.c.policy == bindparam("of_policy"), limits.c.process == bindparam("of_process")
    )
    _insert = insert(limits)

    def __init__(self, dialect: DatabaseDialect) -> None:
        self._prune = delete(limits).where(limits.c.ends <= dialect.now)
        self._select = (
            select(limits)
            .where(limits.c.policy == bindparam("of_policy"), limits.c.ends > dialect.now)
            .order_by(limits.c.process, limits.c.key)
        )

    async def save(
        self,
        connection: AsyncConnection,
        policy: str,
        process: str,
        windows: Iterable[LimitWindow],
        replaces: Sequence[str],
    ) -> None:
        """Replace the windows of a process and of those whose windows it has loaded."""
        # All transactions lock rows in the same order, so none of them is a deadlock.
        deleted = sorted({process, *replaces})
        values = ({"of_policy": policy, "of_process": name} for name in deleted)
        await execute_many(connection, self._delete, values)
        rows = ({"policy": policy, "process": process, **row._asdict()} for row in windows)
        await execute_many(connection, self._insert, rows)

    async def load(self, connection: AsyncConnection, policy: str) -> LimitWindows:
        """Return the windows that have not ended."""
        return most_used(await fetch(connection, _window_of, self._select, of_policy=policy))

    async def prune(self, connection: AsyncConnection) -> None:
        """Delete the windows that have ended."""
        await connection.execute(self._prune)


def _window_of(row: Row) -> tuple[str, LimitWindow]:
    return row["process"], LimitWindow(bytes(row["key"]), row["used"], row["ends"])

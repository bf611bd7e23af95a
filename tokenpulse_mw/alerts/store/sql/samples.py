"""Statements of the samples that processes store for the live page."""

from __future__ import annotations

from sqlalchemy import Double, Integer, bindparam, case, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ..protocol import SAMPLE_SECONDS, SamplePage, SampleRecord
from .rows import Row, fetch
from .schema import DatabaseDialect, samples

_MARK = ""  # process of the row with the time until which samples are requested
_IS_MARK = samples.c.process == _MARK


class SamplesTable:
    """Table of the samples; all methods run in a transaction of the caller.

    Args:
        dialect: Dialect of the database.
    """

    def __init__(self, dialect: DatabaseDialect) -> None:
        now = dialect.now
        oldest = now - SAMPLE_SECONDS
        self._now = select(now)
        self._left = select(samples.c.at - now).where(_IS_MARK)
        self._read = (
            select(samples)
            .where(samples.c.at > bindparam("after", type_=Double))
            .where(samples.c.at > oldest, samples.c.process != _MARK)
            .order_by(samples.c.at, samples.c.process, samples.c.number)
            .limit(bindparam("limit", type_=Integer))
        )
        row = dialect.insert(samples)
        self._put = row.values(
            process=bindparam("of_process"),
            number=bindparam("of_number"),
            at=now,
            payload=bindparam("of_payload"),
        ).on_conflict_do_update(
            index_elements=["process", "number"],
            set_={"at": row.excluded.at, "payload": row.excluded.payload},
        )
        until = row.excluded.at
        self._watch = row.values(
            process=_MARK, number=0, at=now + bindparam("seconds", type_=Double), payload=b""
        ).on_conflict_do_update(
            index_elements=["process", "number"],
            set_={"at": case((samples.c.at > until, samples.c.at), else_=until)},
        )
        self._delete = delete(samples).where(
            samples.c.process == bindparam("of_process"), samples.c.at < oldest
        )
        self._prune = delete(samples).where(samples.c.at < oldest)

    async def watch(self, connection: AsyncConnection, seconds: float) -> None:
        """Extend the time until which samples are requested."""
        await connection.execute(self._watch, {"seconds": seconds})

    async def watched(self, connection: AsyncConnection) -> float:
        """Return the seconds for which samples are requested."""
        left: float | None = await connection.scalar(self._left)
        return 0.0 if left is None else left

    async def put(
        self, connection: AsyncConnection, process: str, number: int, payload: bytes
    ) -> None:
        """Store a sample, and delete old ones of the process, which no other transaction locks."""
        values = {"of_process": process, "of_number": number, "of_payload": payload}
        await connection.execute(self._put, values)
        await connection.execute(self._delete, {"of_process": process})

    async def read(self, connection: AsyncConnection, after: float, limit: int) -> SamplePage:
        """Return the samples after a time, the oldest first."""
        now: float = (await connection.execute(self._now)).scalar_one()
        found = await fetch(connection, _sample_of, self._read, after=after, limit=limit)
        return SamplePage(now, tuple(found))

    async def prune(self, connection: AsyncConnection) -> None:
        """Delete the samples of processes that have ended."""
        await connection.execute(self._prune)


def _sample_of(row: Row) -> SampleRecord:
    return SampleRecord(row["process"], row["number"], row["at"], bytes(row["payload"]))

"""Statements and transactions of the fleet: the lease, members, batches and windows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Double, bindparam, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ..protocol import (
    LISTED_SECONDS,
    MAX_BATCHES,
    STORED_SECONDS,
    Changes,
    Fenced,
    FleetState,
    Leader,
    LeaseRequest,
)
from ..records import Batch, Process, WindowRecord
from .rows import (
    Values,
    execute_many,
    fetch,
    member_of,
    process_values,
)
from .schema import DatabaseDialect, batches, fleet, members, windows
from .usage import UsageTable

_IS_LED = (fleet.c.epoch == bindparam("leader_epoch"), fleet.c.holder == bindparam("leader"))
_SHOWN = [column for column in fleet.c if column.name != "id"]
_BATCH_COLUMNS = [column.name for column in batches.c]
_READ_AT_ONCE = 50  # batches; a payload may have hundreds of kilobytes


class Fleet:
    """Tables of the fleet; all methods run in a transaction of the caller.

    Args:
        dialect: Dialect of the database.
        usage: Table of the usage, to which the batches of a heartbeat are added.
    """

    _lock = select(fleet.c.revision).with_for_update()
    _change = update(fleet).values(revision=fleet.c.revision + 1)
    _revision = select(fleet.c.revision)
    _beat = update(fleet).where(*_IS_LED).values(beat=fleet.c.beat + 1)
    _take = (
        update(fleet)
        .where(fleet.c.epoch == bindparam("seen_epoch"), fleet.c.beat == bindparam("seen_beat"))
        .values(epoch=fleet.c.epoch + 1, beat=fleet.c.beat + 1, holder=bindparam("process"))
    )
    _release = update(fleet).where(*_IS_LED).values(beat=fleet.c.beat + 1, holder=None)
    _commit = (
        update(fleet)
        .where(*_IS_LED)
        .values(
            beat=fleet.c.beat + 1,
            revision=fleet.c.revision + bindparam("changed"),
            evaluated_at=func.coalesce(
                bindparam("new_evaluated_at", type_=Double), fleet.c.evaluated_at
            ),
            complete_since=func.coalesce(
                bindparam("new_complete_since", type_=Double), fleet.c.complete_since
            ),
        )
    )

    _pushed = select(members.c.pushed).where(members.c.name == bindparam("process"))
    _set_pushed = (
        update(members)
        .where(members.c.name == bindparam("process"))
        .values(pushed=bindparam("last"))
    )
    _add_batch = insert(batches)
    _newest_batches = (
        select(batches.c.process, func.max(batches.c.number))
        .group_by(batches.c.process)
        .order_by(batches.c.process)
    )
    _batches_after = (
        select(batches)
        .where(batches.c.process == bindparam("process"), batches.c.number > bindparam("known"))
        .order_by(batches.c.number)
        .limit(_READ_AT_ONCE)
    )
    _delete_batches = delete(batches).where(
        batches.c.process == bindparam("process"), batches.c.number <= bindparam("outdated")
    )
    _delete_batch = delete(batches).where(
        batches.c.process == bindparam("consumed"), batches.c.number == bindparam("at")
    )
    _windows = select(windows).order_by(windows.c.kind, windows.c.slot)
    _delete_windows = delete(windows).where(
        windows.c.kind == bindparam("expired"), windows.c.slot < bindparam("first")
    )

    def __init__(self, dialect: DatabaseDialect, usage: UsageTable) -> None:
        self._usage = usage
        now = dialect.now
        self._state = select(*_SHOWN, now.label("now"))
        self._members = (
            select(members)
            .where(members.c.seen_at > now - LISTED_SECONDS)
            .order_by(members.c.started_at, members.c.name)
        )
        self._prune_members = delete(members).where(members.c.seen_at < now - STORED_SECONDS)
        member, window = dialect.insert(members), dialect.insert(windows)
        new = member.excluded
        values: Values = {
            name: bindparam(f"new_{name}") for name in (*Process.__slots__, "through")
        }
        self._put_member = member.values(**values, seen_at=now, pushed=0).on_conflict_do_update(
            index_elements=["name"],
            set_={
                **{name: new[name] for name in Process.__slots__ if name != "name"},
                "seen_at": new.seen_at,
                "through": new.through,
            },
        )
        self._put_window = window.on_conflict_do_update(
            index_elements=["kind", "slot"],
            set_={name: window.excluded[name] for name in ("protocol", "payload")},
        )

    async def heartbeat(
        self,
        connection: AsyncConnection,
        process: Process,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Change the lease, store the batches of a process, and return the fleet."""
        granted = lease is not None and await self._change_lease(connection, process.name, lease)
        name = {"process": process.name}
        # This locks the row, so that a call that is repeated meanwhile waits.
        values = {**process_values(process), "through": through}
        await connection.execute(
            self._put_member, {f"new_{column}": value for column, value in values.items()}
        )
        pushed: int = (await connection.execute(self._pushed, name)).scalar_one()
        new = [batch for batch in batches if batch.number > pushed]
        if new:
            await execute_many(connection, self._add_batch, map(_batch_values, new))
            await self._usage.add(connection, new)
            await connection.execute(self._set_pushed, {**name, "last": new[-1].number})
            outdated = new[-1].number - MAX_BATCHES
            await connection.execute(self._delete_batches, {**name, "outdated": outdated})
        state = await self.state(connection)
        members = tuple(await fetch(connection, member_of, self._members))
        return FleetState(
            **state, is_reference=True, granted=granted, pushed=pushed, members=members
        )

    async def lead(self, connection: AsyncConnection, leader: Leader) -> None:
        """Begin a write of the leader; raise Fenced if the process no longer leads."""
        if not await self._leads(connection, self._beat, leader):
            raise Fenced

    async def commit(self, connection: AsyncConnection, changes: Changes, leader: Leader) -> int:
        """Begin the commit of an evaluation, store its windows, and return the revision.

        Raises:
            Fenced: The process no longer leads.
        """
        values = {
            "changed": int(bool(changes.alerts or changes.forgotten)),
            "new_evaluated_at": changes.evaluated_at,
            "new_complete_since": changes.complete_since,
        }
        if not await self._leads(connection, self._commit, leader, **values):
            raise Fenced
        await execute_many(connection, self._put_window, map(asdict, changes.windows))
        expired = ({"expired": kind, "first": slot} for kind, slot in changes.expired.items())
        await execute_many(connection, self._delete_windows, expired)
        consumed = ({"consumed": process, "at": number} for process, number in changes.consumed)
        await execute_many(connection, self._delete_batch, consumed)
        return await self.revision(connection)

    async def change(self, connection: AsyncConnection) -> None:
        """Begin a write that all processes read after their next heartbeat."""
        await connection.execute(self._change)

    async def prune(self, connection: AsyncConnection) -> None:
        """Begin a deletion of old records, and delete the processes that have ended."""
        await self.lock(connection)
        await connection.execute(self._prune_members)

    async def lock(self, connection: AsyncConnection) -> None:
        """Begin a write of several rows."""
        await connection.execute(self._lock)

    async def revision(self, connection: AsyncConnection) -> int:
        """Return the revision."""
        revision: int = (await connection.execute(self._revision)).scalar_one()
        return revision

    async def state(self, connection: AsyncConnection) -> Values:
        """Return the columns of the fleet, and `now`."""
        return dict((await connection.execute(self._state)).mappings().one())

    async def batches(
        self, connection: AsyncConnection, after: Mapping[str, int]
    ) -> tuple[Batch, ...]:
        """Return the batches whose number is above that of their process in `after`."""
        found = list[Batch]()
        for process, newest in await connection.execute(self._newest_batches):
            known = after.get(process, 0)
            while known < newest:
                query = self._batches_after
                values = {"process": process, "known": known}
                part = await fetch(connection, lambda row: Batch(**row), query, **values)
                found += part
                known = part[-1].number
        return tuple(found)

    async def windows(self, connection: AsyncConnection) -> tuple[WindowRecord, ...]:
        """Return all windows."""
        return tuple(await fetch(connection, lambda row: WindowRecord(**row), self._windows))

    async def _change_lease(
        self, connection: AsyncConnection, process: str, lease: LeaseRequest
    ) -> bool:
        """Return True if the lease was changed."""
        if lease.action == "take":
            values = {"process": process, "seen_epoch": lease.epoch, "seen_beat": lease.beat}
            return (await connection.execute(self._take, values)).rowcount > 0
        statement = self._beat if lease.action == "renew" else self._release
        return await self._leads(connection, statement, Leader(lease.epoch, process))

    async def _leads(
        self, connection: AsyncConnection, statement: Any, leader: Leader, **values: object
    ) -> bool:
        """Execute a statement of the leader; return False if the process no longer leads."""
        values |= {"leader_epoch": leader.epoch, "leader": leader.process}
        return (await connection.execute(statement, values)).rowcount > 0


def _batch_values(batch: Batch) -> Values:
    return {name: getattr(batch, name) for name in _BATCH_COLUMNS}

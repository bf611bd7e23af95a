"""Write-behind buffer of an engine's store, with retries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from anyio.lowlevel import checkpoint

from ..lifespan import LoopLock
from .steps import STEP, batches
from .store.protocol import AlertStore, BadRecord, Changes, Fenced, Leader
from .store.records import AlertRecord, Notification, TransitionRecord
from .timeouts import Recovered, Report, call_with_timeout, ignored
from .tracker import AlertChanges

_MAX_PENDING = 20_000  # records of each kind


_BAD = (BadRecord, ValueError)  # errors of a record, not of the store


Write = Callable[[], Awaitable[object]]


# Alerts, transitions, notifications, ids of forgotten alerts, and a snapshot, in this order.
Records = tuple[object, ...]


class Snapshot(NamedTuple):
    """Traffic windows after an evaluation, which are stored with its changes.

    Attributes:
        changes: Changes of the windows since the last stored snapshot.
        stored: Called after they are stored.
    """

    changes: Changes
    stored: Callable[[], None]


class StoreWriter:
    """Writes the changes of evaluations and deliveries to a store, and retries failed writes.

    Only the leader of the fleet writes. While this process evaluates without a store, its changes
    stay buffered.

    Args:
        store: The store.
        leader: Returns this process's leadership, or None if it does not lead.
        fenced: Called when the store has rejected a write because another process leads.
        deadline: Timeout of a call of the store in seconds.
        report: Called with a component name and the error of each failure.
        recovered: Called with the same name after a success.

    Attributes:
        store: The store.
        revision: Revision after the last write that has changed open alerts.
    """

    def __init__(
        self,
        store: AlertStore,
        *,
        leader: Callable[[], Leader | None],
        fenced: Callable[[], None],
        deadline: float,
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        self.store = store
        self._leader = leader
        self._fenced = fenced
        self._deadline = deadline
        self._report = report
        self._recovered = recovered
        self._writing = LoopLock()
        self._resets = 0
        self.reset()

    def reset(self) -> None:
        """Discard all buffered changes, and those of a write in progress if it fails."""
        self._resets += 1
        self._alerts: dict[str, AlertRecord] = {}
        self._forgotten: dict[str, None] = {}
        self._transitions: dict[TransitionRecord, None] = {}
        self._notifications: dict[str, Notification] = {}
        self._outcomes: dict[str, Write] = {}
        self._snapshot: Snapshot | None = None
        self._timed_out = self._is_fenced = False
        self.revision: int | None = None

    def add(self, changes: Iterable[AlertChanges], notifications: Iterable[Notification]) -> None:
        """Add the changes of an evaluation to the next `write`."""
        for change in changes:
            for record in change.alerts:
                self._alerts.pop(record.id, None)  # the newest last
                self._alerts[record.id] = record
            self._transitions |= dict.fromkeys(change.transitions)
            for alert_id in change.forgotten:
                self._alerts.pop(alert_id, None)
                self._forgotten[alert_id] = None
        self._notifications |= {notification.id: notification for notification in notifications}

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the windows after an evaluation to the next `write`; they replace earlier ones."""
        self._snapshot = snapshot

    async def write(self) -> bool:
        """Write all buffered changes; changes that could not be written stay buffered.

        Returns:
            False if the changes are discarded because another process leads.
        """
        resets = self._resets
        await self._call(self._commit)
        return not self._is_fenced and resets == self._resets

    def has(self, notification_id: str) -> bool:
        """Return True if a notification is buffered, because it could not be written."""
        return notification_id in self._notifications

    def defer(self, notification_id: str, write: Write) -> None:
        """Call `write` with the next write, to store the outcome of a notification."""
        self._outcomes[notification_id] = write

    async def record_outcome(self, notification_id: str, write: Write) -> None:
        """Call `write` to store the outcome of a notification; if it fails, retry it later."""
        self.defer(notification_id, write)
        if not self._timed_out:  # otherwise each delivery would wait for the timeout
            await self._call(self._commit)

    async def _call(self, call: Write) -> None:
        """Call the store, one call at a time."""

        async def locked() -> None:
            async with self._writing():
                await call()

        try:
            await call_with_timeout(self._deadline, locked)
            self._timed_out = False
        except Exception as error:  # noqa: BLE001 - alerts continue without the store
            self._timed_out = isinstance(error, TimeoutError)
            self._report("alert store", error)
            self._drop_excess()

    def _drop_excess(self) -> None:
        """Drop the oldest changes above the limit; a store may fail for days."""
        dropped = _drop_oldest(self._alerts)
        if dropped:
            records = (record for record in self._transitions if record.alert_id not in dropped)
            self._transitions = dict.fromkeys(records)
        for buffer in (self._transitions, self._notifications, self._forgotten, self._outcomes):
            _drop_oldest(buffer)

    async def prune(self, before: float) -> None:
        """Remove records that ended before `before`, in seconds since the epoch, from the store."""
        await self._call(partial(self.store.prune, before))

    async def aclose(self) -> None:
        """Write all buffered changes and close the store."""
        await self.write()
        await self._call(self.store.aclose)

    async def _commit(self) -> None:
        leader, self._is_fenced = self._leader(), False
        if leader is None:
            self._drop_excess()
            return
        resets = self._resets
        parts = [self._take_buffer()]  # the next part last
        try:
            while parts:
                parts[-1:] = await self._commit_part(parts[-1], leader)
        except Fenced:
            self._fenced()
            self._is_fenced = True
            return
        except BaseException:
            if resets == self._resets:
                for part in parts:
                    self._put_back(part)
            raise
        await self._write_outcomes()

    async def _commit_part(self, records: Records, leader: Leader) -> tuple[Records, ...]:
        """Write records; if one is invalid, return the halves to retry, the first one last.

        An error of the store itself is raised: it is retried in the next evaluation.
        """
        if not records:
            return ()
        try:
            changes = changes_of(records)
            revision = await self.store.commit(changes, leader=leader)
            if changes.alerts or changes.forgotten:  # otherwise a new revision is another's
                self.revision = revision
        except _BAD as error:
            half = len(records) // 2
            if half:
                return records[half:], records[:half]
            self._report("alert record", error)  # a retry cannot succeed
        else:
            self._recovered("alert store")
            for snapshot in _of(Snapshot, records):
                snapshot.stored()
        return ()

    def _take_buffer(self) -> Records:
        """Return all buffered records and clear the buffer.

        An alert is never behind its transitions, so that a half of them can be written. The
        snapshot is last: without it, the next leader counts the same batches again.
        """
        records: Records = (
            *self._alerts.values(),
            *self._transitions,
            *self._notifications.values(),
            *self._forgotten,
            *(() if self._snapshot is None else (self._snapshot,)),
        )
        self._alerts, self._transitions = {}, {}
        self._notifications, self._forgotten = {}, {}
        self._snapshot = None
        return records

    def _put_back(self, records: Records) -> None:
        """Buffer unwritten records again; those made meanwhile are newer and take precedence."""
        alerts, notifications = _of(AlertRecord, records), _of(Notification, records)
        self._alerts = {record.id: record for record in alerts} | self._alerts
        self._transitions = dict.fromkeys(_of(TransitionRecord, records)) | self._transitions
        self._notifications = {record.id: record for record in notifications} | self._notifications
        self._forgotten = dict.fromkeys(_of(str, records)) | self._forgotten
        self._snapshot = self._snapshot or next(iter(_of(Snapshot, records)), None)

    async def _write_outcomes(self) -> None:
        for batch in batches(list(self._outcomes.items())):
            for notification_id, write in batch:
                try:
                    await write()
                    self._recovered("alert store")
                except _BAD as error:
                    self._report("alert record", error)  # a retry cannot succeed
                # A newer outcome may have replaced this one meanwhile.
                if self._outcomes.get(notification_id) is write:
                    del self._outcomes[notification_id]
            if len(batch) == STEP:
                await checkpoint()  # a store in memory has no checkpoint


def _drop_oldest(buffer: dict[Any, Any]) -> set[Any]:
    oldest = set(islice(buffer, max(0, len(buffer) - _MAX_PENDING)))
    for key in oldest:
        del buffer[key]
    return oldest


_Kind = TypeVar("_Kind")


def changes_of(records: Records) -> Changes:
    """Return the changes of the buffered `records`."""
    snapshot = next(iter(_of(Snapshot, records)), None)
    return replace(
        Changes() if snapshot is None else snapshot.changes,
        alerts=_of(AlertRecord, records),
        transitions=_of(TransitionRecord, records),
        notifications=_of(Notification, records),
        forgotten=_of(str, records),
    )


def _of(kind: type[_Kind], records: Iterable[object]) -> tuple[_Kind, ...]:
    return tuple(record for record in records if isinstance(record, kind))

"""Write-behind buffer of an engine's store, with retries."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

from anyio.lowlevel import checkpoint

from ..lifespan import LoopLock
from .steps import STEP, batches
from .store.protocol import AlertStore, BadRecord, Changes, EngineState
from .store.records import AlertRecord, Notification, TransitionRecord
from .timeouts import Recovered, Report, call_with_timeout, ignored
from .tracker import AlertChanges

_MAX_PENDING = 20_000  # records of each kind


_BAD = (BadRecord, ValueError)  # errors of a record, not of the store


Write = Callable[[], Awaitable[object]]


class StoreWriter:
    """Writes the changes of evaluations and deliveries to a store, and retries failed writes.

    Args:
        store: The store.
        deadline: Timeout of a call of the store in seconds.
        report: Called with a component name and the error of each failure.
        recovered: Called with the same name after a success.

    Attributes:
        store: The store.
    """

    def __init__(
        self,
        store: AlertStore,
        *,
        deadline: float,
        report: Report,
        recovered: Recovered = ignored,
    ) -> None:
        self.store = store
        self._deadline = deadline
        self._report = report
        self._recovered = recovered
        self._identity = EngineIdentity(store)
        self._writing = LoopLock()
        self.reset()

    def reset(self) -> None:
        """Discard all buffered changes."""
        self._alerts: dict[str, AlertRecord] = {}
        self._forgotten: dict[str, None] = {}
        self._transitions: dict[TransitionRecord, None] = {}
        self._notifications: dict[str, Notification] = {}
        self._outcomes: dict[str, Write] = {}
        self._has_evaluation = self._timed_out = False

    async def load(self) -> EngineState | None:
        """Return the state stored by the previous process; None if the store fails."""
        try:
            state: EngineState = await call_with_timeout(self._deadline, self.store.load)
        except Exception as error:  # noqa: BLE001 - alerts continue without the store
            self._report("loading the alert store", error)
            return None
        self._recovered("loading the alert store")
        return state

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
        self._has_evaluation = True

    async def write(self) -> None:
        """Write all buffered changes; changes that could not be written stay buffered."""
        await self._call(self._commit)

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
        parts = [self._take_buffer()]  # the next part last
        try:
            while parts:
                parts[-1:] = await self._commit_part(parts[-1])
        except BaseException:
            for part in parts:
                self._put_back(part)
            raise
        await self._write_outcomes()

    async def _commit_part(self, changes: Changes) -> Iterable[Changes]:
        """Write changes; if a record is invalid, return the halves to retry, the first one last.

        An error of the store itself is raised: it is retried in the next evaluation.
        """
        try:
            if changes != Changes():
                self._identity.check_previous(changes.engine, await self.store.commit(changes))
                self._recovered("alert store")
        except _BAD as error:
            smaller = split(changes)
            if not smaller:
                self._report("alert record", error)  # a retry cannot succeed
            return reversed(smaller)
        return ()

    def _take_buffer(self) -> Changes:
        """Return all buffered changes and clear the buffer."""
        changes = Changes(
            tuple(self._alerts.values()),
            tuple(self._transitions),
            tuple(self._notifications.values()),
            tuple(self._forgotten),
            self._identity.name if self._has_evaluation else "",
        )
        self._has_evaluation = False
        self._alerts, self._transitions = {}, {}
        self._notifications, self._forgotten = {}, {}
        return changes

    def _put_back(self, changes: Changes) -> None:
        """Buffer unwritten changes again; changes made meanwhile are newer and take precedence."""
        self._alerts = {record.id: record for record in changes.alerts} | self._alerts
        self._transitions = dict.fromkeys(changes.transitions) | self._transitions
        notifications = {record.id: record for record in changes.notifications}
        self._notifications = notifications | self._notifications
        self._forgotten = dict.fromkeys(changes.forgotten) | self._forgotten

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


logger = logging.getLogger("tokenpulse_mw.alerts")


class EngineIdentity:
    """The name of an engine in its store; detects a second engine that writes to the store.

    An engine that wrote before the first write may have been stopped, as by a restart. An engine
    that writes between two writes is running.

    Args:
        store: The engine's store.
    """

    def __init__(self, store: AlertStore) -> None:
        self._store = store
        self._has_written = self._has_logged = False

    @cached_property
    def name(self) -> str:
        """Unique name; created on first use, so that each forked process has its own."""
        return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"

    def check_previous(self, engine: str, previous: str | None) -> None:
        """Check the engine that wrote previously.

        Args:
            engine: Name of this engine; empty if no evaluation was written.
            previous: Name of the engine that wrote before, if any.
        """
        if not engine:
            return
        other = isinstance(previous, str) and previous != engine
        if other and self._has_written and not self._has_logged:
            self._has_logged = True
            logger.error(
                "another engine writes to the alert store, so each resolves alerts of the other; "
                "give each engine its own store (logged once): engine=%s store=%r",
                previous,
                self._store,
            )
        self._has_written = True


_Kind = TypeVar("_Kind")


def split(changes: Changes) -> tuple[Changes, ...]:
    """Return two halves of `changes`, to be written in order; nothing if it is a single record.

    An alert is never in a later half than its transitions.
    """
    records: list[object] = [
        *changes.alerts,
        *changes.transitions,
        *changes.notifications,
        *changes.forgotten,
    ]
    half = len(records) // 2
    return (_changes(records[:half]), _changes(records[half:])) if half else ()


def _changes(records: Iterable[object]) -> Changes:
    records = tuple(records)
    return Changes(
        _of(AlertRecord, records),
        _of(TransitionRecord, records),
        _of(Notification, records),
        _of(str, records),
    )


def _of(kind: type[_Kind], records: Iterable[object]) -> tuple[_Kind, ...]:
    return tuple(record for record in records if isinstance(record, kind))

"""What an engine tells its store, so that nothing is lost while the store fails."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property, partial
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

import anyio
from anyio.lowlevel import checkpoint

from .steps import STEP, batches
from .store.protocol import AlertStore, BadRecord, Changes, EngineState
from .store.records import AlertRecord, Notification, TransitionRecord
from .timeouts import Recovered, Report, call_with_timeout, ignored
from .tracker import AlertChanges

_MAX_PENDING = 20_000  # of each kind that wait for the store


_BAD = (BadRecord, ValueError)  # the store itself is well


Write = Callable[[], Awaitable[object]]


class StoreWriter:
    """Keeps what rounds and deliveries change; what the store does not take is given again.

    Args:
        store: Where it is kept.
        deadline: Seconds that the store may take.
        report: Told of each failure.
        recovered: Called with the same name when something was loaded or kept.

    Attributes:
        store: The same.
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
        self._alerts: dict[str, AlertRecord] = {}
        self._forgotten: dict[str, None] = {}
        self._transitions: dict[TransitionRecord, None] = {}
        self._notifications: dict[str, Notification] = {}
        self._settled: dict[str, Write] = {}
        self._owner = EngineIdentity(store)
        self._round = False
        self._writing = anyio.Lock()
        self._hangs = False

    async def load(self) -> EngineState | None:
        """What was kept by the process before this one; None where the store fails."""
        try:
            kept: EngineState = await call_with_timeout(self._deadline, self.store.load)
        except Exception as error:  # noqa: BLE001 - alerts go on without it
            self._report("loading the alert store", error)
            return None
        self._recovered("loading the alert store")
        return kept

    def add(self, news: Iterable[AlertChanges], notifications: Iterable[Notification]) -> None:
        """Have what an evaluation has made of some alerts kept with the next `write`."""
        for each in news:
            for record in each.alerts:
                self._alerts.pop(record.id, None)  # the newest last
                self._alerts[record.id] = record
            self._transitions |= dict.fromkeys(each.transitions)
            for alert_id in each.forgotten:
                self._alerts.pop(alert_id, None)
                self._forgotten[alert_id] = None
        self._notifications |= {each.id: each for each in notifications}
        self._round = True

    async def write(self) -> None:
        """Keep all that was noted, or the next time."""
        await self._ask(self._commit)

    def defer(self, notification_id: str, write: Write) -> None:
        """Keep, by `write`, what became of a notification, with whatever is kept next."""
        self._settled[notification_id] = write

    async def record_outcome(self, notification_id: str, write: Write) -> None:
        """Keep, by `write`, what became of a notification, or with whatever is kept next."""
        self.defer(notification_id, write)
        if not self._hangs:  # else each delivery would wait for it
            await self._ask(self._commit)

    async def _ask(self, call: Write) -> None:
        """Let the store do something, while it does nothing else for us."""

        async def alone() -> None:
            async with self._writing:
                await call()

        try:
            await call_with_timeout(self._deadline, alone)
            self._hangs = False
        except Exception as error:  # noqa: BLE001 - alerts go on without it
            self._hangs = isinstance(error, TimeoutError)
            self._report("alert store", error)
            self._bound()

    def _bound(self) -> None:
        """A store that fails for days must not fill the memory: the oldest go."""
        gone = _drop_oldest(self._alerts)
        if gone:
            kept = [each for each in self._transitions if each.alert_id not in gone]
            self._transitions = dict.fromkeys(kept)
        for waiting in (self._transitions, self._notifications, self._forgotten, self._settled):
            _drop_oldest(waiting)

    async def prune(self, before: float) -> None:
        """Forget what was over before `before`."""
        await self._ask(partial(self.store.prune, before))

    async def aclose(self) -> None:
        """Keep what was noted, and let go of the store."""
        await self.write()
        await self._ask(self.store.aclose)

    async def _commit(self) -> None:
        parts = [self._taken()]  # the next one last
        try:
            while parts:
                parts[-1:] = await self._keep(parts[-1])
        except BaseException:
            for part in parts:
                self._put_back(part)
            raise
        await self._settle()

    async def _keep(self, changes: Changes) -> Iterable[Changes]:
        """Have changes kept, and give what of them is to be tried by itself, the first of it last.

        A store that fails is not asked again before the next round.
        """
        try:
            if changes != Changes():
                self._owner.kept(changes.engine, await self.store.commit(changes))
                self._recovered("alert store")
        except _BAD as error:
            smaller = split(changes)
            if not smaller:
                self._report("alert record", error)  # it never will be taken
            return reversed(smaller)
        return ()

    def _taken(self) -> Changes:
        """All that was noted, which is let go of here."""
        changes = Changes(
            tuple(self._alerts.values()),
            tuple(self._transitions),
            tuple(self._notifications.values()),
            tuple(self._forgotten),
            self._owner.name if self._round else "",
        )
        self._round = False
        self._alerts, self._transitions = {}, {}
        self._notifications, self._forgotten = {}, {}
        return changes

    def _put_back(self, changes: Changes) -> None:
        """Note changes that were not kept, before what came meanwhile, which is newer."""
        self._alerts = {each.id: each for each in changes.alerts} | self._alerts
        self._transitions = dict.fromkeys(changes.transitions) | self._transitions
        notifications = {each.id: each for each in changes.notifications}
        self._notifications = notifications | self._notifications
        self._forgotten = dict.fromkeys(changes.forgotten) | self._forgotten

    async def _settle(self) -> None:
        for batch in batches(list(self._settled.items())):
            for notification_id, write in batch:
                try:
                    await write()
                    self._recovered("alert store")
                except _BAD as error:
                    self._report("alert record", error)  # it never will be taken
                if self._settled.get(notification_id) is write:  # else there is news of it
                    del self._settled[notification_id]
            if len(batch) == STEP:
                await checkpoint()  # a store in memory does not pause


def _drop_oldest(waiting: dict[Any, Any]) -> set[Any]:
    gone = set(islice(waiting, max(0, len(waiting) - _MAX_PENDING)))
    for oldest in gone:
        del waiting[oldest]
    return gone


logger = logging.getLogger("tokenpulse_mw.alerts")


class EngineIdentity:
    """An engine, as it is known to its store; says once that another one writes to it too.

    Whoever has written before our first round may be gone, as after a restart; whoever does so
    between two of ours is not.

    Args:
        store: The engine's.
    """

    def __init__(self, store: AlertStore) -> None:
        self._store = store
        self._has_kept = self._has_told = False

    @cached_property
    def name(self) -> str:
        """Its own; made when it is needed, as processes that are forked have one each."""
        return f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"

    def kept(self, engine: str, before: str | None) -> None:
        """The store has kept changes of `engine`, empty where no round, after one of `before`."""
        if not engine:
            return
        other = isinstance(before, str) and before != engine
        if other and self._has_kept and not self._has_told:
            self._has_told = True
            logger.error(
                "another engine, %s, writes to %r as well, so each ends the other's alerts: give "
                "each engine a store of its own",
                before,
                self._store,
            )
        self._has_kept = True


_Kind = TypeVar("_Kind")


def split(changes: Changes) -> tuple[Changes, ...]:
    """`changes` in two parts, to be kept one after the other; none where it is one record only.

    An alert is never in a later part than what happened to it.
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
    return tuple(each for each in records if isinstance(each, kind))

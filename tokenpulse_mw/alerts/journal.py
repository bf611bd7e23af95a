"""What an engine tells its store, so that nothing is lost while the store fails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from itertools import islice
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from .board import News
from .calls import Recovered, Report, ignored, within
from .owner import Owner
from .steps import STEP, batches
from .store.halves import halves
from .store.protocol import AlertStore, BadRecord, Changes, Kept
from .store.records import AlertRecord, Notification, TransitionRecord

_MOST = 20_000  # of each kind that wait for the store
_BAD = (BadRecord, ValueError)  # the store itself is well

Write = Callable[[], Awaitable[object]]


class Journal:
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
        self._owner = Owner(store)
        self._round = False
        self._writing = anyio.Lock()
        self._hangs = False

    async def load(self) -> Kept | None:
        """What was kept by the process before this one; None where the store fails."""
        try:
            kept: Kept = await within(self._deadline, self.store.load)
        except Exception as error:  # noqa: BLE001 - alerts go on without it
            self._report("loading the alert store", error)
            return None
        self._recovered("loading the alert store")
        return kept

    def note(self, news: Iterable[News], notifications: Iterable[Notification]) -> None:
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

    def owe(self, notification_id: str, write: Write) -> None:
        """Keep, by `write`, what became of a notification, with whatever is kept next."""
        self._settled[notification_id] = write

    async def settle(self, notification_id: str, write: Write) -> None:
        """Keep, by `write`, what became of a notification, or with whatever is kept next."""
        self.owe(notification_id, write)
        if not self._hangs:  # else each delivery would wait for it
            await self._ask(self._commit)

    async def _ask(self, call: Write) -> None:
        """Let the store do something, while it does nothing else for us."""

        async def alone() -> None:
            async with self._writing:
                await call()

        try:
            await within(self._deadline, alone)
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
            smaller = halves(changes)
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
    gone = set(islice(waiting, max(0, len(waiting) - _MOST)))
    for oldest in gone:
        del waiting[oldest]
    return gone

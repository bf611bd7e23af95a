"""What is to be told, between the engine that decides it and the sinks that take their time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import anyio

from ...exchange import component_name
from ..evaluator import check_distinct
from ..lifecycle import Finding, Subject
from ..sinks import AlertEvent, Sink
from ..sinks.text import LONGEST_FINGERPRINT, single_line
from ..steps import STEP, Steps, batches, in_steps
from ..store.records import Notification
from ..tracker import AlertChanges
from .queue import QueuedNotification
from .sink_worker import DeliveryContext, SinkWorker

_LONGEST_WAIT = 3600.0  # seconds; who was told to wait before a restart waits no longer after it


logger = logging.getLogger("tokenpulse_mw.alerts")


class Outbox:
    """Hands events to sinks, each of which has a lane of its own.

    Every event reaches every sink at least once, under the same id however often it is tried, and
    those of one alert in their order; unless a sink refuses it, fails for a day, or is so far
    behind that there is no more room: then it is a dead letter, which the store keeps.

    Args:
        sinks: By their names; see `names_of`.
        desk: Where the lanes get what they need.
    """

    def __init__(self, sinks: Mapping[str, Sink], desk: DeliveryContext) -> None:
        self._desk = desk
        self._lanes = {name: SinkWorker(name, sink, desk) for name, sink in sinks.items()}
        self._publishing = anyio.Lock(
            fast_acquire=True
        )  # so that events wait in the order of the evaluations

    async def publish(
        self, news: Sequence[AlertChanges], firing: Steps[list[AlertEvent]], at: float
    ) -> None:
        """Keep what an evaluation has changed, and then queue it for the sinks.

        Args:
            news: What changed, in pieces.
            firing: Returns all that fires now; run only if a sink sends it again and again.
            at: Seconds since the epoch.
        """
        # In this order nothing is told twice after a kill; and when the engine is just being left,
        # what was decided is told all the same.
        with anyio.CancelScope(shield=True):
            async with self._publishing:
                letters = await in_steps(self._note(news))
                await self._desk.writer.write()
                await in_steps(self._queue(letters))
                resending = [lane for lane in self._lanes.values() if lane.resends]
                if resending:
                    events = await in_steps(firing)
                    for lane in resending:
                        lane.fires(events, at)

    def _note(self, news: Iterable[AlertChanges]) -> Steps[list[QueuedNotification]]:
        """Hand `news` to the journal, and return a letter for each event and sink."""
        self._desk.writer.add([], [])  # it was an evaluation, also if nothing changed
        letters, changes = list[QueuedNotification](), 0
        for piece in news:
            if not piece.changes:
                continue
            made = [
                self._queued(lane, event)
                for event in piece.notifications
                for lane in self._lanes.values()
                # A sink that has not received an alert yet needs no reminder of it.
                if event.transition != "reminded" or not lane.has(event.fingerprint)
            ]
            # An alert and its notifications are in one piece, which is written as a whole.
            self._desk.writer.add([piece], [letter.notification for letter in made])
            letters += made
            changes += piece.changes
            if changes >= STEP:
                changes = 0
                yield
        return letters

    def _queue(self, letters: Iterable[QueuedNotification]) -> Steps[None]:
        for batch in batches(letters):
            for letter in batch:
                self._lanes[letter.notification.sink].put(letter)
            if len(batch) == STEP:
                yield

    def resume(self, notifications: Iterable[Notification]) -> Steps[None]:
        """Queue what the previous process did not deliver."""
        for batch in batches(notifications):
            for notification in batch:
                self._resume(notification)
            if len(batch) == STEP:
                yield

    def _resume(self, notification: Notification) -> None:
        try:
            event = AlertEvent.from_dict(notification.event)
            lane = self._lanes[notification.sink]
        except (KeyError, ValueError) as error:
            self._dead_letter(notification, f"it cannot be delivered any more: {error!r}")
        else:
            wait = min(max(notification.due_at - self._desk.wall(), 0.0), _LONGEST_WAIT)
            now = self._desk.clock()
            lane.put(
                QueuedNotification(notification, event, now + wait, notification.attempts, now)
            )

    def queue_length(self) -> Mapping[tuple[str], int]:
        """How many notifications wait for each sink."""
        return {(name,): len(lane) for name, lane in self._lanes.items()}

    async def run(self) -> None:
        """Hand out what is due to all sinks side by side, for ever."""
        async with anyio.create_task_group() as tasks:
            for lane in self._lanes.values():
                tasks.start_soon(lane.run)

    async def attempt(self) -> None:
        """Hand out what is due now, and return."""

        async def empty(lane: SinkWorker) -> None:
            while await lane.attempt():
                pass

        async with anyio.create_task_group() as tasks:
            for lane in self._lanes.values():
                tasks.start_soon(empty, lane)

    async def test(self, sink: str) -> str | None:
        """Tell one sink a test alert, at once and once, and give what went wrong, if anything.

        Raises:
            KeyError: There is no sink of that name.
        """
        finding = Finding(
            type="test",
            subject=Subject("system", "0", "gateway"),
            severity="info",
            title="Test alert",
            message="Somebody has asked for a test alert: nothing is wrong.",
        )
        return await self._lanes[sink].test(AlertEvent("fired", finding, self._desk.wall()))

    async def aclose(self, *, last_chance: float) -> None:
        """Hand out what is due, for so many seconds at most, and let go of sinks and store."""
        with anyio.move_on_after(last_chance):
            await self.attempt()
        async with anyio.create_task_group() as tasks:
            for lane in self._lanes.values():
                tasks.start_soon(lane.aclose)
        await self._desk.writer.aclose()
        for (name,), number in self.queue_length().items():
            if number:
                logger.warning("%d notifications wait for the sink %s still", number, name)

    def _queued(self, lane: SinkWorker, event: AlertEvent) -> QueuedNotification:
        notification = Notification(
            f"{event.id}:{lane.name}",
            lane.name,
            event.alert_id,
            event.fingerprint,
            event.to_dict(),
            created_at=self._desk.wall(),
            due_at=self._desk.wall(),
        )
        now = self._desk.clock()
        return QueuedNotification(notification, event, now, since=now)

    def _dead_letter(self, notification: Notification, said: str) -> None:
        logger.error("%s: %s", single_line(notification.id, LONGEST_FINGERPRINT), said)
        journal = self._desk.writer
        bury = partial(journal.store.dead, notification.id, self._desk.wall(), said)
        journal.defer(notification.id, bury)


def names_of(sinks: Iterable[Sink], *, interval: float) -> dict[str, Sink]:
    """Each sink by its name: its own, or its class, and a number where there are several.

    Raises:
        ValueError: What a sink sends would be over before it is sent again, an interval later.
    """
    sinks = tuple(sinks)
    for sink in sinks:
        every = getattr(sink, "resend_every", interval)
        if every < interval:
            raise ValueError(
                f"resend_every of {sink!r} must be at least the interval of the engine, "
                f"{interval:g} s, got {every:g}"
            )
    return dict(zip(check_distinct(map(_name_of, sinks)), sinks, strict=True))


def _name_of(sink: Sink) -> str:
    return str(getattr(sink, "name", None) or component_name(sink))

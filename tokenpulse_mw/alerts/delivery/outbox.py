"""Outbox that stores and delivers the notifications of the evaluations."""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial

import anyio

from ...exchange import component_name
from ...lifespan import LoopLock
from ...web.text import single_line
from ..evaluator import check_distinct
from ..lifecycle import GLOBAL, Finding
from ..sinks import AlertEvent, Sink
from ..sinks.text import LONGEST_FINGERPRINT
from ..steps import STEP, Steps, batches, in_steps
from ..store.records import Notification
from ..store_writer import Snapshot
from ..tracker import AlertChanges
from .queue import QueuedNotification
from .sink_worker import DeliveryContext, SinkWorker

_MAX_RESTORED_WAIT_SECONDS = 3600.0  # of a stored notification, in case the wall clock was changed

logger = logging.getLogger("tokenpulse_mw.alerts")


class Outbox:
    """Delivers events to sinks, each of which has its own worker.

    Each event is delivered to each sink at least once, with the same id in every attempt, and the
    events of one alert in order. An event that a sink rejects, that fails for a day, or that does
    not fit into the queue is stored as a dead letter.

    Args:
        sinks: Sinks by name; see `names_of`.
        context: Options and callbacks of the workers.
    """

    def __init__(self, sinks: Mapping[str, Sink], context: DeliveryContext) -> None:
        self._context = context
        self._workers = {name: SinkWorker(name, sink, context) for name, sink in sinks.items()}
        # Events are queued in the order of the evaluations.
        self._publishing = LoopLock(fast_acquire=True)

    def reset(self) -> None:
        """Discard all notifications and all changes that are not stored."""
        for worker in self._workers.values():
            worker.reset()
        self._context.writer.reset()

    async def publish(
        self,
        changes: Sequence[AlertChanges],
        snapshot: Snapshot | None,
        firing: Steps[list[AlertEvent]],
        at: float,
    ) -> None:
        """Store the changes of an evaluation, and then queue its notifications.

        If another process leads, nothing is stored and nothing queued.

        Args:
            changes: Changes of the evaluation, in parts.
            snapshot: The windows after the evaluation, if they are to be stored.
            firing: Returns all firing alerts; run only if a sink sends them again.
            at: Time of the evaluation, in seconds since the epoch.
        """
        # Stored first, so that no notification is repeated after a kill. Shielded, so that a
        # decision is not lost if the engine is cancelled.
        with anyio.CancelScope(shield=True):
            async with self._publishing():
                notifications = await in_steps(self._buffer(changes))
                if snapshot is not None:
                    self._context.writer.add_snapshot(snapshot)
                if not await self._context.writer.write():
                    return
                await in_steps(self._queue(notifications))
                resending = [worker for worker in self._workers.values() if worker.resends]
                if resending:
                    events = await in_steps(firing)
                    for worker in resending:
                        worker.send_firing(events, at)

    def _buffer(self, changes: Iterable[AlertChanges]) -> Steps[list[QueuedNotification]]:
        """Add `changes` to the store writer, and return a notification for each event and sink."""
        notifications, number = list[QueuedNotification](), 0
        for part in changes:
            if not part.changes:
                continue
            new = [
                self._queued(worker, event)
                for event in part.notifications
                for worker in self._workers.values()
                # While a notification of the alert is queued, a reminder is superfluous.
                if event.transition != "reminded" or not worker.has(event.fingerprint)
            ]
            # An alert and its notifications are in one part, which is written as a whole.
            self._context.writer.add([part], [notification.record for notification in new])
            notifications += new
            number += part.changes
            if number >= STEP:
                number = 0
                yield
        return notifications

    def _queue(self, notifications: Iterable[QueuedNotification]) -> Steps[None]:
        for batch in batches(notifications):
            for notification in batch:
                self._workers[notification.record.sink].put(notification)
            if len(batch) == STEP:
                yield

    def resume(
        self, notifications: Iterable[Notification], known_sinks: Container[str]
    ) -> Steps[None]:
        """Queue the stored notifications of the previous leader.

        Args:
            notifications: The notifications.
            known_sinks: Names of the sinks of all processes. A notification for a sink that only
                another process has is left in the store.
        """
        for batch in batches(notifications):
            for notification in batch:
                self._resume(notification, known_sinks)
            if len(batch) == STEP:
                yield

    def _resume(self, notification: Notification, known_sinks: Container[str]) -> None:
        worker = self._workers.get(notification.sink)
        if worker is None:
            if notification.sink not in known_sinks:
                self._drop(notification, "no process has a sink of this name")
            return
        try:
            event = AlertEvent.from_dict(notification.event)
        except ValueError as error:
            self._drop(notification, f"the stored event is invalid: {error}")
            return
        wait = min(max(notification.due_at - self._context.wall(), 0.0), _MAX_RESTORED_WAIT_SECONDS)
        now = self._context.clock()
        worker.put(QueuedNotification(notification, event, now + wait, notification.attempts, now))

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the sinks."""
        return tuple(self._workers)

    def queue_length(self) -> Mapping[tuple[str], int]:
        """Return the number of queued notifications by sink."""
        return {(name,): len(worker) for name, worker in self._workers.items()}

    async def run(self) -> None:
        """Deliver due notifications to all sinks concurrently until cancelled."""
        async with anyio.create_task_group() as tasks:
            for worker in self._workers.values():
                tasks.start_soon(worker.run)

    async def attempt(self) -> None:
        """Deliver the notifications that are due now."""

        async def deliver(worker: SinkWorker) -> None:
            while await worker.attempt():
                pass

        async with anyio.create_task_group() as tasks:
            for worker in self._workers.values():
                tasks.start_soon(deliver, worker)

    async def test(self, sink: str) -> str | None:
        """Send a test alert to one sink, once, and return the error message, if any.

        Raises:
            KeyError: The name is not a sink's.
        """
        finding = Finding(
            type="test",
            subject=GLOBAL,
            severity="info",
            title="Test alert",
            message="This test alert was requested; no action is required.",
        )
        return await self._workers[sink].test(AlertEvent("fired", finding, self._context.wall()))

    async def aclose(self, *, last_chance: float) -> None:
        """Deliver due notifications, and close the sinks.

        Args:
            last_chance: Maximum number of seconds for the deliveries.
        """
        with anyio.move_on_after(last_chance):
            await self.attempt()
        async with anyio.create_task_group() as tasks:
            for worker in self._workers.values():
                tasks.start_soon(worker.aclose)
        for (name,), number in self.queue_length().items():
            if number:
                logger.warning("notifications still queued: sink=%s waiting=%d", name, number)

    def _queued(self, worker: SinkWorker, event: AlertEvent) -> QueuedNotification:
        record = Notification(
            f"{event.id}:{worker.name}",
            worker.name,
            event.alert_id,
            event.fingerprint,
            event.to_dict(),
            created_at=self._context.wall(),
            due_at=self._context.wall(),
        )
        now = self._context.clock()
        return QueuedNotification(record, event, now, queued_at=now)

    def _drop(self, notification: Notification, error: str) -> None:
        """Log a stored notification that cannot be delivered, and make it a dead letter."""
        logger.error(
            "notification dropped: sink=%s alert=%s error=%s",
            notification.sink,
            single_line(notification.fingerprint, LONGEST_FINGERPRINT),
            error,
        )
        writer = self._context.writer
        dead = partial(writer.store.dead, notification.id, self._context.wall(), error)
        writer.defer(notification.id, dead)


def names_of(sinks: Iterable[Sink], *, interval: float) -> dict[str, Sink]:
    """Return the sinks by name: their attribute `name` or their class, numbered if not unique.

    Raises:
        ValueError: The alerts of a sink would end before it sends them again, an interval later.
    """
    sinks = tuple(sinks)
    for sink in sinks:
        resend_every = getattr(sink, "resend_every", interval)
        if resend_every < interval:
            raise ValueError(
                f"resend_every of {sink!r} must be at least the interval of the engine, "
                f"{interval:g} s, got {resend_every:g}"
            )
    return dict(zip(check_distinct(map(_name_of, sinks)), sinks, strict=True))


def _name_of(sink: Sink) -> str:
    return str(getattr(sink, "name", None) or component_name(sink))

"""Delivery to one sink, independent of all other sinks."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from ...lifespan import LoopLock
from ...outages import Outage
from ...web.text import single_line
from ..sinks import AlertEvent, Rejected, RetryLater, Sink
from ..sinks.text import LONGEST_FINGERPRINT, name_of
from ..steps import STEP, Steps, batches, in_steps
from ..store_writer import StoreWriter
from ..timeouts import Recovered, Report, call_with_timeout, ignored
from .queue import NotificationQueue, QueuedNotification

_MAX_RETRY_SECONDS = 86_400.0  # in this process; older notifications are outdated
_MAX_WAIT_SECONDS = 3600.0  # even if a sink requests more
_CLOSE_SECONDS = 5.0
_FIRST_BACKOFF_SECONDS = 1.0
_MAX_BACKOFF_SECONDS = 60.0

logger = logging.getLogger("tokenpulse_mw.alerts")


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """Options and callbacks that the workers of an outbox share.

    Attributes:
        writer: Stores the outcome of each notification.
        claim: Awaited with the id of a notification before each attempt, or an empty text; returns
            the seconds for which this process may deliver, 0 if it must not now.
        deadline: Timeout of one attempt in seconds.
        max_pending: Maximum number of queued notifications of each sink.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        jitter: Returns a random number from 0 to 1.
        report: Called with the sink and the error of each unexpected failure.
        delivered: Called after each attempt with the name of the sink and "ok", "error",
            "timeout", "rejected" or "dropped".
        recovered: Called with the same name as `report` after each success.
    """

    writer: StoreWriter
    claim: Callable[[str], Awaitable[float]]
    deadline: float
    max_pending: int
    clock: Callable[[], float]
    wall: Callable[[], float]
    jitter: Callable[[], float]
    report: Report
    delivered: Callable[[str, str], None]
    recovered: Recovered = ignored


class SinkWorker:
    """Delivers notifications to a sink one at a time, and retries those that fail.

    After a failure the sink is paused, twice as long each time. Then one notification is attempted;
    if it is delivered, the others follow.

    Args:
        name: Name of the sink.
        sink: The sink.
        context: Options and callbacks.
    """

    def __init__(self, name: str, sink: Sink, context: DeliveryContext) -> None:
        self.name = name
        self._sink = sink
        self._context = context
        self._resend: Any = getattr(sink, "resend", None)
        self.reset()
        self._outage = Outage(logger, clock=context.clock)
        self._has_work = anyio.Event()
        self._attempting = LoopLock()

    def reset(self) -> None:
        """Discard all notifications, and attempt the next one at once."""
        self._queue = NotificationQueue(max_size=self._context.max_pending)
        self._firing: tuple[Sequence[AlertEvent], float] | None = None
        self._paused_until = -math.inf
        self._failures = 0

    def __len__(self) -> int:
        return len(self._queue)

    def has(self, fingerprint: str) -> bool:
        """Return True if a notification of this alert is queued."""
        return fingerprint in self._queue

    def put(self, notification: QueuedNotification) -> None:
        """Queue a notification; those that the queue drops become dead letters."""
        for dropped in self._queue.put(notification):
            self._context.delivered(self.name, "dropped")
            reason = "superseded by later notifications"
            self._context.writer.defer(dropped.record.id, self._dead_letter(dropped, reason))
        self._has_work.set()

    @property
    def resends(self) -> bool:
        """True if the sink sends all firing alerts again after each evaluation."""
        return self._resend is not None

    def send_firing(self, events: Sequence[AlertEvent], at: float) -> None:
        """Schedule all firing alerts to be sent again; for a sink that `resends`."""
        self._firing = (events, at)
        self._has_work.set()

    async def run(self) -> None:
        """Deliver due notifications until cancelled."""
        while True:
            self._has_work = anyio.Event()
            try:
                if await self.attempt():
                    continue
            except Exception as error:  # noqa: BLE001 - the other workers must continue
                self._failed(error)
            with anyio.move_on_after(self._idle_seconds()):
                await self._has_work.wait()

    async def attempt(self) -> bool:
        """Deliver one notification or all firing alerts; return False if nothing is due."""
        async with self._attempting():
            now = self._context.clock()
            if now < self._paused_until:
                return False
            notification = self._queue.next_due(now)
            if notification is not None:
                await self._deliver(notification)
                return True
            return await self._send_again()

    async def test(self, event: AlertEvent) -> str | None:
        """Send an event once, ahead of the queue, and return the error message, if any."""
        try:
            await call_with_timeout(self._context.deadline, partial(self._sink, event))
        except Exception as error:  # noqa: BLE001 - returned to the caller
            return _error_text(error)
        return None

    async def aclose(self) -> None:
        """Close the sink, if it can be closed."""
        aclose = getattr(self._sink, "aclose", None)
        if aclose is not None:
            try:
                await call_with_timeout(min(_CLOSE_SECONDS, self._context.deadline), aclose)
            except Exception as error:  # noqa: BLE001 - the other sinks must be closed too
                self._context.report(f"sink {self.name}", error)

    def _idle_seconds(self) -> float:
        """Return the seconds until something is due."""
        next_due_at = self._queue.next_due_at()
        if self._firing is None and next_due_at is None:
            return math.inf
        return max(self._paused_until, next_due_at or 0.0) - self._context.clock()

    async def _deliver(self, notification: QueuedNotification) -> None:
        seconds = await self._claim(notification.record.id)
        if seconds <= 0:
            return
        notification.attempts += 1
        error = await self._call(partial(self._sink, notification.event), seconds)
        if error is None:
            self._queue.remove(notification)
            store = self._context.writer.store
            await self._store_outcome(
                notification, partial(store.delivered, notification.record.id)
            )
        elif isinstance(error, Rejected) or self._is_outdated(notification):
            await self._drop(notification, error)
        else:
            await self._postpone(notification, error)

    def _is_outdated(self, notification: QueuedNotification) -> bool:
        return self._context.clock() - notification.queued_at > _MAX_RETRY_SECONDS

    async def _send_again(self) -> bool:
        seconds = 0.0 if self._firing is None else await self._claim("")
        if self._firing is None or seconds <= 0:  # the claim may have ended the leadership
            return False
        (events, at), self._firing = self._firing, None
        # A queued alert is sent by its notification; here, its `fired` could follow its `resolved`.
        unqueued = await in_steps(self._not_queued(events))
        await self._call(partial(self._resend, unqueued, at), seconds, counted=False)
        return True

    async def _claim(self, notification_id: str) -> float:
        """Return the seconds for which an attempt may last; 0 pauses the sink."""
        seconds = await self._context.claim(notification_id)
        if seconds <= 0:
            self._paused_until = self._context.clock() + _FIRST_BACKOFF_SECONDS
        return seconds

    def _not_queued(self, events: Sequence[AlertEvent]) -> Steps[list[AlertEvent]]:
        unqueued = list[AlertEvent]()
        for batch in batches(events):
            unqueued += [event for event in batch if event.fingerprint not in self._queue]
            if len(batch) == STEP:
                yield
        return unqueued

    async def _call(
        self, call: Callable[[], Any], seconds: float, *, counted: bool = True
    ) -> Exception | None:
        """Call the sink and return its error, if any."""
        try:
            await call_with_timeout(min(self._context.deadline, seconds), call)
        except Exception as error:  # noqa: BLE001 - a sink must not affect the others
            self._failed(error)
            return error
        if counted:
            self._context.delivered(self.name, "ok")
        self._failures = 0
        self._outage.recovered("sink available again: sink=%s waiting=%d", self.name, len(self))
        self._context.recovered(f"sink {self.name}")
        return None

    def _failed(self, error: Exception) -> None:
        """Count and report a failure, and pause the sink unless it rejected the event."""
        if isinstance(error, Rejected):
            self._context.delivered(self.name, "rejected")
            return
        result = "timeout" if isinstance(error, TimeoutError) else "error"
        self._context.delivered(self.name, result)
        self._failures += 1
        wait = max(_requested_wait(error), backoff(self._failures, self._context.jitter()))
        self._paused_until = self._context.clock() + wait
        if not isinstance(error, RetryLater):
            self._context.report(f"sink {self.name}", error)
        else:
            self._outage.failed(
                "sink unavailable, notifications wait: sink=%s error=%s", self.name, error
            )

    async def _postpone(self, notification: QueuedNotification, error: Exception) -> None:
        context = self._context
        wait = max(
            backoff(notification.attempts, context.jitter()), self._paused_until - context.clock()
        )
        if not self._queue.postpone(notification, context.clock() + wait):
            return  # it has become a dead letter
        postponed = partial(
            context.writer.store.postponed,
            notification.record.id,
            notification.attempts,
            context.wall() + wait,
            _error_text(error),
        )
        await self._store_outcome(notification, postponed)

    async def _drop(self, notification: QueuedNotification, error: Exception) -> None:
        self._queue.remove(notification)
        event = notification.event
        name = name_of(event.finding.subject)
        logger.error(
            "notification dropped: sink=%s alert=%s%s transition=%s error=%s",
            self.name,
            single_line(event.fingerprint, LONGEST_FINGERPRINT),
            f" name={name!r}" if name else "",
            event.transition,
            _error_text(error),
        )
        await self._store_outcome(notification, self._dead_letter(notification, _error_text(error)))

    def _dead_letter(self, notification: QueuedNotification, reason: str) -> Callable[[], Any]:
        store = self._context.writer.store
        return partial(store.dead, notification.record.id, self._context.wall(), reason)

    async def _store_outcome(
        self, notification: QueuedNotification, write: Callable[[], Any]
    ) -> None:
        # Shielded: an outcome that is not stored is delivered again by the next process.
        with anyio.CancelScope(shield=True):
            await self._context.writer.record_outcome(notification.record.id, write)


def _requested_wait(error: Exception) -> float:
    """Return the seconds that the receiver asked to wait, if they are plausible."""
    after = error.after if isinstance(error, RetryLater) else None
    if isinstance(after, int | float) and 0 <= after < math.inf:
        return min(after, _MAX_WAIT_SECONDS)
    return 0.0


def _error_text(error: Exception) -> str:
    """Return the message of a delivery error; for others the class, as a message may be secret."""
    if isinstance(error, RetryLater | Rejected):
        return str(error)
    return type(error).__name__


def backoff(failures: int, jitter: float) -> float:
    """Return the seconds to wait after consecutive failures: doubled each time, up to a minute.

    Args:
        failures: Number of failures, at least 1.
        jitter: Number from 0 to 1, so that retries after a common failure are spread.
    """
    longest = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + jitter / 2)

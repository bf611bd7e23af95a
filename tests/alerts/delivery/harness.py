"""Outbox with clocks that a test advances, and sinks that raise chosen errors."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence

import anyio

from tokenpulse_mw.alerts import AlertEvent, Finding, Severity, Sink, Subject
from tokenpulse_mw.alerts.delivery import DeliveryContext, Outbox
from tokenpulse_mw.alerts.lifecycle import Transition
from tokenpulse_mw.alerts.steps import finish, mapped
from tokenpulse_mw.alerts.store import AlertStore, Changes, Leader, MemoryAlertStore, Notification
from tokenpulse_mw.alerts.store_writer import StoreWriter
from tokenpulse_mw.alerts.tracker import AlertChanges

from ...support.clock import FakeClock
from ...support.waiting import PATIENCE
from ..store.leadership import leader_of


class DeliveryHarness:
    """Outbox with its store and clocks; `jitter` is always 1, so that waits are the longest.

    Args:
        sinks: Sinks by name.
        max_pending: Maximum number of queued notifications of each sink.
        deadline: Timeout of an attempt in seconds of real time.
        store: Store; by default one in memory.
        clock: Monotonic clock instead of the one that `advance` moves.

    Attributes:
        clock: Monotonic clock.
        wall: Wall clock.
        results: Names of sinks and results of attempts.
        reported: Components and classes of errors.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        *,
        max_pending: int = 100,
        deadline: float = PATIENCE,
        store: AlertStore | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock, self.wall = FakeClock(), FakeClock(1_700_000_000.0)
        self.store = store or MemoryAlertStore(wall=self.wall)
        self.results: list[tuple[str, str]] = []
        self.reported: list[tuple[str, str]] = []
        self.leader: Leader | None = None
        self.fenced = 0
        writer = StoreWriter(
            self.store,
            leader=lambda: self.leader,
            fenced=self._lose,
            deadline=PATIENCE,
            report=self.report,
        )
        context = DeliveryContext(
            writer=writer,
            claim=self.claim,
            deadline=deadline,
            max_pending=max_pending,
            clock=clock or self.clock,
            wall=self.wall,
            jitter=lambda: 1.0,
            report=self.report,
            delivered=lambda sink, result: self.results.append((sink, result)),
        )
        self.outbox = Outbox(sinks, context)

    async def claim(self, _: str) -> float:
        """Allow every attempt of the leader."""
        return 0 if self.leader is None else float("inf")

    def _lose(self) -> None:
        self.fenced += 1
        self.leader = None

    def report(self, component: str, error: Exception) -> None:
        """Record a failure."""
        self.reported.append((component, type(error).__name__))

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    async def publish(self, *events: AlertEvent, firing: Sequence[AlertEvent] = ()) -> None:
        """Publish the events and the firing alerts of an evaluation."""
        self.leader = self.leader or await leader_of(self.store)
        await self.outbox.publish(
            [AlertChanges(notifications=list(events))],
            None,
            mapped(lambda event: event, firing),
            self.wall(),
        )

    async def resume(self, *notifications: Notification, known_sinks: Container[str] = ()) -> None:
        """Store the notifications, if they are not, and queue them as a new leader does."""
        self.leader = await leader_of(self.store)
        await self.store.commit(Changes(notifications=notifications), leader=self.leader)
        finish(self.outbox.resume(notifications, known_sinks))

    async def deliver(self, *events: AlertEvent, firing: Sequence[AlertEvent] = ()) -> None:
        """Publish an evaluation and attempt what is due."""
        await self.publish(*events, firing=firing)
        await self.outbox.attempt()

    async def attempt_after(self, seconds: float) -> None:
        """Advance the clocks and attempt what is due."""
        self.advance(seconds)
        await self.outbox.attempt()

    async def stored(self) -> tuple[Notification, ...]:
        """Return the notifications that the next leader would deliver."""
        self.leader = self.leader or await leader_of(self.store)
        return (await self.store.take_over(self.leader)).notifications

    async def dead_letters(self) -> list[tuple[str, str]]:
        """Return the fingerprints and errors of the dead letters, the oldest first."""
        dead_letters = await self.store.dead_letters(1000)
        return [
            (dead_letter.notification.fingerprint, dead_letter.error)
            for dead_letter in reversed(dead_letters)
        ]


class RecordingSink:
    """Sink that raises `errors`, one per call (None for success), and then always succeeds.

    Attributes:
        errors: Remaining errors.
        attempted: Events of all calls.
        delivered: Events of the successful calls.
    """

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = iter(errors)
        self.attempted: list[AlertEvent] = []
        self.delivered: list[AlertEvent] = []

    async def __call__(self, event: AlertEvent) -> None:
        self.attempted.append(event)
        error = next(self.errors, None)
        if error is not None:
            raise error
        self.delivered.append(event)


class ResendingSink(RecordingSink):
    """Sink that is sent all firing alerts after each evaluation, and raises `errors` then.

    Attributes:
        resent: Events of all calls of `resend`.
        succeeded: Set by the first successful call of `resend`.
    """

    def __init__(self, *errors: Exception | None) -> None:
        super().__init__()
        self.resend_errors = iter(errors)
        self.resent: list[Sequence[AlertEvent]] = []
        self.succeeded = anyio.Event()

    async def resend(self, events: Sequence[AlertEvent], at: float) -> None:
        """Record the events and raise the next error."""
        self.resent.append(events)
        error = next(self.resend_errors, None)
        if error is not None:
            raise error
        self.succeeded.set()


def make_event(
    transition: Transition = "fired",
    key: str = "k1",
    *,
    at: float = 1_700_000_000.0,
    episode: str = "e1",
    severity: Severity = "warning",
) -> AlertEvent:
    """Return an event of an alert about a key."""
    finding = Finding(
        type="trouble", subject=Subject("key", key), severity=severity, title="", message=""
    )
    return AlertEvent(transition, finding, at, alert_id=f"{key}-{episode}", fired_at=at)


def summaries(events: Iterable[AlertEvent]) -> list[str]:
    """Return the transition and the key of each event."""
    return [f"{event.transition} {event.finding.subject.id}" for event in events]

"""An outbox whose clock a test moves, and sinks that answer as it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import anyio

from tokenpulse_mw.alerts import AlertEvent, Finding, Severity, Sink, Subject
from tokenpulse_mw.alerts.delivery import DeliveryContext, Outbox
from tokenpulse_mw.alerts.lifecycle import Transition
from tokenpulse_mw.alerts.steps import mapped
from tokenpulse_mw.alerts.store import AlertStore, EngineState, MemoryAlertStore
from tokenpulse_mw.alerts.store_writer import StoreWriter
from tokenpulse_mw.alerts.tracker import AlertChanges

from ...support.clock import FakeClock
from ...support.waiting import PATIENCE


class DeliveryHarness:
    """An outbox with all that it needs; `jitter` is always 1, so that waits are the longest.

    Args:
        sinks: By their names.
        most: Letters that may wait for one sink.
        deadline: Seconds of real time that an attempt may take.
        store: Where it is kept.
        clock: Monotonic seconds, in place of those that `advance` moves.

    Attributes:
        clock: Monotonic seconds, moved by `advance` only.
        wall: Seconds since the epoch, which move with it.
        tallied: What `delivered` was told.
        reported: What failed, and with what.
    """

    def __init__(
        self,
        sinks: Mapping[str, Sink],
        *,
        most: int = 100,
        deadline: float = PATIENCE,
        store: AlertStore | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.clock, self.wall = FakeClock(), FakeClock(1_700_000_000.0)
        self.store = store or MemoryAlertStore(wall=self.wall)
        self.tallied: list[tuple[str, str]] = []
        self.reported: list[tuple[str, str]] = []
        desk = DeliveryContext(
            writer=StoreWriter(self.store, deadline=PATIENCE, report=self.report),
            deadline=deadline,
            max_pending=most,
            clock=clock or self.clock,
            wall=self.wall,
            jitter=lambda: 1.0,
            report=self.report,
            delivered=lambda sink, result: self.tallied.append((sink, result)),
        )
        self.outbox = Outbox(sinks, desk)

    def report(self, component: str, error: Exception) -> None:
        """Note what has failed."""
        self.reported.append((component, type(error).__name__))

    def advance(self, seconds: float) -> None:
        """Let time pass for both clocks."""
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    async def publish(self, *events: AlertEvent, firing: Sequence[AlertEvent] = ()) -> None:
        """A round has brought these events, and left these alerts firing."""
        await self.outbox.publish(
            [AlertChanges(notifications=list(events))],
            mapped(lambda event: event, firing),
            self.wall(),
        )

    async def tell(self, *events: AlertEvent, firing: Sequence[AlertEvent] = ()) -> None:
        """The same, and what is due is handed out."""
        await self.publish(*events, firing=firing)
        await self.outbox.attempt()

    async def after(self, seconds: float) -> None:
        """Let time pass, and then hand out what is due."""
        self.advance(seconds)
        await self.outbox.attempt()

    async def kept(self) -> EngineState:
        """What a process after this one would go on with."""
        return await self.store.load()

    async def dead(self) -> list[tuple[str, str]]:
        """The alerts and the errors of the dead letters, the oldest first."""
        letters = await self.store.dead_letters(1000)
        return [(each.notification.fingerprint, each.error) for each in reversed(letters)]


class Taking:
    """A sink that raises what it is given to raise, one a call, and then takes everything.

    Attributes:
        asked: Every event it was ever given.
        taken: Those that it took.
    """

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = iter(answers)
        self.asked: list[AlertEvent] = []
        self.taken: list[AlertEvent] = []

    async def __call__(self, event: AlertEvent) -> None:
        self.asked.append(event)
        answer = next(self.answers, None)
        if answer is not None:
            raise answer
        self.taken.append(event)


class Sending(Taking):
    """A sink that is told again and again of all that fires, and raises as it is given to."""

    def __init__(self, *answers: Exception | None) -> None:
        super().__init__()
        self.again = iter(answers)
        self.asked_again: list[Sequence[AlertEvent]] = []
        self.sent = anyio.Event()

    async def resend(self, events: Sequence[AlertEvent], at: float) -> None:
        """Tell of these."""
        self.asked_again.append(events)
        answer = next(self.again, None)
        if answer is not None:
            raise answer
        self.sent.set()


def make_event(
    transition: Transition = "fired",
    key: str = "k1",
    *,
    at: float = 1_700_000_000.0,
    episode: str = "e1",
    severity: Severity = "warning",
) -> AlertEvent:
    """What is told of a key."""
    finding = Finding(
        type="trouble", subject=Subject("key", key), severity=severity, title="", message=""
    )
    return AlertEvent(transition, finding, at, alert_id=f"{key}-{episode}", fired_at=at)


def seen(events: Iterable[AlertEvent]) -> list[str]:
    """What happened to whom, in order."""
    return [f"{each.transition} {each.finding.subject.id}" for each in events]

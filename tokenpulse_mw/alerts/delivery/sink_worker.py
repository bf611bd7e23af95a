"""One sink and what waits for it; no other sink waits with it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from ...outages import Outage
from ..sinks import AlertEvent, Rejected, RetryLater, Sink
from ..sinks.text import LONGEST_FINGERPRINT, single_line
from ..steps import STEP, Steps, batches, in_steps
from ..store_writer import StoreWriter
from ..timeouts import Recovered, Report, call_with_timeout, ignored
from .queue import NotificationQueue, QueuedNotification

_LONGEST_TRY = 86_400.0  # seconds of trying in this process; who has not heard of an alert for a


# day has other news by now
_LONGEST_WAIT = 3600.0  # seconds, whatever a sink asks for


_CLOSING = 5.0  # seconds


logger = logging.getLogger("tokenpulse_mw.alerts")


@dataclass(frozen=True, slots=True)
class DeliveryContext:
    """What all lanes of an outbox have in common.

    Attributes:
        writer: Is told what became of each letter.
        deadline: Seconds that one attempt may take.
        max_pending: Letters that may wait for one sink.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.
        jitter: A number from 0 to 1, by chance.
        report: Told of each failure that a sink should not have.
        delivered: Told of each attempt: the sink's name, and "ok", "error", "timeout",
            "rejected" or "dropped".
        recovered: Called with the name that `report` is called with, for each success.
    """

    writer: StoreWriter
    deadline: float
    max_pending: int
    clock: Callable[[], float]
    wall: Callable[[], float]
    jitter: Callable[[], float]
    report: Report
    delivered: Callable[[str, str], None]
    recovered: Recovered = ignored


class SinkWorker:
    """Hands letters to a sink, one at a time, and those that fail again later.

    After a failure the sink is left alone for a while, twice as long each time: then one letter
    tries, and when it is taken the others follow.

    Args:
        name: Of the sink.
        sink: Where the letters go.
        desk: What it shares with the other lanes.
    """

    def __init__(self, name: str, sink: Sink, desk: DeliveryContext) -> None:
        self.name = name
        self._sink = sink
        self._desk = desk
        self._letters = NotificationQueue(most=desk.max_pending)
        self._resend: Any = getattr(sink, "resend", None)
        self._firing: tuple[Sequence[AlertEvent], float] | None = None
        self._paused_until = -math.inf
        self._failures = 0
        self._outage = Outage(logger, clock=desk.clock)
        self._news = anyio.Event()
        self._busy = anyio.Lock()

    def __len__(self) -> int:
        return len(self._letters)

    def has(self, fingerprint: str) -> bool:
        """Whether something of this alert waits for the sink."""
        return fingerprint in self._letters

    def put(self, letter: QueuedNotification) -> None:
        """Let a letter wait for the sink; what goes for want of room is a dead letter."""
        for each in self._letters.put(letter):
            self._desk.delivered(self.name, "dropped")
            said = "later events took its place"
            self._desk.writer.defer(each.notification.id, self._dead_letter(each, said))
        self._news.set()

    @property
    def resends(self) -> bool:
        """True if the sink sends all that fires again and again."""
        return self._resend is not None

    def fires(self, events: Sequence[AlertEvent], at: float) -> None:
        """Send all that fires now again, to a sink that `resends`."""
        self._firing = (events, at)
        self._news.set()

    async def run(self) -> None:
        """Hand out what is due, for ever."""
        while True:
            self._news = anyio.Event()
            try:
                if await self.attempt():
                    continue
            except Exception as error:  # noqa: BLE001 - it must not end the other lanes
                self._failed(error)
            with anyio.move_on_after(self._idle()):
                await self._news.wait()

    async def attempt(self) -> bool:
        """Hand out one letter, or what fires; False where nothing is due now."""
        async with self._busy:
            now = self._desk.clock()
            if now < self._paused_until:
                return False
            letter = self._letters.due(now)
            if letter is not None:
                await self._deliver(letter)
                return True
            return await self._send_again()

    async def test(self, event: AlertEvent) -> str | None:
        """Hand over an event past all that waits, once, and give what went wrong."""
        try:
            await call_with_timeout(self._desk.deadline, partial(self._sink, event))
        except Exception as error:  # noqa: BLE001 - whoever tests wants to know
            return _said(error)
        return None

    async def aclose(self) -> None:
        """Let the sink close what it holds open."""
        aclose = getattr(self._sink, "aclose", None)
        if aclose is not None:
            try:
                await call_with_timeout(min(_CLOSING, self._desk.deadline), aclose)
            except Exception as error:  # noqa: BLE001 - the others are to be closed as well
                self._desk.report(f"sink {self.name}", error)

    def _idle(self) -> float:
        """Seconds until there is something to do."""
        next_at = self._letters.next_at()
        if self._firing is None and next_at is None:
            return math.inf
        return max(self._paused_until, next_at or 0.0) - self._desk.clock()

    async def _deliver(self, letter: QueuedNotification) -> None:
        letter.attempts += 1
        error = await self._ask(partial(self._sink, letter.event))
        if error is None:
            self._letters.done(letter)
            store, identity = self._desk.writer.store, letter.notification.id
            await self._record_outcome(letter, partial(store.delivered, identity))
        elif isinstance(error, Rejected) or self._desk.clock() - letter.since > _LONGEST_TRY:
            await self._give_up(letter, error)
        else:
            await self._postpone(letter, error)

    async def _send_again(self) -> bool:
        if self._firing is None:
            return False
        (events, at), self._firing = self._firing, None
        # What waits is told by its letter, or an end would be undone by what fired before it.
        told = await in_steps(self._not_waiting(events))
        await self._ask(partial(self._resend, told, at), counted=False)
        return True

    def _not_waiting(self, events: Sequence[AlertEvent]) -> Steps[list[AlertEvent]]:
        told = list[AlertEvent]()
        for batch in batches(events):
            told += [event for event in batch if event.fingerprint not in self._letters]
            if len(batch) == STEP:
                yield
        return told

    async def _ask(self, call: Callable[[], Any], *, counted: bool = True) -> Exception | None:
        """Make one attempt, and give what it failed with."""
        try:
            await call_with_timeout(self._desk.deadline, call)
        except Exception as error:  # noqa: BLE001 - one sink must not cost the others
            self._failed(error)
            return error
        if counted:
            self._desk.delivered(self.name, "ok")
        self._failures = 0
        self._outage.recovered("sink %s takes alerts again; %d wait for it", self.name, len(self))
        self._desk.recovered(f"sink {self.name}")
        return None

    def _failed(self, error: Exception) -> None:
        """Leave the sink alone for a while, unless it only refused what it was given."""
        if isinstance(error, Rejected):
            self._desk.delivered(self.name, "rejected")
            return
        self._desk.delivered(self.name, "timeout" if isinstance(error, TimeoutError) else "error")
        self._failures += 1
        wait = max(_asked_for(error), backoff(self._failures, self._desk.jitter()))
        self._paused_until = self._desk.clock() + wait
        if not isinstance(error, RetryLater):
            self._desk.report(f"sink {self.name}", error)
        else:
            self._outage.failed(
                "sink %s does not take alerts, which wait for it: %s", self.name, error
            )

    async def _postpone(self, letter: QueuedNotification, error: Exception) -> None:
        desk = self._desk
        wait = max(backoff(letter.attempts, desk.jitter()), self._paused_until - desk.clock())
        if not self._letters.postpone(letter, desk.clock() + wait):
            return  # it is a dead letter by now
        postponed = partial(
            desk.writer.store.postponed,
            letter.notification.id,
            letter.attempts,
            desk.wall() + wait,
            _said(error),
        )
        await self._record_outcome(letter, postponed)

    async def _give_up(self, letter: QueuedNotification, error: Exception) -> None:
        self._letters.done(letter)
        logger.error(
            "sink %s was not told that %s %s: %s",
            self.name,
            single_line(letter.event.fingerprint, LONGEST_FINGERPRINT),
            letter.event.transition,
            _said(error),
        )
        await self._record_outcome(letter, self._dead_letter(letter, _said(error)))

    def _dead_letter(self, letter: QueuedNotification, said: str) -> Callable[[], Any]:
        store, identity = self._desk.writer.store, letter.notification.id
        return partial(store.dead, identity, self._desk.wall(), said)

    async def _record_outcome(self, letter: QueuedNotification, write: Callable[[], Any]) -> None:
        # What was handed over must be known to be, also when the engine is just being left.
        with anyio.CancelScope(shield=True):
            await self._desk.writer.record_outcome(letter.notification.id, write)


def _asked_for(error: Exception) -> float:
    """Seconds that the receiver asked us to wait, if it did so in earnest."""
    after = error.after if isinstance(error, RetryLater) else None
    if isinstance(after, int | float) and 0 <= after < math.inf:
        return min(after, _LONGEST_WAIT)
    return 0.0


def _said(error: Exception) -> str:
    """What may be shown of an error: only our own sinks' are sure to have no secret in them."""
    if isinstance(error, RetryLater | Rejected):
        return str(error)
    return type(error).__name__


_FIRST = 1.0  # seconds


_LONGEST = 60.0


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, up to a minute.

    Args:
        failures: At least 1.
        jitter: From 0 to 1; those that failed together must not all come back together.
    """
    longest = min(_LONGEST, _FIRST * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + jitter / 2)

"""The engine: watches the traffic, and in each round decides which alerts begin and end."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

import anyio

from ..exchange import Exchange, Failures
from ..lifespan import beside
from . import arguments
from .calls import within
from .controls import Controls
from .journal import Journal
from .judge import Judge
from .lifecycle import Finding
from .outbox import Desk, Outbox, names_of
from .rules import Rule
from .silences import Silences
from .sinks import AlertEvent, Sink
from .steps import in_steps
from .store import AlertStore, Kept, StoreError
from .thresholds import Thresholds

_LAST_CHANCE = 5.0  # seconds for what is to be told yet when the engine is left
_STORE_DEADLINE = 10.0  # seconds
_SINK_DEADLINE = 60.0  # seconds for one attempt; those that send by HTTP have a shorter one
_MOST_WAITING = 10_000  # notifications for each sink
_KEPT_FOR = 30 * 86_400.0  # seconds that what is over is kept, if not many others are
_DAY = 86_400.0

logger = logging.getLogger("tokenpulse_mw.alerts")


class AlertEngine:
    """Turns traffic into alerts that fire once, for a reason, and go away.

    Give `observe` to an `ExchangeMiddleware` (or use `AlertMiddleware`), and let the engine run:
    `async with engine:` evaluates every `interval` seconds until it is left, and hands over what
    is to be told meanwhile. A rule, a sink or a store that raises is logged and stops nothing
    else; the alerts of a rule that raises stay as they are. A sink's `resend`, if it has one, is
    given all that fires in every round, and its `aclose` is awaited at the end.

    Args:
        rules: Callables of (traffic, thresholds, now) that give findings.
        sinks: Told every event, each at its own pace.
        thresholds: What the rules compare with, until `controls` sets others.
        interval: Seconds from one round to the next.
        cooldown: Seconds after which an alert that lasts is told again, as a reminder.
        max_subjects: Keys, masters and upstreams that are told apart.
        store: Keeps what has to survive a restart; in memory, where nothing does, when None. Each
            engine needs one of its own.
        clock: Monotonic seconds.
        wall: Seconds since the epoch, for display and for what is kept.

    Attributes:
        controls: Thresholds, silences and acknowledgements, to be changed while it runs.
        store: What is kept.

    Raises:
        ValueError: An argument is not what it should be, or a sink wants to send again less often
            than once in an `interval`.
    """

    def __init__(
        self,
        rules: Iterable[Rule] | None = None,
        sinks: Iterable[Sink] | None = None,
        *,
        thresholds: Thresholds | None = None,
        interval: float = 60,
        cooldown: float = 300,
        max_subjects: int = 5000,
        store: AlertStore | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        arguments.check_numbers(interval=interval, cooldown=cooldown, max_subjects=max_subjects)
        thresholds, silences = arguments.checked_thresholds(thresholds), Silences()
        self.interval, self.cooldown = interval, cooldown
        self.store = arguments.checked_store(store, wall)
        self._clock, self._wall = clock, wall
        self._failures = Failures(
            logger=logger, others="alerts", explained=(StoreError,), clock=clock
        )
        self._listeners = list[Any]()
        self._running: AbstractAsyncContextManager[None] | None = None
        self._resuming, self._resumed = anyio.Lock(fast_acquire=True), False
        self._deciding = anyio.Lock(
            fast_acquire=True
        )  # one decision at a time, as it takes many steps
        self._last_round, self._pruned_at = wall(), -math.inf
        self._judge = Judge(
            arguments.checked_rules(rules),
            thresholds=thresholds,
            interval=interval,
            cooldown=cooldown,
            max_subjects=max_subjects,
            is_silenced=silences.covered,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self._journal = Journal(
            self.store,
            deadline=_STORE_DEADLINE,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self.controls = Controls(
            thresholds=thresholds,
            judge=self._judge,
            silences=silences,
            journal=self._journal,
            catch_up=self._resume,
            deciding=self._deciding,
            wall=wall,
        )
        named = names_of(arguments.checked_sinks(sinks), interval=interval)
        self._outbox = Outbox(named, self._desk())

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        self._judge.traffic.observe(exchange, self._clock())

    def listen(self, listener: object) -> None:
        """Tell `listener` how the engine fares, such as an `HttpMetrics`.

        It may have the methods `evaluated(result, seconds)` with "ok" or "error" for each round,
        `delivered(sink, result)` with "ok", "error", "timeout", "rejected" or "dropped" for each
        attempt to hand something to a sink, and `failed(component)`.
        """
        if listener not in self._listeners:
            self._listeners.append(listener)

    @property
    def firing(self) -> list[Finding]:
        """What is wrong now, as last found."""
        return self._judge.board.findings()

    @property
    def thresholds(self) -> Thresholds:
        """What the rules compare with; `controls.set_thresholds` sets others."""
        return self.controls.thresholds

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by their names."""
        return dict(self._judge.rules)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the sinks."""
        return tuple(name for (name,) in self._outbox.waiting())

    async def evaluate(self) -> list[AlertEvent]:
        """One round: ask every rule, keep what has changed, and return it.

        What is to be told is handed over while the engine runs; where it does not, that is done
        before this returns, with one attempt for each sink that fails.
        """
        await self._resume()
        await self._judge.rules.refresh()
        async with self._deciding:
            now, at = self._clock(), self._wall()
            traffic = self._judge.traffic
            decision = self._judge.decide(self.thresholds, now, at)
            news, whole = await in_steps(decision, may_pause=lambda: not traffic.is_crowded)
            self._last_round = at if whole else self._last_round
            self._tell_listeners("evaluated", "ok" if whole else "error", self._clock() - now)
        await self._outbox.publish(news, self._judge.board.firing(), at)
        await in_steps(traffic.settle())
        if self._running is None:
            await self._outbox.attempt()
        await self._prune(at)
        return [event for each in news for event in each.events]

    async def preview(self, thresholds: Thresholds | None = None) -> list[Finding]:
        """Return what an evaluation would find now with `thresholds`, without changing anything.

        Where `error_window` or what counts as a failure is another one, what was counted by the
        old ones is judged.
        """
        async with self._deciding:
            tried = thresholds or self.thresholds
            traffic = self._judge.traffic
            preview = self._judge.preview(tried, self._clock())
            return await in_steps(preview, may_pause=lambda: not traffic.is_crowded)

    async def test(self, sink: str) -> str | None:
        """Tell one sink a test alert, at once and once, and give what went wrong, if anything.

        Raises:
            KeyError: There is no sink of that name.
        """
        return await self._outbox.test(sink)

    async def run(self) -> None:
        """Evaluate every `interval` seconds, for ever."""
        while True:
            await anyio.sleep(self.interval)
            try:
                await within(math.inf, self.evaluate)
            except Exception as error:  # noqa: BLE001 - the next round may fare better
                self._report("a round", error)
            else:
                self._failures.recovered("a round")

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this AlertEngine is running already; enter it once")
        await self._resume()
        self._running = beside(self.run, self._outbox.run)
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.__aexit__(None, None, None)  # what the body raised is its own
            with anyio.CancelScope(shield=True):
                await self._outbox.aclose(last_chance=min(self.interval, _LAST_CHANCE))

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many alerts there are of each type, severity and state."""
        return self._judge.board.counts()

    def waiting(self) -> Mapping[tuple[str], int]:
        """How many notifications wait for each sink."""
        return self._outbox.waiting()

    def last_round(self) -> Mapping[tuple[()], float]:
        """When all rules were last asked with success, or the engine was made: epoch seconds."""
        return {(): self._last_round}

    def overflowed(self) -> Mapping[tuple[()], int]:
        """Return how much was counted as `__overflow__`, and how many findings became no alert."""
        return {(): self._judge.traffic.overflowed + self._judge.board.overflowed}

    async def _resume(self) -> None:
        """Go on where the process before this one ended, as soon as the store says where."""
        async with self._resuming:
            kept = None if self._resumed else await self._journal.load()
            if kept is not None:
                with anyio.CancelScope(shield=True):  # or half of it would be lost
                    await self._take_up(kept)

    async def _take_up(self, kept: Kept) -> None:
        async with self._deciding:
            self._resumed = True
            now, at = self._clock(), self._wall()
            await self.controls.resume(kept)
            news = await in_steps(self._judge.resume(kept.alerts, now, at))
        await in_steps(self._outbox.resume(kept.notifications))
        await self._outbox.publish(news, self._judge.board.firing(), at)

    async def _prune(self, at: float) -> None:
        if at - self._pruned_at >= _DAY:
            self._pruned_at = at
            await self._journal.prune(at - _KEPT_FOR)

    def _desk(self) -> Desk:
        return Desk(
            journal=self._journal,
            deadline=_SINK_DEADLINE,
            most=_MOST_WAITING,
            clock=self._clock,
            wall=self._wall,
            jitter=random.random,
            report=self._report,
            recovered=self._failures.recovered,
            delivered=lambda sink, result: self._tell_listeners("delivered", sink, result),
        )

    def _report(self, component: str, error: Exception) -> None:
        """Log a failure if a line is due, and count it as the component `alerts`."""
        self._failures.log(component, error)
        self._tell_listeners("failed", "alerts")

    def _tell_listeners(self, hook: str, *arguments: Any) -> None:
        self._failures.call(hook, self._listeners, *arguments)

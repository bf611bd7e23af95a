"""The engine: watches the traffic, and in each round decides which alerts begin and end."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from inspect import isclass
from typing import Any, Self

import anyio

from ..exchange import ErrorReporter, Exchange
from ..lifespan import background_tasks
from ..validation import check_functions, check_numbers, describe
from .controls import Controls
from .delivery import DeliveryContext, Outbox, names_of
from .evaluator import Evaluator
from .lifecycle import Finding
from .rules import Rule, default_rules
from .silences import Silences
from .sinks import AlertEvent, LogSink, Sink
from .steps import in_steps
from .store import AlertStore, EngineState, MemoryAlertStore, StoreError
from .store_writer import StoreWriter
from .thresholds import Thresholds
from .timeouts import call_with_timeout

_CLOSE_SECONDS = 5.0  # seconds for what is to be told yet when the engine is left


_STORE_SECONDS = 10.0  # seconds


_SINK_SECONDS = 60.0  # seconds for one attempt; those that send by HTTP have a shorter one


_MAX_QUEUED = 10_000  # notifications for each sink


_RETENTION_DAYS = 30 * 86_400.0  # seconds that what is over is kept, if not many others are


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
        check_numbers(interval=interval, cooldown=cooldown, max_subjects=max_subjects)
        thresholds, silences = check_thresholds(thresholds), Silences()
        self.interval, self.cooldown = interval, cooldown
        self.store = check_store(store, wall)
        self._clock, self._wall = clock, wall
        self._failures = ErrorReporter(
            logger=logger, continuing="alerts", self_explanatory=(StoreError,), clock=clock
        )
        self._listeners = list[Any]()
        self._running: AbstractAsyncContextManager[None] | None = None
        self._resuming, self._resumed = anyio.Lock(fast_acquire=True), False
        self._deciding = anyio.Lock(
            fast_acquire=True
        )  # one decision at a time, as it takes many steps
        self._last_round, self._pruned_at = wall(), -math.inf
        self._judge = Evaluator(
            check_rules(rules),
            thresholds=thresholds,
            interval=interval,
            cooldown=cooldown,
            max_subjects=max_subjects,
            is_silenced=silences.covered,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self._journal = StoreWriter(
            self.store,
            deadline=_STORE_SECONDS,
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
        named = names_of(check_sinks(sinks), interval=interval)
        self._outbox = Outbox(named, self._delivery())

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        self._judge.traffic.observe(exchange, self._clock())

    def add_listener(self, listener: object) -> None:
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
        return tuple(name for (name,) in self._outbox.queue_length())

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
            decision = self._judge.evaluate(self.thresholds, now, at)
            news, whole = await in_steps(decision, may_pause=lambda: not traffic.is_crowded)
            self._last_round = at if whole else self._last_round
            self._notify_listeners("on_evaluation", "ok" if whole else "error", self._clock() - now)
        await self._outbox.publish(news, self._judge.board.firing(), at)
        await in_steps(traffic.settle())
        if self._running is None:
            await self._outbox.attempt()
        await self._prune(at)
        return [event for each in news for event in each.events]

    async def dry_run(self, thresholds: Thresholds | None = None) -> list[Finding]:
        """Return what an evaluation would find now with `thresholds`, without changing anything.

        Where `error_window` or what counts as a failure is another one, what was counted by the
        old ones is judged.
        """
        async with self._deciding:
            tried = thresholds or self.thresholds
            traffic = self._judge.traffic
            preview = self._judge.dry_run(tried, self._clock())
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
                await call_with_timeout(math.inf, self.evaluate)
            except Exception as error:  # noqa: BLE001 - the next round may fare better
                self._report("a round", error)
            else:
                self._failures.recovered("a round")

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this AlertEngine is running already; enter it once")
        await self._resume()
        self._running = background_tasks(self.run, self._outbox.run)
        await self._running.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.__aexit__(None, None, None)  # what the body raised is its own
            with anyio.CancelScope(shield=True):
                await self._outbox.aclose(last_chance=min(self.interval, _CLOSE_SECONDS))

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many alerts there are of each type, severity and state."""
        return self._judge.board.counts()

    def queue_length(self) -> Mapping[tuple[str], int]:
        """How many notifications wait for each sink."""
        return self._outbox.queue_length()

    def last_evaluation(self) -> Mapping[tuple[()], float]:
        """When all rules were last asked with success, or the engine was made: epoch seconds."""
        return {(): self._last_round}

    def overflow(self) -> Mapping[tuple[()], int]:
        """Return how much was counted as `__overflow__`, and how many findings became no alert."""
        return {(): self._judge.traffic.overflowed + self._judge.board.overflowed}

    async def _resume(self) -> None:
        """Go on where the process before this one ended, as soon as the store says where."""
        async with self._resuming:
            kept = None if self._resumed else await self._journal.load()
            if kept is not None:
                with anyio.CancelScope(shield=True):  # or half of it would be lost
                    await self._take_up(kept)

    async def _take_up(self, kept: EngineState) -> None:
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
            await self._journal.prune(at - _RETENTION_DAYS)

    def _delivery(self) -> DeliveryContext:
        return DeliveryContext(
            journal=self._journal,
            deadline=_SINK_SECONDS,
            most=_MAX_QUEUED,
            clock=self._clock,
            wall=self._wall,
            jitter=random.random,
            report=self._report,
            recovered=self._failures.recovered,
            delivered=lambda sink, result: self._notify_listeners("on_delivery", sink, result),
        )

    def _report(self, component: str, error: Exception) -> None:
        """Log a failure if a line is due, and count it as the component `alerts`."""
        self._failures.log(component, error)
        self._notify_listeners("on_error", "alerts")

    def _notify_listeners(self, hook: str, *arguments: Any) -> None:
        self._failures.notify(hook, self._listeners, *arguments)


_RULES = (
    "rules must be a list of functions of (traffic, thresholds, now), such as default_rules() or "
    "[*default_rules(), my_rule]"
)


_SINKS = (
    "sinks must be a list of functions of an AlertEvent, such as [LogSink()] or [WebhookSink(url)]"
)


def check_rules(rules: Iterable[Rule] | None) -> tuple[Rule, ...]:
    """Those that are to be asked.

    Raises:
        ValueError: One cannot be, or they are no list.
    """
    return check_functions(default_rules() if rules is None else rules, 3, _RULES)


def check_sinks(sinks: Iterable[Sink] | None) -> tuple[Sink, ...]:
    """Those that are to be told.

    Raises:
        ValueError: One cannot be, or they are no list.
    """
    return check_functions([LogSink()] if sinks is None else sinks, 1, _SINKS)


def check_store(store: AlertStore | None, wall: Callable[[], float]) -> AlertStore:
    """The one that is to keep what happens; in memory, where there is none.

    Raises:
        ValueError: It keeps nothing, such as the URL of a database.
    """
    if store is None:
        return MemoryAlertStore(wall=wall)
    if isclass(store) or not callable(getattr(store, "commit", None)):
        raise ValueError(
            "store must be an AlertStore, such as SQLAlertStore(url) or MemoryAlertStore(), got "
            f"{describe(store)}"
        )
    return store


def check_thresholds(thresholds: Thresholds | None) -> Thresholds:
    """Those that hold.

    Raises:
        ValueError: They are something else, such as a mapping.
    """
    if thresholds is None:
        return Thresholds()
    if not isinstance(thresholds, Thresholds):
        raise ValueError(
            "thresholds must be Thresholds, such as Thresholds(error_rate=0.2), or "
            f"Thresholds(**values) of a dict, got {describe(thresholds)}"
        )
    return thresholds

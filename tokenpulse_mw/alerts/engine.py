"""Alert engine: evaluates rules over the observed traffic and notifies sinks."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import isclass
from typing import Any, NamedTuple, Self

import anyio

from ..exchange import ErrorReporter, Exchange
from ..lifespan import LoopLock, background_tasks
from ..validation import check_functions, check_positive, describe
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

_CLOSE_SECONDS = 5.0  # for the last deliveries when the engine stops
_STORE_SECONDS = 10.0  # for one call of the store
_SINK_SECONDS = 60.0  # for one attempt; HTTP sinks have a shorter timeout
_MAX_QUEUED = 10_000  # notifications for each sink
_DAY = 86_400.0
_RETENTION_SECONDS = 30 * _DAY  # of resolved alerts and dead letters


logger = logging.getLogger("tokenpulse_mw.alerts")


class DryRun(NamedTuple):
    """Outcome of an evaluation that has changed nothing.

    Attributes:
        findings: The findings of the rules that succeeded.
        errors: Errors by component, such as "rule quota_exceeded".
    """

    findings: list[Finding]
    errors: Mapping[str, Exception]


class AlertEngine:
    """Evaluates rules over the traffic, and fires and resolves alerts.

    Pass `observe` to an `ExchangeMiddleware`, or use `AlertMiddleware`. `async with engine:`
    evaluates every `interval` seconds and delivers notifications. An error of a rule, a sink or
    the store is logged and affects nothing else; the alerts of a failed rule stay as they are. If
    a sink has `resend`, it receives all firing alerts in every evaluation. If it has `aclose`, the
    engine awaits it at the end.

    Args:
        rules: Callables of (traffic, thresholds, now) that return findings; `default_rules()` if
            None.
        sinks: Callables of an `AlertEvent`, each with its own queue; a `LogSink` if None.
        thresholds: Initial thresholds; `controls` changes them.
        interval: Seconds between two evaluations.
        cooldown: Seconds between two reminders of a firing alert.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.
        store: Stores the state over restarts; in memory if None. Each engine needs its own.
        clock: Returns monotonic seconds.
        wall: Returns seconds since the epoch, for display and storage.

    Attributes:
        clock: The argument; a test may replace it.
        wall: The argument; a test may replace it.
        controls: Changes thresholds, silences and acknowledgements at run time.
        store: The store.

    Raises:
        ValueError: An argument is invalid, or the resend interval of a sink is shorter than
            `interval`.
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
        check_positive(interval=interval, cooldown=cooldown, max_subjects=max_subjects)
        self._initial_thresholds, silences = check_thresholds(thresholds), Silences()
        self.clock, self.wall = clock, wall
        self.interval, self.cooldown = interval, cooldown
        self.store = check_store(store, lambda: self.wall())
        self._failures = ErrorReporter(
            logger=logger, continuing="alerts", self_explanatory=(StoreError,), clock=clock
        )
        self._listeners = list[Any]()
        self._running: AbstractAsyncContextManager[None] | None = None
        self._resuming, self._resumed = LoopLock(fast_acquire=True), False
        self._deciding = LoopLock(fast_acquire=True)  # an evaluation takes many steps
        self._last_evaluation, self._pruned_at = wall(), -math.inf
        self._new_evaluator = partial(
            Evaluator,
            check_rules(rules),
            thresholds=self._initial_thresholds,
            interval=interval,
            cooldown=cooldown,
            max_subjects=max_subjects,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self._evaluator = self._new_evaluator(is_silenced=silences.is_silenced)
        self._store_writer = StoreWriter(
            self.store,
            deadline=_STORE_SECONDS,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self.controls = Controls(
            thresholds=self._initial_thresholds,
            evaluator=self._evaluator,
            silences=silences,
            store_writer=self._store_writer,
            catch_up=self._resume,
            deciding=self._deciding,
            wall=lambda: self.wall(),
        )
        named = names_of(check_sinks(sinks), interval=interval)
        self._outbox = Outbox(named, self._delivery())

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        self._evaluator.traffic.observe(exchange, self.clock())

    def reset(self) -> None:
        """Discard everything that the end of the process would discard.

        That is the traffic and, unless they are in a store that outlives the process, all alerts,
        notifications, silences and changes of the thresholds. The next evaluation loads the store.
        An evaluation in progress has no effect.
        """
        silences = Silences()
        self._evaluator = self._new_evaluator(is_silenced=silences.is_silenced)
        self.controls.reset(self._initial_thresholds, self._evaluator, silences)
        self._outbox.reset()
        if isinstance(self.store, MemoryAlertStore):
            self.store.clear()
        self._resumed = False
        self._last_evaluation, self._pruned_at = self.wall(), -math.inf

    def add_listener(self, listener: object) -> None:
        """Notify `listener`, such as an `HttpMetrics`, of evaluations, deliveries and errors.

        All methods are optional: `on_evaluation(result, seconds)` with the result "ok" or "error";
        `on_delivery(sink, result)` for each attempt, with the result "ok", "error", "timeout",
        "rejected" or "dropped"; `on_error(component)`.
        """
        if listener not in self._listeners:
            self._listeners.append(listener)

    @property
    def firing(self) -> list[Finding]:
        """The last finding of each firing alert."""
        return self._evaluator.tracker.findings()

    @property
    def thresholds(self) -> Thresholds:
        """The current thresholds; `controls.set_thresholds` changes them."""
        return self.controls.thresholds

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by name."""
        return dict(self._evaluator.rules)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the sinks."""
        return tuple(name for (name,) in self._outbox.queue_length())

    async def evaluate(self) -> list[AlertEvent]:
        """Evaluate every rule once, and store and return the changes.

        A running engine delivers the notifications in the background. Otherwise they are delivered
        before this returns, with one attempt for each sink that fails.
        """
        await self._resume()
        await self._evaluator.rules.refresh()
        async with self._deciding():
            now, at = self.clock(), self.wall()
            evaluator, traffic = self._evaluator, self._evaluator.traffic
            decision = evaluator.evaluate(self.thresholds, now, at)
            changes, succeeded = await in_steps(decision, may_pause=lambda: not traffic.is_crowded)
            self._last_evaluation = at if succeeded else self._last_evaluation
            self._notify_listeners(
                "on_evaluation", "ok" if succeeded else "error", self.clock() - now
            )
        if evaluator is not self._evaluator:
            return []
        await self._outbox.publish(changes, evaluator.tracker.firing(), at)
        await in_steps(traffic.count_backlog())
        if self._running is None:
            await self._outbox.attempt()
        await self._prune(at)
        return [event for change in changes for event in change.events]

    async def dry_run(self, thresholds: Thresholds | None = None) -> DryRun:
        """Return the outcome of an evaluation with `thresholds`, without changing anything.

        Other values of `error_window` and `count_client_errors` have no effect: the counts are
        those of the current thresholds. Failures are returned, and neither logged nor counted.
        """
        errors: dict[str, Exception] = {}
        await self._evaluator.rules.preview_refresh(errors.__setitem__)
        async with self._deciding():
            traffic = self._evaluator.traffic
            preview = self._evaluator.dry_run(
                thresholds or self.thresholds, self.clock(), errors.__setitem__
            )
            findings = await in_steps(preview, may_pause=lambda: not traffic.is_crowded)
        return DryRun(findings, errors)

    async def test(self, sink: str) -> str | None:
        """Send a test alert to one sink, once, and return the error message, if any.

        Raises:
            KeyError: The name is not a sink's.
        """
        return await self._outbox.test(sink)

    async def run(self) -> None:
        """Evaluate every `interval` seconds until cancelled."""
        while True:
            await anyio.sleep(self.interval)
            try:
                await call_with_timeout(math.inf, self.evaluate)
            except Exception as error:  # noqa: BLE001 - the next evaluation may succeed
                self._report("evaluation", error)
            else:
                self._failures.recovered("evaluation")

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this AlertEngine is already running; enter it once")
        await self._resume()
        self._running = background_tasks(self.run, self._outbox.run)
        await self._running.__aenter__()
        logger.info(
            "alert engine started: rules=%s sinks=%s interval=%gs",
            ",".join(self.rules) or "none",
            ",".join(self.sinks) or "none",
            self.interval,
        )
        return self

    async def __aexit__(self, *raised: Any) -> None:
        running, self._running = self._running, None
        if running is not None:
            # An error of the body is not an error of the tasks.
            await running.__aexit__(None, None, None)
            with anyio.CancelScope(shield=True):
                await self._outbox.aclose(last_chance=min(self.interval, _CLOSE_SECONDS))
            logger.info("alert engine stopped")

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return the number of alerts by type, severity and state."""
        return self._evaluator.tracker.counts()

    def queue_length(self) -> Mapping[tuple[str], int]:
        """Return the number of queued notifications by sink."""
        return self._outbox.queue_length()

    def last_evaluation(self) -> Mapping[tuple[()], float]:
        """Return the time of the last evaluation without errors, in epoch seconds.

        Before the first one, it is the time of construction.
        """
        return {(): self._last_evaluation}

    def overflow(self) -> Mapping[tuple[()], int]:
        """Return the count of `__overflow__` events and of findings above the alert limit."""
        return {(): self._evaluator.traffic.overflowed + self._evaluator.tracker.overflowed}

    async def _resume(self) -> None:
        """Restore the stored state, once; if the store fails, the next call retries."""
        async with self._resuming():
            state = None if self._resumed else await self._store_writer.load()
            if state is not None:
                with anyio.CancelScope(shield=True):  # a partial restore would lose the rest
                    await self._restore(state)

    async def _restore(self, state: EngineState) -> None:
        async with self._deciding():
            self._resumed = True
            now, at = self.clock(), self.wall()
            await self.controls.resume(state)
            changes = await in_steps(self._evaluator.resume(state.alerts, now, at))
        await in_steps(self._outbox.resume(state.notifications))
        await self._outbox.publish(changes, self._evaluator.tracker.firing(), at)

    async def _prune(self, at: float) -> None:
        if at - self._pruned_at >= _DAY:
            self._pruned_at = at
            await self._store_writer.prune(at - _RETENTION_SECONDS)

    def _delivery(self) -> DeliveryContext:
        return DeliveryContext(
            writer=self._store_writer,
            deadline=_SINK_SECONDS,
            max_pending=_MAX_QUEUED,
            clock=lambda: self.clock(),
            wall=lambda: self.wall(),
            jitter=random.random,
            report=self._report,
            recovered=self._failures.recovered,
            delivered=lambda sink, result: self._notify_listeners("on_delivery", sink, result),
        )

    def _report(self, component: str, error: Exception) -> None:
        """Log a failure, rate-limited, and count it for the component `alerts`."""
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
    """Return the rules, or the default ones.

    Raises:
        ValueError: They are not a list of functions of three arguments.
    """
    return check_functions(default_rules() if rules is None else rules, 3, _RULES)


def check_sinks(sinks: Iterable[Sink] | None) -> tuple[Sink, ...]:
    """Return the sinks, or the default one.

    Raises:
        ValueError: They are not a list of functions of one argument.
    """
    return check_functions([LogSink()] if sinks is None else sinks, 1, _SINKS)


def check_store(store: AlertStore | None, wall: Callable[[], float]) -> AlertStore:
    """Return the store, or one in memory.

    Raises:
        ValueError: `store` is not an `AlertStore`.
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
    """Return the thresholds, or the default ones.

    Raises:
        ValueError: `thresholds` is not a `Thresholds`.
    """
    if thresholds is None:
        return Thresholds()
    if not isinstance(thresholds, Thresholds):
        raise ValueError(
            "thresholds must be Thresholds, such as Thresholds(error_rate=0.2), or "
            f"Thresholds(**values) of a dict, got {describe(thresholds)}"
        )
    return thresholds

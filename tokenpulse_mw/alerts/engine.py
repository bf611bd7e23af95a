"""The engine: watches the traffic, and in each round decides which alerts begin and end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from ..exchange import Exchange, Failures
from .lifecycle import Alert, Finding, step
from .rules import Rule, default_rules
from .sinks import AlertEvent, LogSink, Sink
from .thresholds import Thresholds
from .traffic import Traffic


class AlertEngine:
    """Turns traffic into alerts that fire once, for a reason, and go away.

    Give `observe` to an `ExchangeMiddleware` (or use `AlertMiddleware`), and let the engine run:
    `async with engine:` evaluates every `interval` seconds until it is left. A rule or a sink
    that raises is logged once and stops nothing else, and so is a sink that takes longer than
    `interval` for a round; the alerts of a rule that raises stay as they are.

    Args:
        rules: Callables of (traffic, thresholds, now) that give findings.
        sinks: Told every event, one after the other.
        thresholds: What the rules compare with.
        interval: Seconds from one round to the next.
        cooldown: Seconds after which an alert that lasts is told again, as a reminder.
        max_subjects: Keys, masters and upstreams that are told apart.
        clock: Monotonic seconds.
        wall: Seconds since the epoch, for display.

    Raises:
        ValueError: `interval`, `cooldown` or `max_subjects` is not above 0.
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
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        limits = {"interval": interval, "cooldown": cooldown, "max_subjects": max_subjects}
        for name, value in limits.items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, got {value!r}")
        self._thresholds = thresholds or Thresholds()
        self.interval = interval
        self.cooldown = cooldown
        self._rules = tuple(default_rules() if rules is None else rules)
        self._sinks = tuple([LogSink()] if sinks is None else sinks)
        self._alerts: list[dict[str, Alert]] = [{} for _ in self._rules]
        self._traffic = Traffic(self._thresholds, max_subjects=max_subjects)
        self._clock = clock
        self._wall = wall
        self._failures = Failures()
        self._listeners: list[Any] = []
        self._tasks: TaskGroup | None = None

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        self._traffic.observe(exchange, self._clock())

    def listen(self, listener: object) -> None:
        """Tell `listener` how the engine fares, such as an `HttpMetrics`.

        It may have the methods `evaluated(result, seconds)` with "ok" or "error" for each round,
        `delivered(sink, result)` with "ok", "error" or "timeout" for each event that is handed to
        a sink, and `failed(component)`.
        """
        if listener not in self._listeners:
            self._listeners.append(listener)

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """How many alerts there are of each type, severity and state."""
        return Counter(
            (alert.finding.type, alert.finding.severity or "", alert.state)
            for alerts in self._alerts
            for alert in list(alerts.values())  # a scrape may run in another thread
        )

    @property
    def firing(self) -> list[Finding]:
        """What is wrong now, as last found."""
        return [
            alert.finding
            for alerts in self._alerts
            for alert in alerts.values()
            if alert.state != "pending"
        ]

    async def evaluate(self) -> list[AlertEvent]:
        """One round: ask every rule, tell the sinks what has changed, and return it."""
        now, at = self._clock(), self._wall()
        self._traffic.errors.expire(now)
        events: list[AlertEvent] = []
        result = "ok"
        for rule, alerts in zip(self._rules, self._alerts, strict=True):
            try:
                found = _worst(rule(self._traffic, self._thresholds, now))
                events += self._advance(alerts, found, now, at)
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {_name(rule)}", error)
                result = "error"
        self._traffic.limited.clear()
        self._tell_listeners("evaluated", result, self._clock() - now)
        if events:
            for sink in self._sinks:
                await self._tell(sink, events)
        return events

    async def run(self) -> None:
        """Evaluate every `interval` seconds, for ever."""
        while True:
            await anyio.sleep(self.interval)
            try:
                await self.evaluate()
            except Exception as error:  # noqa: BLE001 - the next round may fare better
                self._report("alerts", error)

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("this AlertEngine is running already; enter it once")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self.run)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            tasks.cancel_scope.cancel()
            # What the body raised is its own: a task group that knew of it would wrap it.
            await tasks.__aexit__(None, None, None)

    def _advance(
        self, alerts: dict[str, Alert], found: dict[str, Finding], now: float, at: float
    ) -> list[AlertEvent]:
        """Take one rule's alerts one step on; `alerts` is brought up to date."""
        events: list[AlertEvent] = []
        for fingerprint in [*alerts, *(new for new in found if new not in alerts)]:
            before = alerts.get(fingerprint)
            after, told = step(before, found.get(fingerprint), now=now, cooldown=self.cooldown)
            if after is not None:
                alerts[fingerprint] = after
            elif before is not None:
                del alerts[fingerprint]
            last = after or before
            if told and last:
                events.append(AlertEvent(told, last.finding, at))
        return events

    async def _tell(self, sink: Sink, events: list[AlertEvent]) -> None:
        """Give `sink` all events, within one interval together."""
        try:
            with anyio.fail_after(self.interval):
                for event in events:
                    await self._tell_one(sink, event)
        except TimeoutError as error:
            self._report(f"sink {_name(sink)}", error)
            self._tell_listeners("delivered", _name(sink), "timeout")

    async def _tell_one(self, sink: Sink, event: AlertEvent) -> None:
        result = "ok"
        try:
            await sink(event)
        except Exception as error:  # noqa: BLE001 - one event must not cost the others
            self._report(f"sink {_name(sink)}", error)
            result = "error"
        self._tell_listeners("delivered", _name(sink), result)

    def _report(self, component: str, error: Exception) -> None:
        """Log a failure once, and let it be counted; as a label value it is `alerts`."""
        self._failures.log(component, error)
        self._tell_listeners("failed", "alerts")

    def _tell_listeners(self, hook: str, *arguments: Any) -> None:
        self._failures.call(hook, self._listeners, *arguments)


def _worst(findings: Iterable[Finding]) -> dict[str, Finding]:
    """By fingerprint the worst of what a rule finds, the first among equals."""
    found: dict[str, Finding] = {}
    for finding in findings:
        known = found.get(finding.fingerprint)
        if known is None or finding.rank > known.rank:
            found[finding.fingerprint] = finding
    return found


def _name(thing: object) -> str:
    return getattr(thing, "__name__", type(thing).__name__)

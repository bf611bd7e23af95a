"""The engine: watches the traffic, and in each round decides which alerts begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import TaskGroup

from ..exchange import Exchange, Failures, name_of
from .board import Board
from .lifecycle import Finding
from .rules import Rule, default_rules, inhibited, outages, rule_name
from .sinks import AlertEvent, LogSink, Sink
from .thresholds import Thresholds
from .traffic import Traffic


class AlertEngine:
    """Turns traffic into alerts that fire once, for a reason, and go away.

    Give `observe` to an `ExchangeMiddleware` (or use `AlertMiddleware`), and let the engine run:
    `async with engine:` evaluates every `interval` seconds until it is left. A rule or a sink
    that raises is logged once and stops nothing else, and so is a sink that takes longer than
    `interval` for a round; the alerts of a rule that raises stay as they are. A sink's `resend`,
    if it has one, is given all that fires in every round, and its `aclose` is awaited at the end.

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
        self._board = Board(len(self._rules), cooldown=cooldown)
        self._traffic = Traffic(self._thresholds, max_subjects=max_subjects)
        self._clock = clock
        self._wall = wall
        self._down: dict[str, tuple[str, float]] = {}
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
        return self._board.counts()

    @property
    def firing(self) -> list[Finding]:
        """What is wrong now, as last found."""
        return [event.finding for event in self._board.firing()]

    @property
    def thresholds(self) -> Thresholds:
        """What the rules compare with; new ones count from the next round on.

        What was counted stays: only where a share's or a latency's own window, or what counts as
        a failure, is another one do those begin anew.
        """
        return self._thresholds

    @thresholds.setter
    def thresholds(self, thresholds: Thresholds) -> None:
        self._traffic.retune(thresholds)
        self._thresholds = thresholds

    async def evaluate(self) -> list[AlertEvent]:
        """One round: ask every rule, tell the sinks what has changed, and return it."""
        await self._refresh()
        now, at = self._clock(), self._wall()
        self._traffic.roll(now)
        found = self._find(now)
        events: list[AlertEvent] = []
        whole = len(found) == len(self._rules)
        for number, findings in found:
            try:
                events += self._board.advance(number, findings, now, at)
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {rule_name(self._rules[number])}", error)
                whole = False
        self._traffic.begin_round()
        self._tell_listeners("evaluated", "ok" if whole else "error", self._clock() - now)
        await self._deliver(events, at)
        return events

    async def _refresh(self) -> None:
        """Let those rules that have to ask somebody do so, each for an interval at most."""
        for rule in self._rules:
            refresh = getattr(rule, "refresh", None)
            if refresh is not None:
                try:
                    with anyio.fail_after(self.interval):
                        await refresh()
                except Exception as error:  # noqa: BLE001 - what it knew before counts still
                    self._report(f"rule {rule_name(rule)}", error)

    def _find(self, now: float) -> list[tuple[int, list[Finding]]]:
        """What each rule finds, by its number; a rule that raises is left out."""
        found: list[tuple[int, list[Finding]]] = []
        for number, rule in enumerate(self._rules):
            try:
                found.append((number, list(rule(self._traffic, self._thresholds, now))))
            except Exception as error:  # noqa: BLE001 - one rule must not silence the others
                self._report(f"rule {rule_name(rule)}", error)
        every = [each for _, findings in found for each in findings]
        explained = iter(inhibited(every, down=self._lately_down(every, now)))
        return [(number, list(islice(explained, len(each)))) for number, each in found]

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
            with anyio.CancelScope(shield=True):
                await self._close_sinks()

    def _lately_down(self, findings: list[Finding], now: float) -> dict[str, str]:
        """The upstreams whose outages have left failures in the windows of shares."""
        self._down |= {name: (by, now) for name, by in outages(findings).items()}
        # A window keeps its oldest step, and is looked at once in an interval.
        longest = 1.1 * self._thresholds.error_window + self.interval
        self._down = {name: seen for name, seen in self._down.items() if now - seen[1] <= longest}
        return {name: by for name, (by, _) in self._down.items()}

    async def _deliver(self, events: list[AlertEvent], at: float) -> None:
        for sink in self._sinks:
            try:
                with anyio.fail_after(self.interval):
                    for event in events:
                        await self._tell(sink, event)
                    if (resend := getattr(sink, "resend", None)) is not None:
                        await resend(self._board.firing(), at)
            except Exception as error:  # noqa: BLE001 - one sink must not cost the others
                late = isinstance(error, TimeoutError)
                self._report(f"sink {name_of(sink)}", error)
                self._tell_listeners("delivered", name_of(sink), "timeout" if late else "error")

    async def _tell(self, sink: Sink, event: AlertEvent) -> None:
        result = "ok"
        try:
            await sink(event)
        except Exception as error:  # noqa: BLE001 - one event must not cost the others
            self._report(f"sink {name_of(sink)}", error)
            result = "error"
        self._tell_listeners("delivered", name_of(sink), result)

    async def _close_sinks(self) -> None:
        for sink in self._sinks:
            if (aclose := getattr(sink, "aclose", None)) is not None:
                try:
                    await aclose()
                except Exception as error:  # noqa: BLE001 - as above
                    self._report(f"sink {name_of(sink)}", error)

    def _report(self, component: str, error: Exception) -> None:
        """Log a failure once, and let it be counted; as a label value it is `alerts`."""
        self._failures.log(component, error)
        self._tell_listeners("failed", "alerts")

    def _tell_listeners(self, hook: str, *arguments: Any) -> None:
        self._failures.call(hook, self._listeners, *arguments)

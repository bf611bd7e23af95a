"""Alert engine: evaluates rules over the observed traffic and notifies sinks."""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from inspect import isclass
from itertools import islice
from typing import Any, NamedTuple, Self, TypeVar

import anyio

from ..exchange import ErrorReporter, Exchange, Models, RequestsInProgress, UpstreamQuotas
from ..lifespan import background_tasks
from ..validation import LINK, check_functions, check_positive, describe
from .delivery import DeliveryContext, Outbox, names_of
from .evaluator import Evaluator, RuleSet
from .fleet import STORE_SECONDS, Coordinator, Fleet, FleetMember
from .lifecycle import Finding
from .rules import Rule, StalledRequest, UpstreamQuotaLow, default_rules
from .silences import Silences
from .sinks import AlertEvent, LogSink, Sink
from .steps import in_steps
from .store import AlertStore, FleetState, MemoryAlertStore, Process, StoreError
from .store_writer import StoreWriter
from .thresholds import Thresholds
from .timeouts import call_with_timeout
from .traffic.classification import Upstream
from .traffic.streaks import Outcomes, Streaks
from .usage_export import UsageExporter, UsageSink

_CLOSE_SECONDS = 5.0  # for the last deliveries when the engine stops
_SINK_SECONDS = 60.0  # for one attempt; HTTP sinks have a shorter timeout
_MAX_QUEUED = 10_000  # notifications for each sink
_DAY = 86_400.0
_RETENTION_SECONDS = 30 * _DAY  # of resolved alerts and dead letters


logger = logging.getLogger("tokenpulse_mw.alerts")


_Subject = TypeVar("_Subject", bound=Hashable)


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

    Pass the engine to an `ExchangeMiddleware`, or use `AlertMiddleware`. `async with engine:`
    evaluates every `interval` seconds and delivers notifications. Engines that share a store are
    one fleet: the traffic of all of them counts, and one of them evaluates. An error of a rule, a
    sink or the store is logged and affects nothing else; the alerts of a failed rule stay as they
    are. If a sink has `resend`, it receives all firing alerts in every evaluation. If it has
    `aclose`, the engine awaits it at the end.

    Args:
        rules: Callables of (traffic, thresholds, now) that return findings; `default_rules()` if
            None.
        sinks: Callables of an `AlertEvent`, each with its own queue; a `LogSink` if None.
        thresholds: Initial thresholds; `controls` changes them.
        interval: Seconds between two evaluations.
        cooldown: Seconds between two reminders of a firing alert.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.
        store: Stores the state over restarts, and makes all engines that use it one fleet; in
            memory if None.
        fleet: Options of the fleet; `Fleet()` if None.
        models: Models by which usage is counted; `Models()` if None.
        runbook_url: URL of your runbook, without a fragment. Alerts link to its sections, whose
            anchors are their types, by `runbook_url` in their metadata, unless a rule sets it.
        usage_sink: Async callable of a `UsageEvent`, such as a `UsageWebhook`. It gets the
            usage of each hour by tenant and model at least once, 15 minutes after the hour.
        clock: Returns monotonic seconds.
        wall: Returns seconds since the epoch, for display and storage.

    Attributes:
        clock: The argument; a test may replace it.
        wall: The argument; a test may replace it.
        controls: Changes thresholds, silences and acknowledgements at run time.
        store: The store.
        usage_sink: The argument.

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
        max_subjects: int = 20_000,
        store: AlertStore | None = None,
        fleet: Fleet | None = None,
        models: Models | None = None,
        runbook_url: str | None = None,
        usage_sink: UsageSink | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        check_positive(interval=interval, cooldown=cooldown, max_subjects=max_subjects)
        self._initial_thresholds = check_thresholds(thresholds)
        self.clock, self.wall = clock, wall
        self.interval, self.cooldown = interval, cooldown
        self.store = check_store(store, lambda: self.wall())
        self._failures = ErrorReporter(
            logger=logger, continuing="alerts", self_explanatory=(StoreError,), clock=clock
        )
        self._listeners = list[Any]()
        self._running: AbstractAsyncContextManager[None] | None = None
        self._pruned_at = -math.inf
        self._rules = RuleSet(
            check_rules(rules),
            interval=interval,
            report=self._report,
            recovered=self._failures.recovered,
            runbook_url=check_runbook_url(runbook_url),
        )
        named = names_of(check_sinks(sinks), interval=interval)
        silences = Silences()
        member = FleetMember(
            self.store,
            check_fleet(fleet),
            rules=self._rules.names,
            sinks=tuple(named),
            thresholds=self._initial_thresholds,
            max_subjects=max_subjects,
            model_label=(Models() if models is None else models).label_of,
            clock=lambda: self.clock(),
            wall=lambda: self.wall(),
            report=self._report,
            recovered=self._failures.recovered,
        )
        new_evaluator = partial(
            Evaluator,
            self._rules,
            max_subjects=max_subjects,
            bucket_seconds=member.options.heartbeat,
            cooldown=cooldown,
            is_silenced=silences.is_silenced,
            report=self._report,
            recovered=self._failures.recovered,
        )
        writer = StoreWriter(
            self.store,
            leader=lambda: self._fleet.leader,
            fenced=lambda: self._fleet.fenced(),
            deadline=STORE_SECONDS,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self._member = member
        self._outbox = Outbox(named, self._delivery(writer))
        self._fleet = Coordinator(
            self.store,
            member,
            thresholds=self._initial_thresholds,
            silences=silences,
            new_evaluator=new_evaluator,
            writer=writer,
            outbox=self._outbox,
            clock=lambda: self.clock(),
            notify=self._notify_listeners,
            report=self._report,
            recovered=self._failures.recovered,
        )
        self.controls = self._fleet.controls
        self.usage_sink = usage_sink
        self._exporter = UsageExporter(
            self.store,
            usage_sink,
            wall=lambda: self.wall(),
            leads=lambda: self.leads,
            tenant_name=self.tenant_name,
        )

    def observe(self, exchange: Exchange) -> None:
        """Count one finished exchange."""
        self._member.aggregator.observe(exchange, self.clock())

    def __call__(self, exchange: Exchange) -> None:
        """Count one finished exchange, as an observer of exchanges."""
        self.observe(exchange)

    def on_websocket_usage(self, exchange: Exchange) -> None:
        """Count the tokens, the usage and the cost of a response of a model over a WebSocket."""
        self._member.aggregator.observe_usage(exchange, self.clock())

    def reset(self) -> None:
        """Discard everything that the end of the process would discard.

        That is the traffic and, unless they are in a store that outlives the process, all alerts,
        notifications, silences and changes of the thresholds. The next evaluation loads the store.
        An evaluation in progress has no effect.
        """
        is_in_memory = isinstance(self.store, MemoryAlertStore)
        if isinstance(self.store, MemoryAlertStore):
            self.store.clear()
        self._fleet.reset(self._initial_thresholds, is_store_empty=is_in_memory)
        self._pruned_at = -math.inf

    def add_listener(self, listener: object) -> None:
        """Notify `listener`, such as an `HttpMetrics`, of evaluations, deliveries and errors.

        All methods are optional: `on_evaluation(result, seconds)` with the result "ok" or "error";
        `on_delivery(sink, result)` for each attempt, with the result "ok", "error", "timeout",
        "rejected" or "dropped"; `on_heartbeat(result)` with "ok" or "error"; `on_error(component)`;
        `on_settings(settings)` after a change of the settings that all processes share;
        `on_alert(event)` for each change of an alert, in the process that leads.
        """
        if listener not in self._listeners:
            self._listeners.append(listener)

    def tenant_name(self, tenant: str) -> str | None:
        """Return the last known name of a tenant; None if this process does not know it.

        The leader knows the names of recent tenants of all processes; any other process, of those
        that it has served.
        """
        leadership = self._fleet.leadership
        names = {} if leadership is None else leadership.evaluator.traffic.tenant_names
        return names.get(tenant) or self._member.aggregator.tenant_names.get(tenant)

    def tenant_names(self, *, limit: int = 200) -> dict[str, str]:
        """Return the last known names of tenants by id.

        They are those of the newest tenants that this process has served, and if it leads, of the
        newest tenants of all processes; at most `limit` of each.
        """
        leadership = self._fleet.leadership
        names = dict(islice(reversed(self._member.aggregator.tenant_names.items()), limit))
        if leadership is not None:
            traffic = leadership.evaluator.traffic
            names |= dict(islice(reversed(traffic.tenant_names.items()), limit))
        return names

    @property
    def in_progress(self) -> RequestsInProgress | None:
        """The requests in progress that the rule `stalled_request` examines; None without it."""
        rule = self.rules.get("stalled_request")
        return rule.in_progress if isinstance(rule, StalledRequest) else None

    @property
    def upstream(self) -> UpstreamQuotas | None:
        """The limits of providers that `upstream_quota_low` examines; None without it."""
        rule = self.rules.get("upstream_quota_low")
        return rule.upstream if isinstance(rule, UpstreamQuotaLow) else None

    @property
    def firing(self) -> list[Finding]:
        """The last finding of each firing alert; if another process leads, as of a heartbeat."""
        leadership = self._fleet.leadership
        if leadership is None:
            return self.controls.firing
        return leadership.evaluator.tracker.findings()

    @property
    def thresholds(self) -> Thresholds:
        """The current thresholds; `controls.set_thresholds` changes them."""
        return self.controls.thresholds

    @property
    def rules(self) -> Mapping[str, Rule]:
        """The rules by name."""
        return dict(self._rules)

    @property
    def sinks(self) -> tuple[str, ...]:
        """The names of the sinks."""
        return self._outbox.sinks

    @property
    def leads(self) -> bool:
        """True if this process evaluates the rules of the fleet now."""
        return self._fleet.evaluating() is not None

    @property
    def process_name(self) -> str:
        """The name of this process in its fleet; empty before the first heartbeat."""
        return self._member.name

    @property
    def fleet_state(self) -> FleetState | None:
        """The fleet at the last heartbeat; None before the first one. `fleet` sends another."""
        return self._member.state

    @property
    def live_processes(self) -> list[Process]:
        """Processes that were alive at the last heartbeat: seen within the lease."""
        return [member.process for member in self._member.live(self._member.options.lease)]

    @property
    def now(self) -> float:
        """Seconds since the epoch: the time of the store if processes share it."""
        return self._member.at

    @property
    def is_connected(self) -> bool:
        """True if the store accepted the last heartbeat."""
        return self._member.is_connected

    def outcomes(self, *, limit: int = 200) -> dict[Upstream, Outcomes] | None:
        """Return the recent outcomes of upstreams, if this process leads; else None.

        The kind "auth" has the authentications of a credential. Those that fail are included first,
        then those that were used last, at most `limit` of each.
        """
        leadership = self._fleet.evaluating()
        if leadership is None:
            return None
        traffic = leadership.evaluator.traffic
        authentications = _newest(traffic.authentications, limit)
        return {
            **_newest(traffic.upstreams, limit),
            **{("auth", credential): streak for credential, streak in authentications.items()},
        }

    async def evaluate(self) -> list[AlertEvent]:
        """Evaluate every rule once, and store and return the changes.

        Everything that the processes of the fleet have sent to the store counts. If another process
        leads, nothing is evaluated, and nothing returned.

        A running engine delivers the notifications in the background. Otherwise they are delivered
        before this returns, with one attempt for each sink that fails.
        """
        return await self._evaluate(at_once=True)

    async def dry_run(self, thresholds: Thresholds | None = None) -> DryRun:
        """Return the outcome of an evaluation with `thresholds`, without changing anything.

        Other values of `error_window` and `count_client_errors` have no effect: the counts are
        those of the current thresholds. Failures are returned, and neither logged nor counted.

        Raises:
            StoreError: Another process leads, and the store failed.
        """
        errors: dict[str, Exception] = {}
        await self._rules.preview_refresh(errors.__setitem__)
        await self._fleet.heartbeat(partial_slot=True)
        leadership = self._fleet.evaluating() or await self._fleet.load_preview()
        async with self._fleet.deciding():
            if leadership is self._fleet.leadership:
                at_once = not self._member.has_peers
                with anyio.CancelScope(shield=True):  # as in an evaluation
                    await in_steps(self._fleet.count(leadership, at_once=at_once))
            preview = leadership.evaluator.dry_run(
                thresholds or self.thresholds, self.clock(), errors.__setitem__
            )
            return DryRun(await in_steps(preview), errors)

    async def test(self, sink: str) -> str | None:
        """Send a test alert to one sink, once, and return the error message, if any.

        Raises:
            KeyError: The name is not a sink's.
        """
        return await self._outbox.test(sink)

    async def run(self) -> None:
        """Send heartbeats, and evaluate every `interval` seconds, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._send_heartbeats)
            tasks.start_soon(self._evaluate_regularly)
            tasks.start_soon(self._exporter.run, self._guard)

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("this AlertEngine is already running; enter it once")
        await self._fleet.heartbeat()
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
                await self._guard("usage_sink", self._exporter.aclose)
                await self._fleet.writer.write()
                await self._member.heartbeat(partial_slot=True, leave=True)
                await self._fleet.writer.aclose()
                self._fleet.step_down()
            logger.info("alert engine stopped")

    def counts(self) -> Mapping[tuple[str, str, str], int]:
        """Return the number of alerts by type, severity and state, if this process leads."""
        leadership = self._fleet.evaluating()
        return {} if leadership is None else leadership.evaluator.tracker.counts()

    def queue_length(self) -> Mapping[tuple[str], int]:
        """Return the number of queued notifications by sink, if this process leads."""
        return {} if self._fleet.evaluating() is None else self._outbox.queue_length()

    def last_evaluation(self) -> Mapping[tuple[()], float]:
        """Return the time of the last evaluation, in epoch seconds, if this process leads.

        An evaluation in which a rule failed does not count.
        """
        leadership = self._fleet.evaluating()
        if leadership is None or leadership.succeeded_at is None:
            return {}
        return {(): leadership.succeeded_at}

    def overflow(self) -> Mapping[tuple[()], int]:
        """Return the count of `__overflow__` events and of findings above the alert limit."""
        return {(): self._member.aggregator.overflowed + self._fleet.overflowed}

    def fleet_leader(self) -> Mapping[tuple[()], int]:
        """Return 1 if this process leads its fleet, else 0."""
        return {(): int(self.leads)}

    def fleet_members(self) -> Mapping[tuple[()], int]:
        """Return the number of live processes of the fleet."""
        return {(): len(self.live_processes)}

    def fleet_behind(self) -> Mapping[tuple[()], float]:
        """Return the age in seconds of the oldest traffic that the store does not have."""
        return {(): self._member.backlog.behind(self._member.now)}

    def late(self) -> Mapping[tuple[()], int]:
        """Return the number of buckets that arrived after they had been evaluated."""
        return {(): self._fleet.late}

    async def fleet(self) -> FleetState:
        """Send a heartbeat and return the fleet.

        Raises:
            StoreError: The store failed.
        """
        await self._fleet.heartbeat()
        state = self._member.state
        if state is None or not self._member.is_connected:
            raise StoreError("the alert store did not accept a heartbeat; see the log")
        return state

    async def _evaluate(self, *, at_once: bool) -> list[AlertEvent]:
        await self._fleet.heartbeat(partial_slot=at_once)
        leadership = self._fleet.evaluating()
        if leadership is None:
            return []
        await self._rules.refresh()
        async with self._fleet.deciding():
            if leadership is not self._fleet.leadership:
                return []
            with anyio.CancelScope(shield=True):  # traffic that is not counted would be lost
                await in_steps(self._fleet.count(leadership, at_once=at_once))
            now, at = self.clock(), self._member.at
            changes, succeeded = await in_steps(leadership.evaluate(self.thresholds, now, at))
            with anyio.CancelScope(shield=True):  # the changes would be lost
                snapshot = await in_steps(leadership.snapshot(now, at))
            self._notify_listeners(
                "on_evaluation", "ok" if succeeded else "error", self.clock() - now
            )
        if leadership is not self._fleet.leadership:
            return []
        await self._outbox.publish(changes, snapshot, leadership.evaluator.tracker.firing(), at)
        if leadership is not self._fleet.leadership:  # another process leads: nothing was stored
            return []
        self.controls.skip_revision(self._fleet.writer.revision)
        for change in changes:
            for event in change.events:
                self._notify_listeners("on_alert", event)
        if self._running is None:
            await self._outbox.attempt()
        await self._prune(at)
        return [event for change in changes for event in change.events]

    async def _send_heartbeats(self) -> None:
        while True:
            await anyio.sleep(self._member.seconds_to_next())
            await self._guard("heartbeat", self._fleet.heartbeat)

    async def _evaluate_regularly(self) -> None:
        wait, self._fleet.took_over = self._seconds_to_evaluation(), anyio.Event()
        while True:
            with anyio.move_on_after(wait) as scope:
                await self._fleet.took_over.wait()
            if scope.cancelled_caught:
                wait = self.interval
                await self._guard("evaluation", self._evaluate_now)
            else:  # the next evaluation is due when the previous leader would have made it
                self._fleet.took_over = anyio.Event()
                wait = self._seconds_to_evaluation()

    async def export_usage(self) -> None:
        """Send the usage of ended hours to `usage_sink`, if there is one and this process leads.

        A running engine does this every minute.

        Raises:
            Exception: The sink or the store failed; the same is sent again later.
        """
        await self._exporter.export()

    async def _evaluate_now(self) -> None:
        if self._fleet.leadership is None:
            reports = await self._rules.report()
            self._member.aggregator.add_reports(reports, self.clock())
        await self._evaluate(at_once=not self._member.has_peers)

    async def _guard(self, component: str, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call_with_timeout(math.inf, call)
        except Exception as error:  # noqa: BLE001 - the next call may succeed
            self._report(component, error)
        else:
            self._failures.recovered(component)

    def _seconds_to_evaluation(self) -> float:
        evaluated_at = (
            None if self._fleet.leadership is None else self._fleet.leadership.evaluated_at
        )
        if evaluated_at is None:
            return self.interval
        return min(max(evaluated_at + self.interval - self._member.at, 0.0), self.interval)

    async def _prune(self, at: float) -> None:
        if at - self._pruned_at >= _DAY:
            self._pruned_at = at
            await self._fleet.writer.prune(at - _RETENTION_SECONDS)

    def _delivery(self, writer: StoreWriter) -> DeliveryContext:
        return DeliveryContext(
            writer=writer,
            claim=lambda notification_id: self._fleet.claim(notification_id),
            deadline=_SINK_SECONDS,
            max_pending=_MAX_QUEUED,
            clock=lambda: self.clock(),
            wall=lambda: self._member.at,
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


def _newest(streaks: Streaks[_Subject], limit: int) -> dict[_Subject, Outcomes]:
    """Return the streaks that fail, then those that were used last, at most `limit` of each."""
    failing, recent = islice(streaks.failing(), limit), islice(streaks.recent(), limit)
    return {**dict(failing), **dict(recent)}


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


def check_fleet(fleet: Fleet | None) -> Fleet:
    """Return the options of the fleet, or the default ones.

    Raises:
        ValueError: `fleet` is not a `Fleet`.
    """
    if fleet is None:
        return Fleet()
    if not isinstance(fleet, Fleet):
        raise ValueError(f"fleet must be a Fleet, such as Fleet(lease=30), got {describe(fleet)}")
    return fleet


def check_runbook_url(url: str | None) -> str | None:
    """Return the URL of the runbook, or None.

    Raises:
        ValueError: `url` is not an HTTP URL, or has a user or a fragment.
    """
    if url is not None and not (isinstance(url, str) and re.fullmatch(LINK, url)):
        raise ValueError(
            "runbook_url must be a URL that begins with https:// or http://, without a user and a "
            f"fragment, got {url!r}"
        )
    return url

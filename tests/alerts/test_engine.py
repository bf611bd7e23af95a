"""AlertEngine: evaluations, notifications, and the errors of user code."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    AlertmanagerSink,
    AlertMiddleware,
    Finding,
    LogSink,
    Quota,
    Sink,
    Thresholds,
    Traffic,
    WebhookSink,
    default_rules,
    quota_exceeded,
)
from tokenpulse_mw.alerts.rules import high_latency, rate_limit
from tokenpulse_mw.alerts.store import (
    Changes,
    Leader,
    Matcher,
    MemoryAlertStore,
    StoreError,
)

from ..support.apps import answering
from ..support.clock import FakeClock
from ..support.waiting import PATIENCE
from .exchanges import exchange
from .findings import FixedRule, finding


class Scripted:
    """A rule with one item for each evaluation: findings, or an error to raise; then no findings.

    Args:
        items: The items in order.
    """

    def __init__(self, *items: list[Finding] | Exception) -> None:
        self.items = iter(items)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        item = next(self.items, [])
        if isinstance(item, Exception):
            raise item
        return item


class RecordingSink:
    """A sink that records its events; `notified` is set by each of them."""

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []
        self.notified = anyio.Event()

    async def __call__(self, event: AlertEvent) -> None:
        self.events.append(event)
        self.notified.set()


class RecordingListener:
    """A listener that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def on_evaluation(self, result: str, seconds: float) -> None:
        """Record an evaluation."""
        self.calls.append(("evaluation", result, seconds))

    def on_delivery(self, sink: str, result: str) -> None:
        """Record an attempt of a delivery."""
        self.calls.append(("delivery", sink, result))

    def on_error(self, component: str) -> None:
        """Record an error."""
        self.calls.append(("error", component))


def transitions(events: Iterable[AlertEvent]) -> list[str]:
    """Return the transitions of events."""
    return [event.transition for event in events]


@pytest.mark.anyio
async def test_alert_fires_once_during_failures_and_resolves_once_after(clock: FakeClock) -> None:
    """In between there is only a reminder."""
    engine = AlertEngine(sinks=[], clock=clock, thresholds=Thresholds(keep_firing=0))
    by_minute: list[str] = []

    for failing in [True, True, True, False, False, False, False, False, False, False]:
        for _ in range(10 if failing else 0):
            engine.observe(exchange(api_key="k1", status=500))
        by_minute += transitions(await engine.evaluate()) or ["-"]
        clock.advance(60)

    assert by_minute == ["fired", "-", "-", "-", "-", "reminded", "-", "-", "resolved", "-"]


@pytest.mark.anyio
async def test_hour_of_failures_is_one_episode(clock: FakeClock) -> None:
    """Apart from reminders there are two notifications."""
    sink = RecordingSink()
    engine = AlertEngine(sinks=[sink], clock=clock)

    for second in range(7200):
        clock.advance(1)
        if second < 3600:
            engine.observe(exchange(api_key="k1", status=500))
        if second % 60 == 59:
            await engine.evaluate()

    sent = transitions(sink.events)
    assert [transition for transition in sent if transition != "reminded"] == ["fired", "resolved"]
    assert (sent[0], sent[-1], len(sent)) == ("fired", "resolved", 14)


@pytest.mark.anyio
async def test_change_of_severity_is_notified_within_the_cooldown(clock: FakeClock) -> None:
    """The cooldown delays only reminders."""
    severities: list[Any] = ["info", "critical", "critical", "warning"]
    rule = Scripted(*([finding(severity)] for severity in severities))
    engine = AlertEngine([rule], [], clock=clock)

    changes = [transitions(await engine.evaluate()) for _ in range(4)]

    assert changes == [["fired"], ["escalated"], [], ["deescalated"]]


@pytest.mark.anyio
async def test_error_rate_that_swings_around_a_step_escalates_once(clock: FakeClock) -> None:
    """An hour of 23 to 27 % stays a warning."""
    engine = AlertEngine(
        sinks=[], thresholds=Thresholds(error_window=60), cooldown=86_400, clock=clock
    )
    changes: list[str] = []

    for minute in range(60):
        for number in range(100):
            failed = number < (27 if minute % 2 else 23)
            engine.observe(exchange(api_key="k1", status=500 if failed else 200))
        changes += transitions(await engine.evaluate())
        clock.advance(90)

    assert changes == ["fired", "escalated"]


@pytest.mark.anyio
async def test_unchanged_alert_is_reminded_after_each_cooldown(clock: FakeClock) -> None:
    """The cooldown starts again with each reminder."""
    engine = AlertEngine([Scripted(*[[finding()]] * 7)], [], cooldown=120, clock=clock)
    changes: list[list[str]] = []

    for _ in range(7):
        changes.append(transitions(await engine.evaluate()))
        clock.advance(50)

    assert changes == [["fired"], [], [], ["reminded"], [], [], ["reminded"]]


@pytest.mark.anyio
async def test_rate_limited_requests_are_counted_since_the_last_evaluation(
    clock: FakeClock,
) -> None:
    """The alert resolves in the first evaluation without such a request."""
    engine = AlertEngine(sinks=[], clock=clock, thresholds=Thresholds(traffic_keep_firing=0))
    engine.observe(exchange(tenant="acme", limited=True))

    changes = [
        [(event.transition, event.fingerprint) for event in await engine.evaluate()]
        for _ in range(3)
    ]

    assert changes == [
        [("fired", "rate_limit:master:acme")],
        [("resolved", "rate_limit:master:acme")],
        [],
    ]


@pytest.mark.anyio
async def test_event_has_the_finding_and_the_wall_time(clock: FakeClock) -> None:
    """The sink gets the events that `evaluate` returns."""
    sink = RecordingSink()
    engine = AlertEngine([Scripted([finding()])], [sink], clock=clock, wall=lambda: 1.7e9)

    events = await engine.evaluate()

    assert [(event.transition, event.finding, event.at, event.fired_at) for event in events] == [
        ("fired", finding(), 1.7e9, 1.7e9)
    ]
    assert sink.events == events


@pytest.mark.anyio
async def test_alert_links_to_the_section_of_its_type_in_the_runbook(clock: FakeClock) -> None:
    """Unless its rule names another page."""
    page = {"runbook_url": "https://wiki.example/other"}
    rule = FixedRule(
        finding(type="no disk\ud800", metadata={"free": 0}), finding(type="other", metadata=page)
    )
    engine = AlertEngine([rule], sinks=[], clock=clock, runbook_url="https://wiki.example/ai?v=2")

    events = await engine.evaluate()

    assert [event.finding.metadata for event in events] == [
        {"free": 0, "runbook_url": "https://wiki.example/ai?v=2#no%20disk%3F"},
        page,
    ]


@pytest.mark.anyio
async def test_rule_gets_traffic_thresholds_and_monotonic_time(clock: FakeClock) -> None:
    """A custom rule reads the same counts as the built-in rules."""
    thresholds = Thresholds(error_window=50)
    calls: list[tuple[list[tuple[str, int, int]], Thresholds, float]] = []

    def rule(traffic: Traffic, in_force: Thresholds, now: float) -> Iterable[Finding]:
        calls.append((list(traffic.errors.failing()), in_force, now))
        return []

    engine = AlertEngine([rule], [], thresholds=thresholds, clock=clock)
    engine.observe(exchange(api_key="k1", status=500))
    await engine.evaluate()
    clock.advance(60)
    await engine.evaluate()

    assert calls == [([("k1", 1, 1)], thresholds, 1000.0), ([], thresholds, 1060.0)]


@pytest.mark.anyio
async def test_firing_has_firing_and_recovering_alerts(clock: FakeClock) -> None:
    """Pending alerts do not fire."""
    current = finding(hold_for=60, keep_firing=60)
    engine = AlertEngine([Scripted([current], [current], [])], [], clock=clock)
    firing: list[list[Finding]] = []

    for _ in range(4):
        await engine.evaluate()
        firing.append(engine.firing)
        clock.advance(60)

    assert firing == [[], [current], [current], []]


@pytest.mark.anyio
async def test_alerts_of_a_failed_rule_stay_open(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged once, and its end too."""
    error = KeyError("broken")
    engine = AlertEngine([Scripted([finding()], error, error, [])], [], clock=clock)

    changes = [transitions(await engine.evaluate()) for _ in range(3)]

    assert changes == [["fired"], [], []]
    assert engine.firing == [finding()]
    assert caplog.messages == ["rule Scripted failed with KeyError: alerts continue without it"]
    caplog.set_level(logging.INFO)
    clock.advance(60)
    assert transitions(await engine.evaluate()) == ["resolved"]
    assert caplog.messages[1:] == ["rule Scripted recovered from KeyError (seconds=60 failures=2)"]


@pytest.mark.anyio
async def test_store_outage_is_logged_at_its_start_and_end(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The end has duration and number of failures; a flapping store logs once a minute."""

    class Flapping(MemoryAlertStore):
        is_down = False

        async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
            if self.is_down:
                raise StoreError("no disk")
            return await super().commit(changes, leader=leader)

    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    store = Flapping()
    engine = AlertEngine([], [], store=store, clock=clock)

    flapping = [(True, 5), (False, 1), (True, 5), (False, 1)]
    for store.is_down, seconds in [(True, 60), (True, 60), (False, 5), *flapping]:
        await engine.evaluate()
        clock.advance(seconds)

    failed = "alert store failed with StoreError: no disk: alerts continue without it"
    recovered = "alert store recovered from StoreError"
    assert caplog.messages == [
        failed,
        f"{recovered} (seconds=120 failures=2)",
        failed,
        f"{recovered} (seconds=5 failures=1)",
    ]


@pytest.mark.anyio
async def test_events_of_one_episode_have_one_alert_id(clock: FakeClock) -> None:
    """The next episode has another alert id, and each event has its own id."""
    items = [[finding("warning")], [finding("critical")], [], [finding("warning")]]
    engine = AlertEngine([Scripted(*items)], [], clock=clock, wall=clock)
    events: list[AlertEvent] = []

    for _ in range(4):
        clock.advance(60)
        events += await engine.evaluate()

    fired, escalated, resolved, fired_again = events
    assert fired.alert_id == escalated.alert_id == resolved.alert_id != fired_again.alert_id
    assert fired.fired_at == escalated.fired_at == resolved.fired_at == fired.at
    assert (escalated.previous, resolved.previous) == ("warning", None)
    assert len({event.id for event in events}) == 4


@pytest.mark.anyio
async def test_sink_with_resend_gets_all_firing_alerts_in_each_evaluation(
    clock: FakeClock,
) -> None:
    """The events have the current values, as Alertmanager needs them."""

    class Resending(RecordingSink):
        def __init__(self) -> None:
            super().__init__()
            self.resent: list[list[object]] = []

        async def resend(self, events: list[AlertEvent], now: float) -> None:
            self.resent.append([(event.transition, event.finding.value) for event in events])

    sink = Resending()
    rule = Scripted([finding(value=1)], [finding(value=2)], [])
    engine = AlertEngine([rule], [sink], clock=clock, wall=clock)

    for _ in range(3):
        await engine.evaluate()

    assert sink.resent == [[("fired", 1)], [("fired", 2)], []]


@pytest.mark.anyio
async def test_leaving_the_engine_closes_every_sink() -> None:
    """An error of one sink does not affect the others."""
    closed: list[str] = []

    class Closing(RecordingSink):
        async def aclose(self) -> None:
            closed.append("closed")
            raise OSError("already")

    async with AlertEngine([], [Closing(), RecordingSink(), Closing()]):
        pass

    assert closed == ["closed", "closed"]


@pytest.mark.anyio
async def test_failed_resend_is_reported_to_listeners() -> None:
    """Listeners get the same calls as for a failed notification."""
    listener = RecordingListener()

    class Failing(RecordingSink):
        async def resend(self, events: list[AlertEvent], now: float) -> None:
            raise OSError("no network")

    engine = AlertEngine([], [Failing()])
    engine.add_listener(listener)
    await engine.evaluate()

    assert listener.calls[1:] == [("delivery", "Failing", "error"), ("error", "alerts")]


@pytest.mark.anyio
async def test_new_thresholds_apply_to_traffic_counted_before(clock: FakeClock) -> None:
    """The next evaluation uses them."""
    engine = AlertEngine(sinks=[], thresholds=Thresholds(error_rate=None), clock=clock)
    for _ in range(20):
        engine.observe(exchange(api_key="k1", status=500))

    before = await engine.evaluate()
    await engine.controls.set_thresholds(Thresholds(error_rate=0.5), by="ada")
    after = await engine.evaluate()

    assert (before, [event.fingerprint for event in after]) == ([], ["error_spike:key:k1"])
    assert engine.thresholds.error_rate == 0.5


@pytest.mark.anyio
async def test_outage_inhibits_its_failures_after_it_is_resolved(clock: FakeClock) -> None:
    """The failures are still in the error window, but the outage explains them."""
    engine = AlertEngine(sinks=[], clock=clock)
    for _ in range(20):
        engine.observe(exchange(api_key="k1", provider="claude", status=502))

    events = [*await engine.evaluate()]
    engine.observe(exchange(api_key="k1", provider="claude"))
    for _ in range(7):
        events += await engine.evaluate()
        clock.advance(60)

    assert [(event.transition, event.fingerprint) for event in events] == [
        ("fired", "provider_down:provider:claude"),
        ("resolved", "provider_down:provider:claude"),
    ]


@pytest.mark.anyio
async def test_rule_is_refreshed_before_each_evaluation(clock: FakeClock) -> None:
    """A rule whose refresh fails uses its last data."""
    results: list[list[Quota] | Exception] = [OSError("down"), [Quota("k1", used=95, limit=100)]]

    async def source() -> list[Quota]:
        result = results.pop()
        if isinstance(result, Exception):
            raise result
        return result

    engine = AlertEngine([quota_exceeded(source)], [], clock=clock)

    first, second = await engine.evaluate(), await engine.evaluate()

    assert [event.fingerprint for event in first] == ["quota_exceeded:key:k1"]
    assert second == []
    assert [current.type for current in engine.firing] == ["quota_exceeded"]


@pytest.mark.anyio
async def test_rule_with_an_invalid_finding_is_left_out(clock: FakeClock) -> None:
    """Alerts of the rule stay as they were, and the evaluation is reported as an error."""
    listener = RecordingListener()
    invalid = finding(hold_for=None)
    rule = Scripted([finding()], [invalid, finding()])
    engine = AlertEngine([Scripted([replace(invalid, type="odd")]), rule], [], clock=clock)
    engine.add_listener(listener)

    events = await engine.evaluate()

    assert [event.finding.type for event in events] == ["trouble"]
    assert [call[:2] for call in listener.calls] == [("error", "alerts"), ("evaluation", "error")]


@pytest.mark.anyio
async def test_listener_gets_evaluations_deliveries_and_errors(clock: FakeClock) -> None:
    """A listener that is added twice gets each call once."""
    listener = RecordingListener()

    async def broken(event: AlertEvent) -> None:
        raise RuntimeError("no network")

    def slow(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        clock.advance(2)
        return [finding()]

    engine = AlertEngine([slow], [broken], clock=clock)
    engine.add_listener(listener)
    engine.add_listener(listener)
    await engine.evaluate()

    assert listener.calls == [
        ("evaluation", "ok", 2),
        ("delivery", "broken", "error"),
        ("error", "alerts"),
    ]


@pytest.mark.anyio
async def test_listener_gets_the_changes_of_alerts(clock: FakeClock) -> None:
    """Each change is passed once, after it is stored."""

    class Listener:
        def __init__(self) -> None:
            self.changes = list[tuple[str, str]]()

        def on_alert(self, event: AlertEvent) -> None:
            self.changes.append((event.transition, event.fingerprint))

    listener, fired = Listener(), finding(severity="warning")
    engine = AlertEngine([Scripted([fired], [fired])], [], clock=clock, wall=clock.wall)
    engine.add_listener(listener)
    for _ in range(4):
        await engine.evaluate()
        clock.advance(60)

    assert [transition for transition, _ in listener.changes] == ["fired", "resolved"]


@pytest.mark.anyio
async def test_state_of_the_fleet_is_known_after_a_heartbeat(clock: FakeClock) -> None:
    """Name, members and outcomes are those of the leader."""
    engine = AlertEngine([], [], clock=clock, wall=clock.wall)
    assert (engine.process_name, engine.fleet_state, engine.outcomes()) == ("", None, None)

    engine.observe(exchange(credential="k1", status=503))
    engine.observe(exchange(credential="k2"))
    await engine.evaluate()

    state, outcomes = engine.fleet_state, engine.outcomes()
    assert state is not None
    assert outcomes is not None
    assert [member.process.name for member in state.members] == [engine.process_name]
    assert outcomes["apikey", "k1"].failures == 1
    assert outcomes["apikey", "k2"].failures == 0
    assert outcomes["auth", "k2"].failures == 0
    assert engine.is_connected
    assert engine.now == clock.wall()


@pytest.mark.anyio
async def test_outcomes_are_bounded(clock: FakeClock) -> None:
    """Those that fail are first, then those that were used last."""
    engine = AlertEngine([], [], clock=clock, wall=clock.wall)
    for number in range(20):
        status = 503 if number < 5 else 200
        engine.observe(exchange(credential=f"k{number}", status=status))
    await engine.evaluate()
    outcomes = engine.outcomes(limit=2) or {}

    assert len(outcomes) == 4 + 2
    assert [upstream.failures for upstream in outcomes.values()] == [1, 1, 0, 0, 0, 0]


@pytest.mark.anyio
async def test_evaluation_with_a_failed_rule_is_reported_as_an_error() -> None:
    """The success of the other rules does not change that."""
    listener = RecordingListener()
    engine = AlertEngine([Scripted(RuntimeError("oops")), Scripted([])], [])
    engine.add_listener(listener)

    await engine.evaluate()

    assert [call[:2] for call in listener.calls] == [("error", "alerts"), ("evaluation", "error")]


@pytest.mark.anyio
async def test_counts_are_by_type_severity_and_state(clock: FakeClock) -> None:
    """Pending alerts are counted too."""
    rule = Scripted([finding("critical")], [finding("critical", keep_firing=60)], [])
    pending = Scripted([finding("info", hold_for=600)])
    engine = AlertEngine([rule, pending], [], clock=clock)

    await engine.evaluate()

    assert engine.counts() == {
        ("trouble", "critical", "firing"): 1,
        ("trouble", "info", "pending"): 1,
    }


@pytest.mark.anyio
async def test_rule_that_raises_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log line names the rule, and its findings before the error do not count."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        yield finding("critical")
        raise ZeroDivisionError

    engine = AlertEngine([broken, Scripted([finding()])], [])

    events = await engine.evaluate()

    assert [(event.transition, event.finding) for event in events] == [("fired", finding())]
    assert caplog.messages == [
        "rule broken failed with ZeroDivisionError: alerts continue without it"
    ]


@pytest.mark.anyio
async def test_alerts_of_two_rules_with_one_fingerprint_are_separate() -> None:
    """Each alert is resolved when its own rule no longer finds it."""
    engine = AlertEngine([Scripted([finding()]), Scripted([finding()], [finding()])], [])

    changes = [transitions(await engine.evaluate()) for _ in range(3)]

    assert changes == [["fired", "fired"], ["resolved"], ["resolved"]]


@pytest.mark.anyio
async def test_sink_that_raises_is_logged_once_and_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The other sinks get every event."""
    sink = RecordingSink()

    async def broken(event: AlertEvent) -> None:
        raise ConnectionError("no network")

    engine = AlertEngine([Scripted([finding()])], [broken, sink])

    await engine.evaluate()
    await engine.evaluate()

    assert transitions(sink.events) == ["fired", "resolved"]
    assert caplog.messages == [
        "sink broken failed with ConnectionError: alerts continue without it"
    ]


@pytest.mark.anyio
async def test_sink_that_hangs_delays_neither_evaluations_nor_other_sinks() -> None:
    """Each sink of a running engine has its own task."""
    sink = RecordingSink()

    async def hanging(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    items = [[finding("info")], [finding("critical")]]
    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted(*items)], [hanging, sink], interval=0.001):
            while len(sink.events) < 3:
                await sink.notified.wait()
                sink.notified = anyio.Event()

    assert transitions(sink.events) == ["fired", "escalated", "resolved"]


def test_resend_interval_shorter_than_the_evaluation_interval_is_rejected() -> None:
    """Alertmanager would resolve the alert between two evaluations."""
    sink = AlertmanagerSink("http://127.0.0.1:9093", resend_every=30)

    with pytest.raises(
        ValueError,
        match=r"^resend_every of AlertmanagerSink\(.*\) must be at least the interval of the "
        r"engine, 60 s, got 30$",
    ):
        AlertEngine(sinks=[sink])


@pytest.mark.anyio
async def test_most_severe_of_several_findings_of_one_alert_counts() -> None:
    """Their order does not matter."""
    severities: list[Any] = [None, "info", "critical", "warning"]
    findings = [finding(severity) for severity in severities]
    engine = AlertEngine([Scripted(findings, findings[::-1])], [])

    (event,) = await engine.evaluate()

    assert event.finding.severity == "critical"
    assert await engine.evaluate() == []


@pytest.mark.anyio
async def test_default_sink_is_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Without sinks no alert is lost."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    engine = AlertEngine([Scripted([finding()])])

    await engine.evaluate()

    assert caplog.messages == ["fired trouble:key:k1 [warning]: "]


@pytest.mark.anyio
async def test_running_engine_evaluates_every_interval() -> None:
    """The third evaluation fires the alert."""
    sink = RecordingSink()

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted([], [], [finding()])], [sink], interval=0.001):
            await sink.notified.wait()

    assert transitions(sink.events)[0] == "fired"


@pytest.mark.anyio
async def test_running_engine_cannot_be_entered_again() -> None:
    """Two loops would evaluate twice as often."""
    async with AlertEngine([], []) as engine:
        with pytest.raises(
            RuntimeError, match=r"^this AlertEngine is already running; enter it once$"
        ):
            await engine.__aenter__()


@pytest.mark.anyio
async def test_leaving_the_engine_cancels_a_sink_that_hangs() -> None:
    """The application can exit."""
    started, cancelled = anyio.Event(), anyio.Event()

    async def hanging(event: AlertEvent) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted([finding()])], [hanging], interval=0.001):
            await started.wait()

    assert cancelled.is_set()


@pytest.mark.anyio
async def test_error_of_the_body_is_raised_unchanged() -> None:
    """The error is not wrapped in an exception group."""
    error = ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$") as caught:
        async with AlertEngine(sinks=[]):
            raise error

    assert caught.value is error


@pytest.mark.anyio
async def test_stopped_engine_can_be_entered_again() -> None:
    """An application may start twice in one process, and its alerts continue."""
    sink = RecordingSink()
    engine = AlertEngine([Scripted([finding()])], [sink], interval=0.001)

    with anyio.fail_after(PATIENCE):
        async with engine:
            pass
        async with engine as entered:
            await sink.notified.wait()

    assert entered is engine
    assert transitions(sink.events)[0] == "fired"


@pytest.mark.anyio
async def test_leaving_an_engine_that_was_never_entered_does_nothing() -> None:
    """A cleanup after a failed start needs no check."""
    engine = AlertEngine([Scripted([finding()])], [])

    async with AsyncExitStack() as stack:
        stack.push_async_exit(engine)

    assert engine.firing == []


@pytest.mark.anyio
async def test_evaluation_that_raises_does_not_end_the_loop(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is logged once, and the next evaluation succeeds."""
    sink = RecordingSink()
    errors: list[OSError] = []

    def wall() -> float:
        if errors:
            raise errors.pop()
        return 1.7e9

    engine = AlertEngine([Scripted([finding()])], [sink], interval=0.001, wall=wall)

    with anyio.fail_after(PATIENCE):
        async with engine:
            errors += [OSError("no clock"), OSError("no clock")]
            await sink.notified.wait()

    assert (sink.events[0].transition, sink.events[0].at) == ("fired", 1.7e9)
    assert caplog.messages == [
        f"{component} failed with OSError: alerts continue without it"
        for component in ("heartbeat of the alert store", "evaluation")
    ]


@pytest.mark.anyio
async def test_store_that_cannot_be_read_is_one_log_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The line has the remedy; the traceback is logged at DEBUG."""

    class Down(MemoryAlertStore):
        async def heartbeat(self, *values: Any, **options: Any) -> Any:
            raise StoreError("alerts.db cannot be opened\n(its folder must exist)")

    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.alerts")
    await AlertEngine([], [], store=Down()).evaluate()

    (line, traceback) = caplog.records
    assert (line.name, line.levelname, line.exc_info) == ("tokenpulse_mw.alerts", "ERROR", None)
    assert line.getMessage() == (
        "heartbeat of the alert store failed with StoreError: alerts.db cannot be opened "
        "(its folder must exist): "
        "alerts continue without it"
    )
    assert (traceback.levelname, traceback.exc_info is not None) == ("DEBUG", True)


@pytest.mark.parametrize("name", ["interval", "cooldown", "max_subjects"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_number_that_is_not_above_0_is_rejected(name: str, value: float) -> None:
    """The error names the parameter and the value."""
    chosen: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be a number above 0, got {value!r}$"):
        AlertEngine(**chosen)


def test_default_interval_is_a_minute_and_default_cooldown_is_five() -> None:
    """The seed has the same times."""
    engine = AlertEngine()

    assert (engine.interval, engine.cooldown) == (60, 300)


@pytest.mark.anyio
async def test_max_subjects_bounds_the_alerts() -> None:
    """All further tenants share one alert."""
    engine = AlertEngine(sinks=[], max_subjects=2)
    for number in range(9):
        engine.observe(exchange(tenant=f"m{number}", limited=True))

    events = await engine.evaluate()

    values = {event.finding.subject.id: event.finding.value for event in events}
    assert values == {"m0": 1, "m1": 1, "__overflow__": 7}


@pytest.mark.slow
@pytest.mark.anyio
async def test_max_subjects_is_20000_by_default() -> None:
    """All further tenants are counted as one."""
    counts = dict[str, int]()

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        counts.update(traffic.limited.items())
        return []

    engine = AlertEngine([rule], [])
    for number in range(20_007):
        engine.observe(exchange(tenant=f"m{number}", limited=True))

    await engine.evaluate()

    assert counts == {**{f"m{number}": 1 for number in range(20_000)}, "__overflow__": 7}
    assert engine.overflow()[()] > 0


URL = "sqlite+aiosqlite:///hunter2.db"


@pytest.mark.parametrize(
    ("chosen", "expected", "got"),
    [
        ({"store": URL}, r"SQLAlertStore\(url\) or", "a str"),
        ({"store": MemoryAlertStore}, "AlertStore", r"the class MemoryAlertStore \(not called\)"),
        ({"store": object()}, "AlertStore", "a object"),
        ({"sinks": [LogSink]}, r"\[LogSink\(\)\] or", r"the class LogSink \(not called\) among"),
        ({"sinks": [WebhookSink]}, r"\[WebhookSink\(url\)\]", "the class WebhookSink"),
        ({"sinks": ["http://hunter2"]}, r"\[WebhookSink\(url\)\]", "a str among them"),
        ({"sinks": [None]}, r"\[LogSink\(\)\]", "None among them"),
        ({"sinks": [lambda: None]}, "functions of an AlertEvent", "the function <lambda>"),
        (
            {"sinks": LogSink()},
            r"a list of functions .* \[LogSink\(\)\]",
            "a LogSink instead of a list",
        ),
        ({"sinks": "http://hunter2"}, "a list of functions", "a str instead of a list"),
        ({"rules": [default_rules]}, r"default_rules\(\)", "the function default_rules among them"),
        (
            {"rules": default_rules},
            r"default_rules\(\)",
            "the function default_rules instead of a list",
        ),
        ({"rules": [quota_exceeded]}, "functions of", "the function quota_exceeded among them"),
        ({"rules": [Thresholds()]}, "functions of", "a Thresholds among them"),
        ({"thresholds": {"error_rate": 1}}, r"Thresholds\(\*\*values\) of a dict", "a dict"),
        ({"thresholds": {}}, r"Thresholds\(\*\*values\) of a dict", "a dict"),
        ({"interval": "60"}, "interval must be a number above 0", "'60'"),
        ({"runbook_url": "/book"}, "runbook_url must be a URL", "'/book'"),
        (
            {"runbook_url": "https://a/#b"},
            "runbook_url must .* without a user and",
            "'https://a/#b'",
        ),
        ({"runbook_url": 7}, "runbook_url must be a URL", "7"),
    ],
)
def test_invalid_argument_is_rejected(chosen: Any, expected: str, got: str) -> None:
    """The error names the expected and the actual kind, but no URL, which may be secret."""
    with pytest.raises(ValueError, match=f"{expected}.*, got {got}") as caught:
        AlertEngine(**chosen)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("engine", [None, AlertEngine, "engine"])
def test_middleware_without_an_engine_is_rejected(engine: Any) -> None:
    """The constructor raises, not the first request."""
    with pytest.raises(ValueError, match=r"engine=AlertEngine\(\)\), got "):
        AlertMiddleware(answering(), engine=engine)


def test_rules_and_sinks_may_be_any_callables() -> None:
    """Methods, built-in functions and functions with further arguments are valid."""
    events: list[AlertEvent] = []

    def anything(*arguments: object, **options: object) -> None:
        """Accept any arguments."""

    sinks: list[Sink] = [events.append, anything, LogSink()]
    rules: list[Any] = [lambda traffic, thresholds, now: [], max]

    engine = AlertEngine(iter(rules), iter(sinks))

    assert engine.sinks == ("list", "anything", "LogSink")
    assert list(engine.rules) == ["<lambda>", "max"]


def test_sink_may_name_its_parameter_freely() -> None:
    """The parameter is positional, and the result is ignored: mypy checks this test."""

    def plain(alert: AlertEvent) -> None:
        """Ignore the event."""

    async def with_result(event_of_alert: AlertEvent) -> int:
        return 1

    class WithOption:
        async def __call__(self, item: AlertEvent, *, twice: bool = False) -> None:
            """Ignore the event."""

    sinks: list[Sink] = [plain, with_result, WithOption()]

    assert AlertEngine(sinks=sinks).sinks == ("plain", "with_result", "WithOption")


@pytest.mark.anyio
async def test_reset_engine_is_as_a_new_one(clock: FakeClock) -> None:
    """Traffic, alerts, notifications, silences and thresholds are those of the start."""

    async def broken(event: AlertEvent) -> None:
        raise OSError

    sink = RecordingSink()
    engine = AlertEngine(sinks=[sink, broken], clock=clock, wall=clock)
    controls = engine.controls
    await controls.set_thresholds(Thresholds(error_min_requests=1), by="ada")
    await controls.silence(Matcher("severity", "info"), ends_at=clock() + 3600, by="ada")
    for _ in range(10):
        engine.observe(exchange(api_key="k1", status=500))
    assert transitions(await engine.evaluate()) == ["fired"]
    assert sum(engine.queue_length().values()) == 1

    engine.reset()

    assert (engine.firing, engine.counts()) == ([], {})
    assert sum(engine.queue_length().values()) == 0
    assert engine.thresholds == engine.controls.thresholds == Thresholds()
    assert (controls.version, controls.silences) == (None, [])
    assert (await engine.store.alerts()).items == ()
    assert await engine.evaluate() == []
    assert transitions(sink.events) == ["fired"]


@pytest.mark.anyio
async def test_reset_engine_resumes_the_alerts_of_its_store(clock: FakeClock) -> None:
    """A store that outlives the process still has them, as after a restart."""

    class LastingStore:
        def __init__(self) -> None:
            self.memory = MemoryAlertStore()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.memory, name)

    engine = AlertEngine(sinks=[], store=LastingStore(), clock=clock, wall=clock)
    for _ in range(10):
        engine.observe(exchange(api_key="k1", status=500))
    await engine.evaluate()

    engine.reset()
    assert engine.firing == []
    await engine.evaluate()

    assert [finding.type for finding in engine.firing] == ["error_spike"]


@pytest.mark.anyio
async def test_evaluation_in_progress_during_a_reset_has_no_effect(clock: FakeClock) -> None:
    """Its alerts are neither open nor reported nor stored."""

    def slow(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        engine.reset()
        return [finding()]

    sink = RecordingSink()
    engine = AlertEngine([slow], [sink], clock=clock)

    assert await engine.evaluate() == []
    assert (engine.firing, sink.events) == ([], [])
    assert (await engine.store.alerts()).items == ()


def test_engine_runs_in_one_event_loop_after_another(clock: FakeClock) -> None:
    """An engine of a module can be used by tests on asyncio and on trio."""
    engine = AlertEngine(sinks=[RecordingSink()], clock=clock)

    async def run() -> list[str]:
        engine.reset()
        for _ in range(10):
            engine.observe(exchange(api_key="k1", status=500))
        async with engine:
            return transitions(await engine.evaluate())

    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(run, backend=backend) == ["fired"]


@pytest.mark.anyio
async def test_start_and_stop_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The lines at INFO show that the engine runs, with which rules, sinks and interval."""
    caplog.set_level("INFO", "tokenpulse_mw.alerts")

    async with AlertEngine([high_latency, rate_limit], [LogSink()], interval=30):
        pass
    async with AlertEngine([], []):
        pass

    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "alert engine started: rules=high_latency,rate_limit sinks=LogSink interval=30s"),
        ("INFO", "alert engine stopped"),
        ("INFO", "alert engine started: rules=none sinks=none interval=60s"),
        ("INFO", "alert engine stopped"),
    ]


@pytest.mark.anyio
async def test_dry_run_before_the_first_evaluation_has_the_findings_of_quotas(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The source of the quotas is called, since no evaluation has called it yet."""
    rows: list[Quota] = [Quota("k1", used=95, limit=100)]
    engine = AlertEngine([quota_exceeded(lambda: rows)], [])

    findings, errors = await engine.dry_run()
    await engine.evaluate()
    rows.clear()
    later = await engine.dry_run()

    assert [found.fingerprint for found in findings] == ["quota_exceeded:key:k1"]
    assert len(later.findings) == 1  # only evaluations call the source from now on
    assert (errors, caplog.records) == ({}, [])


@pytest.mark.anyio
async def test_errors_of_dry_runs_are_returned_and_mute_none_of_evaluations(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the errors of evaluations are logged and counted, the first of a kind at once."""

    class Listener:
        errors = 0

        def on_error(self, component: str) -> None:
            self.errors += 1

    def failing() -> list[Quota]:
        raise LookupError("no database")

    engine, listener = AlertEngine([quota_exceeded(failing)], []), Listener()
    engine.add_listener(listener)

    for _ in range(5):
        findings, errors = await engine.dry_run()
        assert (findings, list(errors)) == (
            [],
            ["refresh of rule quota_exceeded", "rule quota_exceeded"],
        )
    assert (caplog.records, listener.errors) == ([], 0)
    await engine.evaluate()

    assert [(record.levelname, record.message.partition(":")[0]) for record in caplog.records] == [
        ("ERROR", "refresh of rule quota_exceeded failed with LookupError"),
        ("ERROR", "rule quota_exceeded failed with LookupError"),
    ]
    assert listener.errors == 2

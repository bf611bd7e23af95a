"""The engine: rounds that fire once, resolve once, and survive what others do wrong."""

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
    Severity,
    Sink,
    Subject,
    Thresholds,
    Traffic,
    WebhookSink,
    default_rules,
    quota_exceeded,
)
from tokenpulse_mw.alerts.store import Changes, EngineState, MemoryAlertStore, StoreError

from ..support.apps import answering
from ..support.clock import FakeClock
from ..support.waiting import PATIENCE
from .exchanges import exchange


def trouble(severity: Severity | None = "warning", **fields: Any) -> Finding:
    """What a rule of a test finds."""
    return Finding(
        type="trouble",
        subject=Subject("key", "k1"),
        severity=severity,
        title="",
        message="",
        **fields,
    )


class Scripted:
    """A rule that finds what a test says, round by round, and then nothing."""

    def __init__(self, *rounds: list[Finding] | Exception) -> None:
        self.rounds = iter(rounds)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        coming = next(self.rounds, [])
        if isinstance(coming, Exception):
            raise coming
        return coming


class Remembering:
    """A sink that keeps what it is told, and lets a test wait for the first event."""

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []
        self.told = anyio.Event()

    async def __call__(self, event: AlertEvent) -> None:
        self.events.append(event)
        self.told.set()


def transitions(events: Iterable[AlertEvent]) -> list[str]:
    """What happened, in order."""
    return [each.transition for each in events]


@pytest.mark.anyio
async def test_an_alert_fires_once_while_failures_last_and_resolves_once_after(
    clock: FakeClock,
) -> None:
    """Every round asks, but only a beginning and an end are told."""
    engine = AlertEngine(sinks=[], clock=clock)
    told: list[str] = []

    for failing in [True, True, True, False, False, False, False, False, False, False]:
        for _ in range(10 if failing else 0):
            engine.observe(exchange(api_key="k1", status=500))
        told += transitions(await engine.evaluate()) or ["-"]
        clock.advance(60)

    assert told == ["fired", "-", "-", "-", "-", "reminded", "-", "-", "resolved", "-"]


@pytest.mark.anyio
async def test_an_hour_of_failures_is_one_episode(clock: FakeClock) -> None:
    """Reminders apart, an hour of breach with an hour of calm after it is told in two events."""
    sink = Remembering()
    engine = AlertEngine(sinks=[sink], clock=clock)

    for second in range(7200):
        clock.advance(1)
        if second < 3600:
            engine.observe(exchange(api_key="k1", status=500))
        if second % 60 == 59:
            await engine.evaluate()

    told = transitions(sink.events)
    assert [each for each in told if each != "reminded"] == ["fired", "resolved"]
    assert (told[0], told[-1], len(told)) == ("fired", "resolved", 14)


@pytest.mark.anyio
async def test_a_severity_that_changes_is_told_at_once(clock: FakeClock) -> None:
    """The cooldown holds back reminders, never what is new."""
    rule = Scripted([trouble("info")], [trouble("critical")], [trouble("critical")], [trouble()])
    engine = AlertEngine([rule], [], clock=clock)

    told = [transitions(await engine.evaluate()) for _ in range(4)]

    assert told == [["fired"], ["escalated"], [], ["deescalated"]]


@pytest.mark.anyio
async def test_an_error_rate_that_swings_around_a_step_is_told_once(clock: FakeClock) -> None:
    """An hour of 23 to 27 % is a warning, and nobody is told each minute that it is none."""
    engine = AlertEngine(
        sinks=[], thresholds=Thresholds(error_window=60), cooldown=86_400, clock=clock
    )
    told: list[str] = []

    for minute in range(60):
        for number in range(100):
            failed = number < (27 if minute % 2 else 23)
            engine.observe(exchange(api_key="k1", status=500 if failed else 200))
        told += transitions(await engine.evaluate())
        clock.advance(90)

    assert told == ["fired", "escalated"]


@pytest.mark.anyio
async def test_an_alert_that_lasts_is_reminded_of_after_the_cooldown(clock: FakeClock) -> None:
    """A reminder counts as telling: the next one is a cooldown later."""
    engine = AlertEngine([Scripted(*[[trouble()]] * 7)], [], cooldown=120, clock=clock)
    told: list[list[str]] = []

    for _ in range(7):
        told.append(transitions(await engine.evaluate()))
        clock.advance(50)

    assert told == [["fired"], [], [], ["reminded"], [], [], ["reminded"]]


@pytest.mark.anyio
async def test_limits_are_counted_from_round_to_round(clock: FakeClock) -> None:
    """A master that was limited is told, and one that was limited no more is resolved."""
    engine = AlertEngine(sinks=[], clock=clock)
    engine.observe(exchange(tenant="acme", limited=True))

    assert [
        [(each.transition, each.fingerprint) for each in await engine.evaluate()] for _ in range(3)
    ] == [[("fired", "rate_limit:master:acme")], [("resolved", "rate_limit:master:acme")], []]


@pytest.mark.anyio
async def test_an_event_carries_the_finding_and_the_time_of_day(clock: FakeClock) -> None:
    """Rounds run on the monotonic clock; people are told the time on the wall."""
    sink = Remembering()
    engine = AlertEngine([Scripted([trouble()])], [sink], clock=clock, wall=lambda: 1.7e9)

    events = await engine.evaluate()

    assert [(each.transition, each.finding, each.at, each.fired_at) for each in events] == [
        ("fired", trouble(), 1.7e9, 1.7e9)
    ]
    assert sink.events == events


@pytest.mark.anyio
async def test_a_rule_is_asked_with_the_traffic_the_thresholds_and_the_time(
    clock: FakeClock,
) -> None:
    """Anyone can write a rule: it sees what was observed, and what to compare it with."""
    thresholds = Thresholds(error_window=50)
    asked: list[tuple[list[tuple[str, int, int]], Thresholds, float]] = []

    def rule(traffic: Traffic, given: Thresholds, now: float) -> Iterable[Finding]:
        asked.append((list(traffic.errors.failing()), given, now))
        return []

    engine = AlertEngine([rule], [], thresholds=thresholds, clock=clock)
    engine.observe(exchange(api_key="k1", status=500))
    await engine.evaluate()
    clock.advance(60)
    await engine.evaluate()

    assert asked == [([("k1", 1, 1)], thresholds, 1000.0), ([], thresholds, 1060.0)]


@pytest.mark.anyio
async def test_firing_gives_what_is_wrong_now(clock: FakeClock) -> None:
    """What is pending is not wrong yet; what is recovering still is."""
    found = trouble(hold_for=60, keep_firing=60)
    engine = AlertEngine([Scripted([found], [found], [])], [], clock=clock)
    firing: list[list[Finding]] = []

    for _ in range(4):
        await engine.evaluate()
        firing.append(engine.firing)
        clock.advance(60)

    assert firing == [[], [found], [found], []]


@pytest.mark.anyio
async def test_a_rule_that_raises_is_logged_once_and_keeps_its_alerts(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """That a rule cannot tell is no sign that all is well."""
    broken = KeyError("broken")
    engine = AlertEngine([Scripted([trouble()], broken, broken, [])], [], clock=clock)

    told = [transitions(await engine.evaluate()) for _ in range(3)]

    assert told == [["fired"], [], []]
    assert engine.firing == [trouble()]
    assert caplog.messages == ["rule Scripted failed with KeyError: alerts continue without it"]
    caplog.set_level(logging.INFO)
    clock.advance(60)
    assert transitions(await engine.evaluate()) == ["resolved"]
    assert caplog.messages[1:] == ["rule Scripted recovered from KeyError (seconds=60 failures=2)"]


@pytest.mark.anyio
async def test_a_store_outage_is_logged_when_it_begins_ends_and_returns(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The end has its duration and failures; a store that comes and goes has a line a minute."""

    class Flapping(MemoryAlertStore):
        is_down = False

        async def commit(self, changes: Changes) -> str | None:
            if self.is_down:
                raise StoreError("no disk")
            return await super().commit(changes)

    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    store = Flapping()
    engine = AlertEngine([], [], store=store, clock=clock)

    back_and_forth = [(True, 5), (False, 1), (True, 5), (False, 1)]
    for store.is_down, seconds in [(True, 60), (True, 60), (False, 5), *back_and_forth]:
        await engine.evaluate()
        clock.advance(seconds)

    failed = "alert store failed with StoreError: no disk: alerts continue without it"
    recovered = "alert store recovered from StoreError"
    assert caplog.messages == [
        failed,
        f"{recovered} (seconds=120 failures=3)",
        failed,
        f"{recovered} (seconds=5 failures=1)",
    ]


@pytest.mark.anyio
async def test_all_events_of_an_episode_name_it(clock: FakeClock) -> None:
    """The next episode of the same alert has another name; each event has one of its own."""
    rounds = [[trouble("warning")], [trouble("critical")], [], [trouble("warning")]]
    engine = AlertEngine([Scripted(*rounds)], [], clock=clock, wall=clock)
    events: list[AlertEvent] = []

    for _ in range(4):
        clock.advance(60)
        events += await engine.evaluate()

    fired, escalated, resolved, again = events
    assert fired.alert_id == escalated.alert_id == resolved.alert_id != again.alert_id
    assert fired.fired_at == escalated.fired_at == resolved.fired_at == fired.at
    assert (escalated.previous, resolved.previous) == ("warning", None)
    assert len({each.id for each in events}) == 4


@pytest.mark.anyio
async def test_a_sink_that_wants_it_is_told_in_every_round_what_fires(clock: FakeClock) -> None:
    """With what is found now: that is how Alertmanager knows that it still does."""

    class Resending(Remembering):
        def __init__(self) -> None:
            super().__init__()
            self.firing: list[list[object]] = []

        async def resend(self, events: list[AlertEvent], now: float) -> None:
            self.firing.append([(each.transition, each.finding.value) for each in events])

    sink = Resending()
    rule = Scripted([trouble(value=1)], [trouble(value=2)], [])
    engine = AlertEngine([rule], [sink], clock=clock, wall=clock)

    for _ in range(3):
        await engine.evaluate()

    assert sink.firing == [[("fired", 1)], [("fired", 2)], []]


@pytest.mark.anyio
async def test_sinks_are_closed_when_the_engine_is_left() -> None:
    """One that fails at that costs the others nothing."""
    closed: list[str] = []

    class Closing(Remembering):
        async def aclose(self) -> None:
            closed.append("closed")
            raise OSError("already")

    async with AlertEngine([], [Closing(), Remembering(), Closing()]):
        pass

    assert closed == ["closed", "closed"]


@pytest.mark.anyio
async def test_a_sink_whose_resending_fails_is_told_of() -> None:
    """As one that does not take an event."""
    listener = Listening()

    class Failing(Remembering):
        async def resend(self, events: list[AlertEvent], now: float) -> None:
            raise OSError("no network")

    engine = AlertEngine([], [Failing()])
    engine.add_listener(listener)
    await engine.evaluate()

    assert listener.told[1:] == [("delivered", "Failing", "error"), ("failed", "alerts")]


@pytest.mark.anyio
async def test_thresholds_can_be_changed_while_it_runs(clock: FakeClock) -> None:
    """The next round compares what was counted with the new ones."""
    engine = AlertEngine(sinks=[], thresholds=Thresholds(error_rate=None), clock=clock)
    for _ in range(20):
        engine.observe(exchange(api_key="k1", status=500))

    before = await engine.evaluate()
    await engine.controls.set_thresholds(Thresholds(error_rate=0.5), by="ada")
    after = await engine.evaluate()

    assert (before, [each.fingerprint for each in after]) == ([], ["error_spike:key:k1"])
    assert engine.thresholds.error_rate == 0.5


@pytest.mark.anyio
async def test_an_outage_explains_its_failures_for_as_long_as_they_are_counted(
    clock: FakeClock,
) -> None:
    """When the provider is back the failures are in the window still, and no news to anyone."""
    engine = AlertEngine(sinks=[], clock=clock)
    for _ in range(20):
        engine.observe(exchange(api_key="k1", provider="claude", status=502))

    told = [*await engine.evaluate()]
    engine.observe(exchange(api_key="k1", provider="claude"))
    for _ in range(7):
        told += await engine.evaluate()
        clock.advance(60)

    assert [(each.transition, each.fingerprint) for each in told] == [
        ("fired", "provider_down:provider:claude"),
        ("resolved", "provider_down:provider:claude"),
    ]


@pytest.mark.anyio
async def test_what_a_rule_has_to_ask_for_is_asked_before_the_round(clock: FakeClock) -> None:
    """One that cannot, goes on with what it knew."""
    answers: list[list[Quota] | Exception] = [OSError("down"), [Quota("k1", used=95, limit=100)]]

    async def source() -> list[Quota]:
        answer = answers.pop()
        if isinstance(answer, Exception):
            raise answer
        return answer

    engine = AlertEngine([quota_exceeded(source)], [], clock=clock)

    first, second = await engine.evaluate(), await engine.evaluate()

    assert [each.fingerprint for each in first] == ["quota_exceeded:key:k1"]
    assert second == []
    assert [each.type for each in engine.firing] == ["quota_exceeded"]


@pytest.mark.anyio
async def test_a_rule_that_finds_what_cannot_be_is_left_behind(clock: FakeClock) -> None:
    """Its alerts stay as they were, and the round is told as an error."""
    listener = Listening()
    broken = trouble(hold_for=None)
    rule = Scripted([trouble()], [broken, trouble()])
    engine = AlertEngine([Scripted([replace(broken, type="odd")]), rule], [], clock=clock)
    engine.add_listener(listener)

    events = await engine.evaluate()

    assert [each.finding.type for each in events] == ["trouble"]
    assert [told[:2] for told in listener.told] == [("failed", "alerts"), ("evaluated", "error")]


class Listening:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def on_evaluation(self, result: str, seconds: float) -> None:
        """A round is over."""
        self.told.append(("evaluated", result, seconds))

    def on_delivery(self, sink: str, result: str) -> None:
        """A sink was told."""
        self.told.append(("delivered", sink, result))

    def on_error(self, component: str) -> None:
        """Something of the engine has failed."""
        self.told.append(("failed", component))


@pytest.mark.anyio
async def test_a_listener_is_told_how_the_engine_fares(clock: FakeClock) -> None:
    """Each round with its duration, each delivery, and each failure; once, however often added."""
    listener = Listening()

    async def broken(event: AlertEvent) -> None:
        raise RuntimeError("no network")

    def slow(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        clock.advance(2)
        return [trouble()]

    engine = AlertEngine([slow], [broken], clock=clock)
    engine.add_listener(listener)
    engine.add_listener(listener)
    await engine.evaluate()

    assert listener.told == [
        ("evaluated", "ok", 2),
        ("delivered", "broken", "error"),
        ("failed", "alerts"),
    ]


@pytest.mark.anyio
async def test_a_round_in_which_a_rule_fails_is_told_as_an_error() -> None:
    """However well the others went."""
    listener = Listening()
    engine = AlertEngine([Scripted(RuntimeError("oops")), Scripted([])], [])
    engine.add_listener(listener)

    await engine.evaluate()

    assert [told[:2] for told in listener.told] == [("failed", "alerts"), ("evaluated", "error")]


@pytest.mark.anyio
async def test_alerts_are_counted_by_type_severity_and_state(clock: FakeClock) -> None:
    """Those that wait before they fire, too."""
    rule = Scripted([trouble("critical")], [trouble("critical", keep_firing=60)], [])
    waiting = Scripted([trouble("info", hold_for=600)])
    engine = AlertEngine([rule, waiting], [], clock=clock)

    await engine.evaluate()

    assert engine.counts() == {
        ("trouble", "critical", "firing"): 1,
        ("trouble", "info", "pending"): 1,
    }


@pytest.mark.anyio
async def test_a_rule_that_raises_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rules after it are asked, and it is named in the log."""

    def broken(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        yield trouble("critical")
        raise ZeroDivisionError

    engine = AlertEngine([broken, Scripted([trouble()])], [])

    events = await engine.evaluate()

    assert [(each.transition, each.finding) for each in events] == [("fired", trouble())]
    assert caplog.messages == [
        "rule broken failed with ZeroDivisionError: alerts continue without it"
    ]


@pytest.mark.anyio
async def test_two_rules_with_one_fingerprint_keep_their_alerts_apart() -> None:
    """What one rule no longer finds is resolved, whatever another finds."""
    engine = AlertEngine([Scripted([trouble()]), Scripted([trouble()], [trouble()])], [])

    told = [transitions(await engine.evaluate()) for _ in range(3)]

    assert told == [["fired", "fired"], ["resolved"], ["resolved"]]


@pytest.mark.anyio
async def test_a_sink_that_raises_is_logged_once_and_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Every sink is told every event, and the round goes on."""
    sink = Remembering()

    async def broken(event: AlertEvent) -> None:
        raise ConnectionError("no network")

    engine = AlertEngine([Scripted([trouble()])], [broken, sink])

    await engine.evaluate()
    await engine.evaluate()

    assert transitions(sink.events) == ["fired", "resolved"]
    assert caplog.messages == [
        "sink broken failed with ConnectionError: alerts continue without it"
    ]


@pytest.mark.anyio
async def test_a_sink_that_hangs_holds_up_neither_rounds_nor_other_sinks() -> None:
    """Each is told at its own pace while the engine runs."""
    sink = Remembering()

    async def hanging(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    rounds = [[trouble("info")], [trouble("critical")]]
    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted(*rounds)], [hanging, sink], interval=0.001):
            while len(sink.events) < 3:
                await sink.told.wait()
                sink.told = anyio.Event()

    assert transitions(sink.events) == ["fired", "escalated", "resolved"]


def test_what_is_sent_again_too_seldom_is_refused() -> None:
    """Alertmanager would think that it is over, between two rounds."""
    sink = AlertmanagerSink("http://127.0.0.1:9093", resend_every=30)

    with pytest.raises(
        ValueError,
        match=r"^resend_every of AlertmanagerSink\(.*\) must be at least the interval of the "
        r"engine, 60 s, got 30$",
    ):
        AlertEngine(sinks=[sink])


@pytest.mark.anyio
async def test_the_worst_of_several_findings_about_one_subject_counts() -> None:
    """In whatever order a rule gives them."""
    found = [trouble(None), trouble("info"), trouble("critical"), trouble("warning")]
    engine = AlertEngine([Scripted(found, found[::-1])], [])

    (event,) = await engine.evaluate()

    assert event.finding.severity == "critical"
    assert await engine.evaluate() == []


@pytest.mark.anyio
async def test_an_engine_without_sinks_of_its_own_writes_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An alert is never lost for want of a setting."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    engine = AlertEngine([Scripted([trouble()])])

    await engine.evaluate()

    assert caplog.messages == ["fired trouble:key:k1 [warning]: "]


@pytest.mark.anyio
async def test_a_running_engine_evaluates_every_interval() -> None:
    """Once entered it needs no one to call it."""
    sink = Remembering()

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted([], [], [trouble()])], [sink], interval=0.001):
            await sink.told.wait()

    assert transitions(sink.events)[0] == "fired"


@pytest.mark.anyio
async def test_an_engine_that_runs_cannot_be_entered_again() -> None:
    """Two loops would tell everything twice."""
    async with AlertEngine([], []) as engine:
        with pytest.raises(
            RuntimeError, match=r"^this AlertEngine is already running; enter it once$"
        ):
            await engine.__aenter__()


@pytest.mark.anyio
async def test_leaving_stops_the_engine_even_in_the_middle_of_a_sink() -> None:
    """A sink that hangs cannot keep the application from ending."""
    begun, ended = anyio.Event(), anyio.Event()

    async def hanging(event: AlertEvent) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Scripted([trouble()])], [hanging], interval=0.001):
            await begun.wait()

    assert ended.is_set()


@pytest.mark.anyio
async def test_what_the_body_raises_is_raised_as_it_is() -> None:
    """An application inside an engine hears of its own errors, not of a group of them."""
    error = ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$") as raised:
        async with AlertEngine(sinks=[]):
            raise error

    assert raised.value is error


@pytest.mark.anyio
async def test_an_engine_that_was_left_can_be_entered_again() -> None:
    """An application may be started twice in one process, and alerts go on where they were."""
    sink = Remembering()
    engine = AlertEngine([Scripted([trouble()])], [sink], interval=0.001)

    with anyio.fail_after(PATIENCE):
        async with engine:
            pass
        async with engine as entered:
            await sink.told.wait()

    assert entered is engine
    assert transitions(sink.events)[0] == "fired"


@pytest.mark.anyio
async def test_leaving_an_engine_that_was_never_entered_does_nothing() -> None:
    """Whoever cleans up need not know how far starting came."""
    engine = AlertEngine([Scripted([trouble()])], [])

    async with AsyncExitStack() as stack:
        stack.push_async_exit(engine)

    assert engine.firing == []


@pytest.mark.anyio
async def test_a_round_that_fails_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """The failure is logged once, and the next round is held as if nothing had been."""
    sink = Remembering()
    outages: list[OSError] = []

    def wall() -> float:
        if outages:
            raise outages.pop()
        return 1.7e9

    engine = AlertEngine([Scripted([trouble()])], [sink], interval=0.001, wall=wall)

    with anyio.fail_after(PATIENCE):
        async with engine:
            outages += [OSError("no clock"), OSError("no clock")]
            await sink.told.wait()

    assert (sink.events[0].transition, sink.events[0].at) == ("fired", 1.7e9)
    assert caplog.messages == ["evaluation failed with OSError: alerts continue without it"]


@pytest.mark.anyio
async def test_a_store_that_cannot_be_asked_is_one_line_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It says what to do; where it comes from is for those who debug."""

    class Down(MemoryAlertStore):
        async def load(self) -> EngineState:
            raise StoreError("alerts.db cannot be opened\n(its folder must exist)")

    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.alerts")
    await AlertEngine([], [], store=Down()).evaluate()

    (line, trace) = caplog.records
    assert (line.name, line.levelname, line.exc_info) == ("tokenpulse_mw.alerts", "ERROR", None)
    assert line.getMessage() == (
        "loading the alert store failed with StoreError: alerts.db cannot be opened "
        "(its folder must exist): "
        "alerts continue without it"
    )
    assert (trace.levelname, trace.exc_info is not None) == ("DEBUG", True)


@pytest.mark.parametrize("name", ["interval", "cooldown", "max_subjects"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_number_that_is_not_above_0_is_refused(name: str, value: float) -> None:
    """An engine that could not work is not built."""
    chosen: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be a number above 0, got {value!r}$"):
        AlertEngine(**chosen)


def test_a_round_is_held_each_minute_and_a_reminder_each_five() -> None:
    """These are the seed's times."""
    engine = AlertEngine()

    assert (engine.interval, engine.cooldown) == (60, 300)


@pytest.mark.slow
@pytest.mark.parametrize(("chosen", "most"), [({"max_subjects": 2}, 2), ({}, 5000)])
@pytest.mark.anyio
async def test_max_subjects_bounds_the_alerts_too(chosen: dict[str, Any], most: int) -> None:
    """A flood of tenants gives no more alerts than subjects that are told apart, and one."""
    engine = AlertEngine(sinks=[], **chosen)
    for number in range(most + 7):
        engine.observe(exchange(tenant=f"m{number}", limited=True))

    events = await engine.evaluate()

    times = {each.finding.subject.id: each.finding.value for each in events}
    assert times == {**{f"m{number}": 1 for number in range(most)}, "__overflow__": 7}


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
    ],
)
def test_what_would_fail_later_is_refused(chosen: Any, expected: str, got: str) -> None:
    """The error says what came, and what to write; a URL, which may be secret, it does not say."""
    with pytest.raises(ValueError, match=f"{expected}.*, got {got}") as error:
        AlertEngine(**chosen)

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("engine", [None, AlertEngine, "engine"])
def test_a_middleware_without_an_engine_is_refused(engine: Any) -> None:
    """When it is made, and not with each request."""
    with pytest.raises(ValueError, match=r"engine=AlertEngine\(\)\), got "):
        AlertMiddleware(answering(), engine=engine)


def test_rules_and_sinks_may_be_anything_that_can_be_called() -> None:
    """Methods, functions that are not written in Python, and those that take more than they get."""
    heard: list[AlertEvent] = []

    def anything(*given: object, **options: object) -> None:
        """Take whatever it is told."""

    sinks: list[Sink] = [heard.append, anything, LogSink()]
    rules: list[Any] = [lambda traffic, thresholds, now: [], max]

    engine = AlertEngine(iter(rules), iter(sinks))

    assert engine.sinks == ("list", "anything", "LogSink")
    assert list(engine.rules) == ["<lambda>", "max"]


def test_a_sink_may_call_its_event_as_it_likes() -> None:
    """What it is told has no name, nor does what it gives matter: mypy has read this."""

    def plain(alert: AlertEvent) -> None:
        """Take it."""

    async def later(what: AlertEvent) -> int:
        return 1

    class Mine:
        async def __call__(self, told: AlertEvent, *, twice: bool = False) -> None:
            """Take it."""

    assert AlertEngine(sinks=[plain, later, Mine()]).sinks == ("plain", "later", "Mine")

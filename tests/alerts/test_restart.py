"""Restarts and kills: they change neither the notifications nor the stored state."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEngine, AlertEvent, Finding, Severity, Thresholds, Traffic
from tokenpulse_mw.alerts.store import (
    AlertRecord,
    AlertStore,
    Matcher,
    MemoryAlertStore,
    SQLAlertStore,
)

from ..support.clock import FakeClock
from .exchanges import exchange
from .findings import FixedRule, RecordingSink, finding
from .store.leadership import release

COOLDOWN = 100
# Hysteresis: a warning keeps an alert critical, so its severity before the restart matters.
KEEPS: dict[Severity | None, Severity | None] = {
    None: None,
    "info": "info",
    "warning": "critical",
    "critical": "critical",
}
CLOCK_OFFSET = 12_345.0  # seconds between the monotonic clocks of two processes

OpenStore = Callable[[Callable[[], float]], AlertStore]


class Evaluation(NamedTuple):
    """Restarts, an evaluation, and a change by the controls.

    Attributes:
        gap: Seconds since the evaluation before.
        findings: Severities by rule and subject.
        change: The change, its subject, and a number for it.
        restarts: Number of restarts before the evaluation.
        dies: Kill the process while it notifies: before or after the sink has the event.
    """

    gap: int
    findings: dict[tuple[str, str], Severity | None]
    change: tuple[str, str, int] | None = None
    restarts: int = 0
    dies: Literal["before", "after"] | None = None


severities: st.SearchStrategy[Severity | None] = st.sampled_from(
    [None, "info", "warning", "critical"]
)
subjects = st.sampled_from(["k1", "k2"])
histories = st.lists(
    st.builds(
        Evaluation,
        gap=st.integers(0, 90),
        findings=st.dictionaries(
            st.tuples(st.sampled_from(["one", "other"]), subjects), severities, max_size=4
        ),
        change=st.none()
        | st.tuples(
            st.sampled_from(
                ["acknowledge", "unacknowledge", "silence", "unsilence", "set_thresholds"]
            ),
            subjects,
            st.integers(1, 120),
        ),
        restarts=st.integers(0, 2),
        dies=st.none(),
    ),
    max_size=15,
)


class ThresholdRule(FixedRule):
    """A planned rule whose findings have the `hold_for` and `keep_firing` of the thresholds."""

    def plan(self, findings: dict[tuple[str, str], Severity | None]) -> None:
        """Return these findings from now on."""
        self.findings = [
            finding(severity, type=self.name, subject=subject, keeps=KEEPS[severity])
            for (rule, subject), severity in findings.items()
            if rule == self.name
        ]

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        hold, keep = thresholds.provider_error_hold, thresholds.keep_firing
        return [replace(planned, hold_for=hold, keep_firing=keep) for planned in self.findings]


class KillingSink(RecordingSink):
    """A sink that cancels its process before or after it records an event."""

    def __init__(self) -> None:
        super().__init__()
        self.dies: Literal["before", "after"] | None = None
        self.process = anyio.CancelScope()

    async def __call__(self, event: AlertEvent) -> None:
        if self.dies != "before":
            await super().__call__(event)
        if self.dies is not None:
            self.process.cancel()
            await anyio.sleep_forever()


class World:
    """A store, and the engines that use it one after another."""

    def __init__(self, open_store: OpenStore) -> None:
        self.wall = FakeClock(1_700_000_000.0)
        self.rules = ThresholdRule(name="one"), ThresholdRule(name="other")
        self.sink = KillingSink()
        self.returned: list[list[AlertEvent]] = []
        self._open_store = open_store
        self._started = 0
        self._start()

    def _start(self) -> None:
        self._started += 1
        offset = self._started * CLOCK_OFFSET
        self.store = self._open_store(self.wall)
        self.engine = AlertEngine(
            self.rules,
            [self.sink],
            thresholds=Thresholds(provider_error_hold=30, keep_firing=30),
            cooldown=COOLDOWN,
            store=self.store,
            clock=lambda: self.wall() - offset,
            wall=self.wall,
        )

    async def restart(self) -> None:
        """Replace the engine by another process, after the lease of this one has lapsed."""
        await release(self.store)
        await self.store.aclose()
        self._start()

    async def run(self, evaluation: Evaluation) -> None:
        """Run one evaluation with its restarts and its change."""
        for _ in range(evaluation.restarts):
            await self.restart()
        self.wall.advance(evaluation.gap)
        for rule in self.rules:
            rule.plan(evaluation.findings)
        self.sink.dies, self.sink.process = evaluation.dies, anyio.CancelScope()
        with self.sink.process:
            self.returned.append(await self.engine.evaluate())
        if self.sink.process.cancelled_caught:
            await self.restart()
        elif evaluation.change is not None:
            await self._change(*evaluation.change)

    async def _change(self, change: str, subject: str, number: int) -> None:
        controls = self.engine.controls
        if change == "silence":
            matcher = Matcher("subject_id", subject)
            await controls.silence(matcher, ends_at=self.wall() + number, by="ada")
        elif change == "unsilence":
            for silence in controls.silences[:1]:
                await controls.unsilence(silence.id)
        elif change == "set_thresholds":
            chosen = Thresholds(provider_error_hold=number // 2, keep_firing=number // 3)
            await controls.set_thresholds(chosen, by="ada")
        else:
            await self._acknowledge(change, subject)

    async def _acknowledge(self, change: str, subject: str) -> None:
        for alert in (await self.store.alerts(subject=f"key:{subject}")).items:
            if alert.state != "resolved" and change == "acknowledge":
                await self.engine.controls.acknowledge(alert.id, by="ada")
            elif alert.state != "resolved":
                await self.engine.controls.unacknowledge(alert.id)


class Outcome(NamedTuple):
    """The outcome of a history; random ids are replaced by numbers.

    Attributes:
        returned: The events that each evaluation has returned.
        notified: The events that the sink has got, by fingerprint, without repetitions.
        alerts: The stored alerts.
        thresholds: The current thresholds.
    """

    returned: list[list[tuple[Any, ...]]]
    notified: dict[str, list[tuple[Any, ...]]]
    alerts: list[tuple[Any, ...]]
    thresholds: Thresholds


async def outcome_of(history: list[Evaluation], open_store: OpenStore) -> Outcome:
    """Run a history and return its outcome."""
    world = World(open_store)
    for evaluation in history:
        await world.run(evaluation)
    await world.run(Evaluation(0, {}))  # delivers what a killed process has left in the store
    records = (await world.store.alerts(limit=1000)).items[::-1]
    await world.store.aclose()
    ids = _Numbers()
    notified: dict[str, list[tuple[Any, ...]]] = {}
    for event in {event.id: event for event in world.sink.events}.values():
        notified.setdefault(event.fingerprint, []).append(_fields_of_event(event, ids))
    return Outcome(
        [sorted(_fields_of_event(event, ids) for event in events) for events in world.returned],
        notified,
        sorted(_fields_of_record(record, ids) for record in records),
        world.engine.thresholds,
    )


class _Numbers:
    """Numbers of the episodes of each alert, in their order."""

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}

    def of(self, fingerprint: str, identity: str) -> int:
        """Return the number of an episode."""
        known = self._known.setdefault(fingerprint, [])
        if identity not in known:
            known.append(identity)
        return known.index(identity)


def _fields_of_event(event: AlertEvent, ids: _Numbers) -> tuple[Any, ...]:
    return (
        event.fingerprint,
        event.transition,
        event.finding.severity or "",
        event.previous or "",
        event.at,
        event.fired_at or 0,
        ids.of(event.fingerprint, event.alert_id),
    )


def _fields_of_record(record: AlertRecord, ids: _Numbers) -> tuple[Any, ...]:
    times = (
        record.since,
        record.last_notified_at,
        record.started_at,
        record.fired_at,
        record.resolved_at,
    )
    return (
        record.fingerprint,
        record.started_at,
        record.state,
        record.severity,
        record.notified_severity or "",
        record.ack is not None,
        *(time or 0 for time in times),
        ids.of(record.fingerprint, record.id),
    )


def without_restarts(history: list[Evaluation]) -> list[Evaluation]:
    """Return the same history in one process."""
    return [evaluation._replace(restarts=0, dies=None) for evaluation in history]


def in_memory() -> OpenStore:
    """Return a function that always returns the same store in memory."""
    stores: list[MemoryAlertStore] = []

    def open_store(wall: Callable[[], float]) -> AlertStore:
        stores[:] = stores or [MemoryAlertStore(wall=wall)]
        return stores[0]

    return open_store


@pytest.mark.slow
@given(histories)
def test_restarts_change_nothing(history: list[Evaluation]) -> None:
    """Events, notifications, stored alerts and thresholds are those of a single process."""
    restarted = anyio.run(outcome_of, history, in_memory())

    assert restarted == anyio.run(outcome_of, without_restarts(history), in_memory())


@pytest.mark.slow
@given(histories)
@settings(max_examples=10)
def test_restarts_with_a_database_change_nothing(history: list[Evaluation]) -> None:
    """Each engine opens the database file again."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder)}/alerts.db"
        restarted = anyio.run(outcome_of, history, lambda wall: SQLAlertStore(url, wall=wall))

    assert restarted == anyio.run(outcome_of, without_restarts(history), in_memory())


@pytest.mark.slow
@given(
    st.lists(
        st.builds(
            Evaluation,
            gap=st.integers(0, COOLDOWN // 20),  # too short for reminders, which may be dropped
            findings=st.dictionaries(st.tuples(st.just("one"), subjects), severities),
            change=st.none(),
            restarts=st.integers(0, 1),
            dies=st.sampled_from([None, "before", "after"]),
        ),
        max_size=15,
    )
)
def test_kill_during_a_notification_loses_and_reorders_nothing(history: list[Evaluation]) -> None:
    """A notification may be delivered twice, but then with the same id."""
    killed = anyio.run(outcome_of, history, in_memory())

    expected = anyio.run(outcome_of, without_restarts(history), in_memory())
    assert (killed.notified, killed.alerts) == (expected.notified, expected.alerts)


class Gateway:
    """A gateway with the default rules, whose engine is restarted."""

    def __init__(self, **chosen: Any) -> None:
        self.clock = FakeClock()
        self.sink = RecordingSink()
        self._thresholds = Thresholds(**{"keep_firing": 0, **chosen})
        self._store = MemoryAlertStore(wall=self.clock)
        self._start()

    async def restart(self) -> None:
        """Replace the engine by another process, after the lease of this one has lapsed."""
        await release(self._store)
        self._start()

    def _start(self) -> None:
        self.engine = AlertEngine(
            sinks=[self.sink],
            thresholds=self._thresholds,
            cooldown=86_400 * 7,
            store=self._store,
            clock=self.clock,
            wall=self.clock,
        )

    async def day_without_traffic(self) -> None:
        """Pass a day, so that all windows are complete."""
        self.clock.advance(86_400)
        await self.engine.evaluate()

    async def minute(self, requests: int = 0, failing: int = 0, **fields: Any) -> list[AlertEvent]:
        """Return the events of a minute with this number of requests."""
        for number in range(requests):
            self.clock.advance(60 / requests)
            self.engine.observe(exchange(status=500 if number < failing else 200, **fields))
        self.clock.advance(0 if requests else 60)
        return await self.engine.evaluate()


async def gateway_with_outage(**chosen: Any) -> Gateway:
    """Return a gateway after ten failed requests to the provider claude."""
    gateway = Gateway(**chosen)
    await gateway.minute(10, 10, provider="claude")
    return gateway


@pytest.mark.anyio
async def test_restored_outage_resolves_only_after_a_success() -> None:
    """An evaluation without traffic after the restart does not resolve it."""
    gateway = await gateway_with_outage()

    await gateway.restart()
    for _ in range(10):
        assert await gateway.minute() == []
    await gateway.minute(1, 0, provider="claude")

    assert gateway.sink.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
async def test_restored_outage_continues_its_streak_of_failures() -> None:
    """Failures after the restart are added to those before it."""
    gateway = await gateway_with_outage()

    await gateway.restart()
    await gateway.minute()
    await gateway.minute(2, 2, provider="claude")

    (outage,) = [firing for firing in gateway.engine.firing if firing.type == "provider_down"]
    assert outage.value == 12


@pytest.mark.anyio
async def test_traffic_before_a_process_leads_counts() -> None:
    """One more failure does not resolve a restored outage; a success does."""
    gateway = await gateway_with_outage()

    await gateway.restart()
    await gateway.minute(1, 1, provider="claude")
    await gateway.minute()
    assert gateway.sink.transitions_of("provider_down:provider:claude") == ["fired"]
    await gateway.minute(1, 0, provider="claude")

    assert gateway.sink.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
async def test_recovering_outage_does_not_fire_again_after_a_restart() -> None:
    """The alert continues to recover and is resolved."""
    gateway = await gateway_with_outage(keep_firing=300)
    await gateway.minute(1, 0, provider="claude")

    await gateway.restart()
    for _ in range(6):
        await gateway.minute()

    assert gateway.sink.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
@pytest.mark.parametrize("restarts_after", [1, 3, 5, 20])
async def test_restored_alert_resolves_when_its_window_ends(restarts_after: int) -> None:
    """The windows are restored too, so the time of the restart does not matter."""
    gateway = Gateway()
    await gateway.minute(20, 20, api_key="k1")

    by_minute = list[list[str]]()
    for minute in range(8):
        if minute == restarts_after:
            await gateway.restart()
        by_minute.append([event.transition for event in await gateway.minute()])

    assert by_minute == [[], [], [], [], [], ["resolved"], [], []]


@pytest.mark.anyio
async def test_restored_alert_is_resolved_by_traffic_at_once() -> None:
    """It is not held, because the windows have the traffic before the restart."""
    gateway = Gateway()
    await gateway.day_without_traffic()
    await gateway.minute(20, 12, api_key="k1")
    await gateway.restart()

    (resolved,) = await gateway.minute(200, api_key="k1")

    assert resolved.transition == "resolved"


@pytest.mark.anyio
async def test_restored_pending_alert_stays_pending_with_little_traffic() -> None:
    """A few requests after the restart do not drop it, and it fires on time."""
    gateway = Gateway()
    for _ in range(4):
        await gateway.minute(20, 8, provider="claude")

    await gateway.restart()
    await gateway.minute(5, 2, provider="claude")
    await gateway.minute(20, 8, provider="claude")
    await gateway.minute(20, 8, provider="claude")

    assert gateway.sink.transitions_of("high_error_rate:provider:claude") == ["fired"]


@pytest.mark.anyio
async def test_count_of_a_day_continues_after_a_restart() -> None:
    """An alert fires at its threshold, and escalates at twice the threshold."""
    gateway = Gateway(master_rpd=100)
    values = list[tuple[str, object]]()
    for _ in range(5):
        events = await gateway.minute(60, tenant="acme")
        values += [(event.transition, event.finding.value) for event in events]
        await gateway.restart()

    assert values == [("fired", 120), ("escalated", 240)]


minutes = st.lists(
    st.tuples(
        st.booleans(),  # restart before
        st.integers(0, 60),  # requests
        st.integers(0, 60),  # of which fail
        st.sampled_from(["claude", "gemini"]),
    ),
    max_size=12,
)


@pytest.mark.slow
@given(minutes)
@settings(max_examples=50)
def test_restarts_change_no_alert_of_real_traffic(
    history: list[tuple[bool, int, int, str]],
) -> None:
    """The default rules find the same in one process and in one after another."""

    async def findings_of(restarts: bool) -> list[list[tuple[str, str, object]]]:
        gateway = Gateway(master_rpd=200, master_rpm=40, global_qps=1)
        await gateway.day_without_traffic()
        events = list[list[AlertEvent]]()
        for restarted, requests, failing, provider in history:
            if restarts and restarted:
                await gateway.restart()
            events.append(
                await gateway.minute(
                    requests, failing, provider=provider, api_key="k1", tenant="acme"
                )
            )
        return [
            sorted((event.transition, event.fingerprint, event.finding.value) for event in minute)
            for minute in events
        ]

    assert anyio.run(findings_of, True) == anyio.run(findings_of, False)


@pytest.mark.anyio
async def test_thresholds_acknowledgements_and_silences_are_restored() -> None:
    """The thresholds have their version, the acknowledgement its author and note."""
    gateway = Gateway()
    await gateway.minute(20, 20, api_key="k1")
    (alert,) = (await gateway.engine.store.alerts()).items
    controls = gateway.engine.controls
    version = await controls.set_thresholds(Thresholds(error_rate=0.2), by="ada")
    await controls.acknowledge(alert.id, by="ada", note="on it")
    silence = await controls.silence(Matcher("severity", "info"), ends_at=1e6, by="ada")

    await gateway.restart()
    await gateway.minute()

    restored = gateway.engine.controls
    assert (restored.thresholds, restored.version) == (Thresholds(error_rate=0.2), version)
    assert restored.silences == [silence]
    (stored,) = (await gateway.engine.store.alerts()).items
    assert stored.id == alert.id
    assert stored.ack is not None
    assert (stored.ack.by, stored.ack.note) == ("ada", "on it")

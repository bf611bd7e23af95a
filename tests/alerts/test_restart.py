"""A restart changes nothing of what is told, nor of what people have set."""

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

COOLDOWN = 100
# What is no better than a warning keeps an alert critical, so what it was matters.
KEEPS: dict[Severity | None, Severity | None] = {
    None: None,
    "info": "info",
    "warning": "critical",
    "critical": "critical",
}
EPOCHS = 12_345.0  # seconds by which the clocks of two processes are apart

OpenStore = Callable[[Callable[[], float]], AlertStore]


class Round(NamedTuple):
    """What happens to an engine: restarts, then a round, then what people do.

    Attributes:
        gap: Seconds since the round before.
        found: What each rule finds, by rule and subject.
        act: What somebody does then, and about whom.
        restarts: How often the engine is thrown away before the round.
        dies: Where it is killed in the middle of telling: before or after a sink has heard it.
    """

    gap: int
    found: dict[tuple[str, str], Severity | None]
    act: tuple[str, str, int] | None = None
    restarts: int = 0
    dies: Literal["before", "after"] | None = None


severities: st.SearchStrategy[Severity | None] = st.sampled_from(
    [None, "info", "warning", "critical"]
)
subjects = st.sampled_from(["k1", "k2"])
rounds = st.lists(
    st.builds(
        Round,
        gap=st.integers(0, 90),
        found=st.dictionaries(
            st.tuples(st.sampled_from(["one", "other"]), subjects), severities, max_size=4
        ),
        act=st.none()
        | st.tuples(
            st.sampled_from(["ack", "unack", "silence", "unsilence", "tune"]),
            subjects,
            st.integers(1, 120),
        ),
        restarts=st.integers(0, 2),
        dies=st.none(),
    ),
    max_size=15,
)


class Planning(FixedRule):
    """A rule that finds what a round says; its times are those of the thresholds."""

    def plan(self, found: dict[tuple[str, str], Severity | None]) -> None:
        """Find this from now on."""
        self.found = [
            finding(severity, type=self.name, subject=subject, keeps=KEEPS[severity])
            for (rule, subject), severity in found.items()
            if rule == self.name
        ]

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        hold, keep = thresholds.provider_error_hold, thresholds.keep_firing
        return [replace(each, hold_for=hold, keep_firing=keep) for each in self.found]


class Dying(RecordingSink):
    """A sink in whose process is killed, before or after it has heard an event."""

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
    """A store, and one engine after another that goes on with it."""

    def __init__(self, open_store: OpenStore) -> None:
        self.wall = FakeClock(1_700_000_000.0)
        self.rules = Planning(name="one"), Planning(name="other")
        self.sink = Dying()
        self.told: list[list[AlertEvent]] = []
        self._open_store = open_store
        self._started = 0
        self._start()

    def _start(self) -> None:
        self._started += 1
        epoch = self._started * EPOCHS
        self.store = self._open_store(self.wall)
        self.engine = AlertEngine(
            self.rules,
            [self.sink],
            thresholds=Thresholds(provider_error_hold=30, keep_firing=30),
            cooldown=COOLDOWN,
            store=self.store,
            clock=lambda: self.wall() - epoch,
            wall=self.wall,
        )

    async def restart(self) -> None:
        """Throw the engine away, and begin with another one."""
        await self.store.aclose()
        self._start()

    async def live(self, each: Round) -> None:
        """Go through one round."""
        for _ in range(each.restarts):
            await self.restart()
        self.wall.advance(each.gap)
        for rule in self.rules:
            rule.plan(each.found)
        self.sink.dies, self.sink.process = each.dies, anyio.CancelScope()
        with self.sink.process:
            self.told.append(await self.engine.evaluate())
        if self.sink.process.cancelled_caught:
            await self.restart()
        elif each.act is not None:
            await self._act(*each.act)

    async def _act(self, what: str, subject: str, number: int) -> None:
        controls = self.engine.controls
        if what == "silence":
            matcher = Matcher("subject_id", subject)
            await controls.silence(matcher, ends_at=self.wall() + number, by="ada")
        elif what == "unsilence":
            for silence in controls.silences[:1]:
                await controls.unsilence(silence.id)
        elif what == "tune":
            chosen = Thresholds(provider_error_hold=number // 2, keep_firing=number // 3)
            await controls.set_thresholds(chosen, by="ada")
        else:
            await self._see(what, subject)

    async def _see(self, what: str, subject: str) -> None:
        for alert in (await self.store.alerts(subject=f"key:{subject}")).items:
            if alert.state != "resolved" and what == "ack":
                await self.engine.controls.acknowledge(alert.id, by="ada")
            elif alert.state != "resolved":
                await self.engine.controls.unacknowledge(alert.id)


class Outcome(NamedTuple):
    """What came of a life, in which ids are numbered, as they are by chance."""

    told: list[list[tuple[Any, ...]]]
    heard: dict[str, list[tuple[Any, ...]]]
    alerts: list[tuple[Any, ...]]
    thresholds: Thresholds


async def lived(rounds: list[Round], open_store: OpenStore) -> Outcome:
    """What comes of these rounds."""
    world = World(open_store)
    for each in rounds:
        await world.live(each)
    await world.live(Round(0, {}))  # hears what a process that was killed left behind
    records = (await world.store.alerts(limit=1000)).items[::-1]
    await world.store.aclose()
    ids = _Numbers()
    heard: dict[str, list[tuple[Any, ...]]] = {}
    for event in {each.id: each for each in world.sink.events}.values():
        heard.setdefault(event.fingerprint, []).append(_told(event, ids))
    return Outcome(
        [sorted(_told(event, ids) for event in events) for events in world.told],
        heard,
        sorted(_kept(record, ids) for record in records),
        world.engine.thresholds,
    )


class _Numbers:
    """The episodes of each alert by their order."""

    def __init__(self) -> None:
        self._known: dict[str, list[str]] = {}

    def of(self, fingerprint: str, identity: str) -> int:
        """Which one it is."""
        known = self._known.setdefault(fingerprint, [])
        if identity not in known:
            known.append(identity)
        return known.index(identity)


def _told(event: AlertEvent, ids: _Numbers) -> tuple[Any, ...]:
    return (
        event.fingerprint,
        event.transition,
        event.finding.severity or "",
        event.previous or "",
        event.at,
        event.fired_at or 0,
        ids.of(event.fingerprint, event.alert_id),
    )


def _kept(record: AlertRecord, ids: _Numbers) -> tuple[Any, ...]:
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


def without_restarts(rounds: list[Round]) -> list[Round]:
    """The same rounds of one process."""
    return [each._replace(restarts=0, dies=None) for each in rounds]


def in_memory() -> OpenStore:
    """One store in memory, which stays the same."""
    stores: list[MemoryAlertStore] = []

    def open_store(wall: Callable[[], float]) -> AlertStore:
        stores[:] = stores or [MemoryAlertStore(wall=wall)]
        return stores[0]

    return open_store


@pytest.mark.slow
@given(rounds)
def test_a_restart_changes_nothing(rounds: list[Round]) -> None:
    """Whatever rules find and people do: what is told, heard, kept and in force is the same."""
    restarted = anyio.run(lived, rounds, in_memory())

    assert restarted == anyio.run(lived, without_restarts(rounds), in_memory())


@pytest.mark.slow
@given(rounds)
@settings(max_examples=10)
def test_a_restart_changes_nothing_with_a_database(rounds: list[Round]) -> None:
    """Each engine opens the file anew."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite+aiosqlite:///{Path(folder)}/alerts.db"
        restarted = anyio.run(lived, rounds, lambda wall: SQLAlertStore(url, wall=wall))

    assert restarted == anyio.run(lived, without_restarts(rounds), in_memory())


@pytest.mark.slow
@given(
    st.lists(
        st.builds(
            Round,
            gap=st.integers(0, COOLDOWN // 20),  # no reminders: who has not heard needs none
            found=st.dictionaries(st.tuples(st.just("one"), subjects), severities),
            act=st.none(),
            restarts=st.integers(0, 1),
            dies=st.sampled_from([None, "before", "after"]),
        ),
        max_size=15,
    )
)
def test_a_kill_in_the_middle_of_telling_changes_nothing(rounds: list[Round]) -> None:
    """Each event is heard in its turn, perhaps twice but then with the same id."""
    killed = anyio.run(lived, rounds, in_memory())

    whole = anyio.run(lived, without_restarts(rounds), in_memory())
    assert (killed.heard, killed.alerts) == (whole.heard, whole.alerts)


class Gateway:
    """A gateway whose engine, with the rules that everybody has, is restarted."""

    def __init__(self, **chosen: Any) -> None:
        self.clock = FakeClock()
        self.heard = RecordingSink()
        self._thresholds = Thresholds(**chosen)
        self._store = MemoryAlertStore(wall=self.clock)
        self.restart()

    def restart(self) -> None:
        """Begin with an engine that has seen nothing."""
        self.engine = AlertEngine(
            sinks=[self.heard],
            thresholds=self._thresholds,
            cooldown=86_400 * 7,
            store=self._store,
            clock=self.clock,
            wall=self.clock,
        )

    async def minute(self, requests: int = 0, failing: int = 0, **fields: Any) -> list[AlertEvent]:
        """A minute with so many requests, and the round after it."""
        for number in range(requests):
            self.clock.advance(60 / requests)
            self.engine.observe(exchange(status=500 if number < failing else 200, **fields))
        self.clock.advance(0 if requests else 60)
        return await self.engine.evaluate()


@pytest.mark.anyio
async def test_a_provider_that_was_down_is_still_until_it_answers() -> None:
    """That nobody asks it after the restart is no sign of health; one answer is."""
    gateway = Gateway()
    await gateway.minute(10, 10, provider="claude")

    gateway.restart()
    for _ in range(10):
        assert await gateway.minute() == []
    await gateway.minute(1, 0, provider="claude")

    assert gateway.heard.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
async def test_failures_in_a_row_are_counted_on() -> None:
    """Those after the restart come on top of those before it."""
    gateway = Gateway()
    await gateway.minute(10, 10, provider="claude")

    gateway.restart()
    await gateway.minute()
    await gateway.minute(2, 2, provider="claude")

    (found,) = [each for each in gateway.engine.firing if each.type == "provider_down"]
    assert found.value == 12


@pytest.mark.anyio
async def test_what_was_seen_before_the_store_could_be_read_counts() -> None:
    """One failure is no outage, but it does not end one either; an answer does."""
    gateway = Gateway()
    await gateway.minute(10, 10, provider="claude")

    gateway.restart()
    await gateway.minute(1, 1, provider="claude")
    await gateway.minute()
    assert gateway.heard.transitions_of("provider_down:provider:claude") == ["fired"]
    await gateway.minute(1, 0, provider="claude")

    assert gateway.heard.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
async def test_a_provider_that_has_answered_is_not_down_again_after_a_restart() -> None:
    """An alert that was recovering goes on to recover."""
    gateway = Gateway(keep_firing=300)
    await gateway.minute(10, 10, provider="claude")
    await gateway.minute(1, 0, provider="claude")

    gateway.restart()
    for _ in range(6):
        await gateway.minute()

    assert gateway.heard.transitions_of("provider_down:provider:claude") == ["fired", "resolved"]


@pytest.mark.anyio
async def test_that_nothing_is_known_yet_ends_no_alert() -> None:
    """An alert that looks back for five minutes is held for as long, and then it is over."""
    gateway = Gateway()
    await gateway.minute(20, 20, api_key="k1")

    gateway.restart()
    told = [[each.transition for each in await gateway.minute()] for _ in range(8)]

    assert told == [[], [], [], [], [], ["resolved"], [], []]


@pytest.mark.anyio
async def test_an_alert_that_waits_goes_on_waiting_when_little_is_known_yet() -> None:
    """A few requests after the restart do not prove that the failures had ended."""
    gateway = Gateway()
    for _ in range(4):
        await gateway.minute(20, 8, provider="claude")

    gateway.restart()
    await gateway.minute(5, 2, provider="claude")
    await gateway.minute(20, 8, provider="claude")
    await gateway.minute(20, 8, provider="claude")

    assert gateway.heard.transitions_of("high_error_rate:provider:claude") == ["fired"]


@pytest.mark.anyio
async def test_that_little_is_counted_yet_is_not_told_as_better() -> None:
    """A day's count that begins anew does not take a critical alert back to a warning."""
    gateway = Gateway(master_rpd=100)
    for _ in range(4):
        await gateway.minute(60, tenant="acme")

    gateway.restart()
    for _ in range(4):
        await gateway.minute(60, tenant="acme")

    assert gateway.heard.transitions_of("traffic_spike:master_rpd:master:acme") == [
        "fired",
        "escalated",
    ]


@pytest.mark.anyio
async def test_what_people_have_set_is_there_after_a_restart() -> None:
    """Thresholds with their version, who has seen an alert, and what is silenced until when."""
    gateway = Gateway()
    await gateway.minute(20, 20, api_key="k1")
    (alert,) = (await gateway.engine.store.alerts()).items
    before = gateway.engine.controls
    version = await before.set_thresholds(Thresholds(error_rate=0.2), by="ada")
    await before.acknowledge(alert.id, by="ada", note="on it")
    silence = await before.silence(Matcher("severity", "info"), ends_at=1e6, by="ada")

    gateway.restart()
    await gateway.minute()

    after = gateway.engine.controls
    assert (after.thresholds, after.version) == (Thresholds(error_rate=0.2), version)
    assert after.silences == [silence]
    (kept,) = (await gateway.engine.store.alerts()).items
    assert (kept.id, kept.ack and (kept.ack.by, kept.ack.note)) == (alert.id, ("ada", "on it"))

"""Evaluations in bounded steps of the event loop, and what other tasks may do between them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    Finding,
    Matcher,
    MemoryAlertStore,
    SQLAlertStore,
    Thresholds,
    Traffic,
    default_rules,
)
from tokenpulse_mw.alerts.rules import provider_down
from tokenpulse_mw.alerts.silences import Silences
from tokenpulse_mw.alerts.steps import STEP, Steps, batches, finish, in_steps, mapped
from tokenpulse_mw.alerts.store import AlertStore, Silence
from tokenpulse_mw.alerts.tracker import AlertTracker

from ..support.clock import FakeClock
from ..support.steps import steps_of
from .delivery.harness import DeliveryHarness, make_event
from .exchanges import exchange
from .findings import Heard, finding, never

MOST_CALLS = 20_000  # in one step; on trio another task may wait for two


class Many:
    """A rule that finds many alerts, one after the other; `value` is that of each."""

    name = "many"

    def __init__(self, number: int) -> None:
        self.number, self.value = number, 0.0

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        for number in range(self.number):
            yield finding(subject=f"k{number}", value=self.value)


class Engine(AlertEngine):
    """An engine of one rule whose clocks the test moves."""

    def __init__(self, number: int, *sinks: Any, store: AlertStore | None = None) -> None:
        self.clock, self.rule, self.heard = FakeClock(), Many(number), Heard()
        super().__init__(
            [self.rule], [self.heard, *sinks], store=store, clock=self.clock, wall=self.clock
        )


def numbers(last: int) -> Steps[int]:
    """Return the last number, after as many steps."""
    for _ in range(last):
        yield
    return last


@pytest.mark.anyio
async def test_in_steps_pauses_after_each_step() -> None:
    """Another task runs after each step, unless a pause is not allowed."""
    turns = [0]

    async def beside() -> None:
        while True:
            turns[0] += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(beside)
        assert await in_steps(numbers(50)) == 50
        assert turns[0] >= 49
        paused = turns[0]
        assert await in_steps(numbers(50), may_pause=lambda: False) == 50
        assert turns[0] == paused
        tasks.cancel_scope.cancel()


def test_mapped_and_batches_keep_every_item_in_order() -> None:
    """A step has at most so many items."""
    assert finish(mapped(str, range(250))) == list(map(str, range(250)))
    assert list(map(len, batches(range(250)))) == [STEP] * 5
    assert list(batches([])) == []


@pytest.mark.anyio
@pytest.mark.parametrize("changes", [False, True])
async def test_evaluation_of_many_alerts_has_bounded_steps(changes: bool) -> None:
    """New, changed and unchanged alerts: other tasks run after a bounded number of calls."""
    engine = Engine(2000)

    first = await steps_of(engine.evaluate)
    engine.rule.value = float(changes)
    second = await steps_of(engine.evaluate)
    engine.rule.number = 0
    third = await steps_of(engine.evaluate)

    assert max(first.longest, second.longest, third.longest) < MOST_CALLS
    assert first.total > 10 * MOST_CALLS


@pytest.mark.anyio
async def test_preview_and_start_with_many_alerts_have_bounded_steps() -> None:
    """So do a dry run, a page of the alerts, and a start with a store that has them."""
    engine = Engine(2000)
    await engine.evaluate()
    other = Engine(2000, store=engine.store)

    for work in (engine.dry_run, partial(engine.store.alerts, limit=1000), other.evaluate):
        steps = await steps_of(work)
        assert steps.longest < MOST_CALLS
        assert 4 * steps.longest < steps.total


@pytest.mark.anyio
async def test_restart_with_many_alerts_takes_all_of_them_up() -> None:
    """Notifications that no sink took, and for a sink that sends again what fires, too."""

    class Broken(Heard):
        async def __call__(self, event: AlertEvent) -> None:
            raise OSError

    class Resending(Heard):
        name = "resending"
        fires = 0

        async def resend(self, events: list[AlertEvent], at: float) -> None:
            self.fires = len(events)

    store, clock = MemoryAlertStore(), FakeClock()
    before = AlertEngine([Many(120)], [Broken()], store=store, clock=clock, wall=clock)
    await before.evaluate()
    resending = Resending()
    engine = Engine(120, resending, store=store)
    engine.clock.advance(100)  # the one that failed waits for a while

    await engine.evaluate()
    await engine.controls.set_thresholds(Thresholds(error_rate=0.5), by="ada")
    await engine.evaluate()

    assert (len(engine.heard.events), resending.fires, len(engine.firing)) == (120, 120, 120)
    assert sum(engine.counts().values()) == 120


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_sql_store_with_many_alerts_has_bounded_steps(tmp_path: Path) -> None:
    """A commit, a start and a page of a thousand alerts pause as the rest does."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    engine = Engine(600, store=store)
    engine.heard.events.clear()
    async with AlertEngine([Many(600)], [], store=store) as running:
        committed = await steps_of(running.evaluate)
        loaded = await steps_of(store.load)

    assert max(committed.longest, loaded.longest) < 3 * MOST_CALLS
    assert committed.total > 6 * MOST_CALLS


@pytest.mark.anyio
async def test_many_failing_keys_have_bounded_steps() -> None:
    """The built-in rules pause too, also at keys that they find nothing of."""
    engine = AlertEngine(default_rules(), [], max_subjects=5000, clock=FakeClock())
    for number in range(5000):
        for status in (500, 500, 500, 200):
            engine.observe(exchange(api_key=f"k{number}", tenant=f"m{number}", status=status))

    steps = await steps_of(engine.evaluate)

    assert steps.longest < 2 * MOST_CALLS < steps.total


def test_upstream_that_succeeds_during_an_evaluation_is_not_found() -> None:
    """Streaks go on while an evaluation pauses; the next one starts from the newest outcome."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    for provider in ("claude", "gemini"):
        for _ in range(10):
            traffic.observe(exchange(provider=provider, status=502), 0)

    with traffic.frozen(0):
        found = iter(provider_down(traffic, Thresholds(), 0))
        first = next(found)
        traffic.observe(exchange(provider="gemini"), 0)

    assert first is not None
    assert first.subject.id == "claude"
    assert list(found) == [None]


@pytest.mark.anyio
async def test_flood_of_dead_letters_has_bounded_steps() -> None:
    """A sink that is far behind: what its queue has no room for is written in bounded steps."""
    office = DeliveryHarness({"sink": Heard()}, max_pending=10)
    await office.publish(*(make_event(key=f"k{number}") for number in range(1500)))

    steps = await steps_of(office.publish)

    assert len(office.outbox.queue_length()) == 1
    assert 4 * steps.longest < steps.total
    assert len(await office.dead_letters()) == 1000


def silence(identity: str, *matchers: Matcher, starts_at: float = 0) -> Silence:
    """A silence until the second 1000."""
    return Silence(identity, matchers, starts_at, 1000, "ada", "")


def test_silences_compare_an_alert_with_each_silence_once() -> None:
    """Later evaluations compare with new silences alone."""
    silences = Silences()
    for number in range(100):
        pattern = Matcher("subject_id", f"x{number}.*", is_regex=True)
        silences.add(silence(f"s{number}", pattern))

    for _ in range(3):
        assert silences.covers(finding(), 10) is None
    assert silences.compared == 100
    silences.add(silence("new", Matcher("subject_id", "k.*", is_regex=True)))
    assert silences.covers(finding(), 10) == "new"
    assert silences.compared == 101


def test_silences_of_one_value_are_compared_with_its_alerts_only() -> None:
    """A silence that requires one value of a label is found by that value."""
    silences = Silences()
    for number in range(1000):
        silences.add(silence(f"s{number}", Matcher("subject_id", f"k{number}")))

    found = [silences.covers(finding(subject=f"k{number}"), 10) for number in range(1000)]

    assert found == [f"s{number}" for number in range(1000)]
    assert silences.compared == 1000


def test_silences_that_come_and_go_match_the_right_alerts() -> None:
    """Also after so many changes that all silences are numbered again."""
    silences = Silences()
    silences.add(silence("first", Matcher("subject_id", "k9")))
    for number in range(2500):
        silences.add(silence(f"s{number}", Matcher("subject_id", f"k{number % 7}")))
        assert silences.covers(finding(subject=f"k{number % 7}"), 10) == f"s{number}"
        assert silences.covers(finding(subject="k9"), 10) == "first"
        silences.remove(f"s{number}")
        assert silences.covers(finding(subject=f"k{number % 7}"), 10) is None


def test_silences_know_a_bounded_number_of_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is compared again; the result is the same."""
    monkeypatch.setattr("tokenpulse_mw.alerts.silences._MOST_VERDICTS", 2)
    silences = Silences()
    silences.add(silence("s1", Matcher("subject_id", "k.*", is_regex=True)))

    for subject in ("k1", "k2", "k3", "k1"):
        assert silences.covers(finding(subject=subject), 10) == "s1"
    assert silences.compared == 4


def test_silence_that_begins_later_is_known_and_not_in_force() -> None:
    """It is compared once, and counts from its start."""
    silences = Silences()
    silences.add(silence("later", Matcher("subject_id", "k1"), starts_at=100))

    assert [silences.covers(finding(), at) for at in (99, 100, 999, 1000)] == [
        None,
        "later",
        "later",
        None,
    ]
    assert silences.compared == 1


def test_slow_patterns_pause_between_comparisons() -> None:
    """A step has at most 100,000 steps of matching, or one match."""
    silences = Silences()
    slow = "a*a*" + "a" * 59 + "b"
    for number in range(20):
        silences.add(silence(f"s{number}", Matcher("subject_id", slow, is_regex=True)))

    pauses = sum(1 for _ in silences.covered(finding(subject="a" * 200), 10))

    assert pauses >= 19


def test_findings_beyond_the_bound_become_no_alert(caplog: pytest.LogCaptureFixture) -> None:
    """The most severe fit; what does not is counted, and logged once until all fit again."""
    caplog.set_level(logging.WARNING)
    board = AlertTracker(["rule"], cooldown=100, is_silenced=never, most=2)

    def go(now: float, *found: Finding) -> list[str]:
        staged = finish(board.advance("rule", found, now, now))
        board.commit(staged)
        return [f"{event.transition} {event.finding.subject.id}" for event in staged.news[0].events]

    several = [
        finding("info", subject="k1"),
        finding("critical", subject="k2"),
        finding(subject="k3"),
    ]
    assert go(0, *several) == ["fired k2", "fired k3"]
    assert go(10, *several) == []
    assert board.overflowed == 2
    assert [each.message for each in caplog.records] == [
        "too many open alerts: rule=rule open=2 left_out=1 (logged once until all fit)"
    ]
    assert go(20, several[0]) == ["resolved k2", "resolved k3"]
    assert go(30, several[0]) == ["fired k1"]
    assert go(40, *several) == ["fired k2"]
    assert (board.overflowed, len(caplog.records)) == (4, 2)
    assert sum(board.counts().values()) == 2


class Pausing:
    """Runs one thing at one pause of an evaluation."""

    def __init__(self, steps: Steps[Any]) -> None:
        self.steps = steps

    def at(self, pause: int, work: Callable[[], object]) -> Any:
        """Return the result of the steps; `work` is done at that pause."""
        for number in range(1_000_000):
            try:
                next(self.steps)
            except StopIteration as stop:
                return stop.value
            if number == pause:
                work()
        raise AssertionError("it does not end")


@pytest.mark.parametrize("pause", range(0, 12, 2))
def test_nothing_of_an_evaluation_is_seen_before_its_end(pause: int) -> None:
    """At no pause there are alerts; if it is closed there, the next one finds all the same."""
    engine = Engine(300)
    judge = engine._evaluator

    def look() -> None:
        assert engine.firing == []
        assert dict(engine.counts()) == {}

    cut = judge.evaluate(Thresholds(), 0, 0)
    for _ in range(pause + 1):
        next(cut)
        look()
    cut.close()
    look()

    news, whole = Pausing(judge.evaluate(Thresholds(), 1, 1)).at(pause, look)
    assert whole
    assert sum(len(piece.events) for piece in news) == len(engine.firing) == 300
    assert dict(engine.counts()) == {("trouble", "warning", "firing"): 300}


@pytest.mark.parametrize("pause", range(0, 60, 7))
def test_traffic_during_an_evaluation_counts_in_the_next_one(pause: int) -> None:
    """It is neither lost nor counted twice, and the rules look at unchanging windows."""
    engine = AlertEngine(
        default_rules(), [], thresholds=Thresholds(master_rpm=10), clock=FakeClock()
    )
    judge = engine._evaluator
    for number in range(400):
        for _ in range(10):
            judge.traffic.observe(
                exchange(tenant=f"m{number}", api_key=f"k{number}", status=500), 0
            )

    def meanwhile() -> None:
        for number in range(300):
            judge.traffic.observe(
                exchange(tenant=f"n{number}", provider="claude", limited=True, status=429), 1
            )

    thresholds = engine.thresholds
    Pausing(judge.evaluate(thresholds, 1, 1)).at(pause, meanwhile)
    finish(judge.traffic.settle())
    if pause < 40:
        assert len(judge.traffic.counts.errors) == 400
    finish(judge.evaluate(thresholds, 2, 2))

    limited = [each for each in engine.firing if each.type == "rate_limit"]
    reached = pause < 40  # later pauses may not exist
    assert (len(limited), {each.value for each in limited}) in (
        [(300, {1})] if reached else [(300, {1}), (0, set())]
    )


def test_traffic_that_is_cut_off_in_a_backlog_is_counted_later() -> None:
    """Each second counts a part of it, if no evaluation does."""
    traffic = Traffic(Thresholds(), max_subjects=5000)
    with traffic.frozen(0):
        for number in range(600):
            traffic.observe(exchange(api_key=f"k{number}"), 1)
        assert len(traffic.errors) == 0

    assert len(traffic.errors) == 0
    for now in (1, 2, 3):
        traffic.roll(now)
    assert len(traffic.errors) == 600


def test_too_much_traffic_during_an_evaluation_ends_its_pauses() -> None:
    """What is gathered is bounded: beyond 20,000 rows the evaluation goes on without a pause."""
    traffic = Traffic(Thresholds(), max_subjects=5)
    with traffic.frozen(0):
        for number in range(20_000):
            assert not traffic.is_crowded
            traffic.observe(exchange(api_key=f"k{number}"), 1)
        assert traffic.is_crowded
    assert not traffic.is_crowded
    finish(traffic.settle())
    assert sum(requests for _, requests, _ in traffic.errors.items()) == 20_000


async def after(pauses: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` after so many turns of the event loop."""
    for _ in range(pauses):
        await checkpoint()
    await work()


@pytest.mark.anyio
@pytest.mark.parametrize("pauses", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_changes_during_an_evaluation_take_effect_as_a_whole(pauses: int) -> None:
    """Thresholds, an acknowledgement, a silence and a dry run: none is lost, none sees a half."""
    engine = Engine(500)
    await engine.evaluate()
    page = await engine.store.alerts(limit=2)
    (acknowledged, *_) = page.items
    engine.clock.advance(400)
    engine.rule.number = 501

    async def change() -> None:
        await engine.controls.acknowledge(acknowledged.id, by="ada")
        await engine.controls.set_thresholds(Thresholds(error_rate=0.5), by="ada")
        await engine.controls.silence(Matcher("subject_id", "k7"), ends_at=9999, by="ada")

    async def look() -> None:
        found = await engine.dry_run()
        assert len(found) == 501
        assert len(engine.firing) in (500, 501)
        assert sum(engine.counts().values()) == len(engine.firing)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(after, pauses, change)
        tasks.start_soon(after, pauses, look)
        tasks.start_soon(engine.evaluate)

    assert engine.thresholds == Thresholds(error_rate=0.5)
    engine.clock.advance(400)
    engine.heard.events.clear()
    await engine.evaluate()
    reminded = {each.finding.subject.id for each in engine.heard.events}
    ids = {f"k{number}" for number in range(501)}
    assert reminded == ids - {"k7", acknowledged.finding["subject"]["id"]}
    kept = await engine.store.alert(acknowledged.id)
    assert kept is not None
    assert kept.ack is not None


@pytest.mark.anyio
@pytest.mark.parametrize("pauses", [1, 3, 6, 10, 15, 25, 40])
async def test_evaluation_that_is_cancelled_is_told_wholly_or_not_at_all(pauses: int) -> None:
    """What the engine knows as told, the sinks and the store have."""
    engine = Engine(500)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.evaluate)
            await after(pauses, checkpoint)
            scope.cancel()

    known = len(engine.firing)
    kept = await engine.store.load()
    assert known in (0, 500)
    assert len(kept.alerts) == known
    await engine.evaluate()
    told: Iterable[AlertEvent] = engine.heard.events
    assert sorted(each.fingerprint for each in told) == sorted(
        each.fingerprint for each in engine.firing
    )


@pytest.mark.anyio
async def test_concurrent_evaluations_are_told_in_their_order() -> None:
    """No end of an alert overtakes its beginning."""
    engine = Engine(300)

    async def end() -> None:
        engine.rule.number = 0
        await engine.evaluate()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.evaluate)
        tasks.start_soon(after, 25, end)

    heard = [(each.fingerprint, each.transition) for each in engine.heard.events]
    for fingerprint in {each for each, _ in heard}:
        assert [what for whose, what in heard if whose == fingerprint] == ["fired", "resolved"]

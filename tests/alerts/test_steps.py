"""Work in bounded steps: other tasks run between them, and evaluations take effect as a whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
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
from tokenpulse_mw.alerts.steps import STEP, Steps, batches, finish, in_steps, mapped
from tokenpulse_mw.alerts.store import AlertStore

from ..support.clock import FakeClock
from ..support.steps import steps_of
from .delivery.harness import DeliveryHarness, make_event
from .exchanges import exchange
from .findings import RecordingSink, finding
from .store.leadership import loaded, release

pytestmark = pytest.mark.slow

MAX_STEP_CALLS = 20_000  # of functions; on trio another task may wait for two steps


class ManyFindings:
    """A rule that finds `number` alerts with one `value`."""

    name = "many"

    def __init__(self, number: int) -> None:
        self.number, self.value = number, 0.0

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        for number in range(self.number):
            yield finding(subject=f"k{number}", value=self.value)


class Engine(AlertEngine):
    """An engine with a rule of many findings, and clocks that the test moves."""

    clock: FakeClock

    def __init__(self, number: int, *sinks: Any, store: AlertStore | None = None) -> None:
        self.clock, self.rule, self.sink = FakeClock(), ManyFindings(number), RecordingSink()
        super().__init__(
            [self.rule], [self.sink, *sinks], store=store, clock=self.clock, wall=self.clock
        )


def count_to(last: int) -> Steps[int]:
    """Return `last` after that many steps."""
    for _ in range(last):
        yield
    return last


@pytest.mark.anyio
async def test_in_steps_lets_another_task_run_after_each_step() -> None:
    """While `may_pause` returns False, no other task runs."""
    turns = 0

    async def other_task() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(other_task)
        assert await in_steps(count_to(50)) == 50
        assert turns >= 49
        before = turns
        assert await in_steps(count_to(50), may_pause=lambda: False) == 50
        assert turns == before
        tasks.cancel_scope.cancel()


def test_mapped_and_batches_return_every_item_in_order() -> None:
    """A batch has at most `STEP` items."""
    assert finish(mapped(str, range(250))) == list(map(str, range(250)))
    assert list(map(len, batches(range(250)))) == [STEP] * 5
    assert list(batches([])) == []


@pytest.mark.anyio
@pytest.mark.parametrize("changes", [False, True])
async def test_evaluation_of_many_alerts_has_bounded_steps(changes: bool) -> None:
    """New, changed, unchanged and resolved alerts cost a bounded number of calls per step."""
    engine = Engine(2000)

    first = await steps_of(engine.evaluate)
    engine.rule.value = float(changes)
    second = await steps_of(engine.evaluate)
    engine.rule.number = 0
    third = await steps_of(engine.evaluate)

    assert max(first.longest, second.longest, third.longest) < MAX_STEP_CALLS
    assert first.total > 10 * MAX_STEP_CALLS


@pytest.mark.anyio
async def test_dry_run_page_and_restart_with_many_alerts_have_bounded_steps() -> None:
    """The restart restores all alerts from the store."""
    engine = Engine(2000)
    await engine.evaluate()
    await release(engine.store)
    restarted = Engine(2000, store=engine.store)

    for work in (engine.dry_run, partial(engine.store.alerts, limit=1000), restarted.evaluate):
        steps = await steps_of(work)
        assert steps.longest < MAX_STEP_CALLS
        assert 4 * steps.longest < steps.total
    assert len(restarted.firing) == 2000


@pytest.mark.anyio
async def test_restart_with_many_alerts_restores_all_of_them() -> None:
    """The sinks get all queued notifications, and all firing alerts for a resend."""

    class Broken(RecordingSink):
        async def __call__(self, event: AlertEvent) -> None:
            raise OSError

    class Resending(RecordingSink):
        name = "resending"
        resent = 0

        async def resend(self, events: list[AlertEvent], at: float) -> None:
            self.resent = len(events)

    store, clock = MemoryAlertStore(), FakeClock()
    before = AlertEngine([ManyFindings(120)], [Broken()], store=store, clock=clock, wall=clock)
    await before.evaluate()
    await release(store)
    resending = Resending()
    engine = Engine(120, resending, store=store)
    engine.clock.advance(100)  # past the retry delay of the failed notification

    await engine.evaluate()
    await engine.controls.set_thresholds(Thresholds(error_rate=0.5), by="ada")
    await engine.evaluate()

    assert (len(engine.sink.events), resending.resent, len(engine.firing)) == (120, 120, 120)
    assert sum(engine.counts().values()) == 120


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_sql_store_with_many_alerts_has_bounded_steps(tmp_path: Path) -> None:
    """Commits of an evaluation and the load at the start are bounded."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    engine = Engine(600, store=store)
    engine.sink.events.clear()
    async with AlertEngine([ManyFindings(600)], [], store=store) as running:
        committed = await steps_of(running.evaluate)
        loaded = await steps_of(store.load)

    assert max(committed.longest, loaded.longest) < 3 * MAX_STEP_CALLS
    assert committed.total > 6 * MAX_STEP_CALLS


@pytest.mark.anyio
async def test_default_rules_with_many_subjects_have_bounded_steps() -> None:
    """The rules pause after subjects without a finding too."""
    engine = AlertEngine(default_rules(), [], max_subjects=5000, clock=FakeClock())
    for number in range(5000):
        for status in (500, 500, 500, 200):
            engine.observe(exchange(api_key=f"k{number}", tenant=f"m{number}", status=status))

    steps = await steps_of(engine.evaluate)

    assert steps.longest < 2 * MAX_STEP_CALLS < steps.total


@pytest.mark.anyio
async def test_flood_of_dead_letters_has_bounded_steps() -> None:
    """Notifications above the limit of a queue become dead letters."""
    harness = DeliveryHarness({"sink": RecordingSink()}, max_pending=10)
    await harness.publish(*(make_event(key=f"k{number}") for number in range(1500)))

    steps = await steps_of(harness.publish)

    assert len(harness.outbox.queue_length()) == 1
    assert 4 * steps.longest < steps.total
    assert len(await harness.dead_letters()) == 1000


def run_with_pause(steps: Steps[Any], pause: int, work: Callable[[], object]) -> Any:
    """Run `steps`, call `work` at the pause of that number, and return the result."""
    for number in range(1_000_000):
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
        if number == pause:
            work()
    raise AssertionError("the steps do not end")


@pytest.mark.anyio
@pytest.mark.parametrize("pause", range(0, 12, 2))
async def test_evaluation_has_no_effect_before_its_last_step(pause: int) -> None:
    """If it is closed at a pause, the next evaluation finds the same."""
    engine = Engine(0)
    await engine.evaluate()
    assert engine._fleet.leadership is not None
    engine.rule.number, evaluator = 300, engine._fleet.leadership.evaluator

    def check_unchanged() -> None:
        assert engine.firing == []
        assert dict(engine.counts()) == {}

    closed = evaluator.evaluate(Thresholds(), 0, 0)
    for _ in range(pause + 1):
        next(closed)
        check_unchanged()
    closed.close()
    check_unchanged()

    evaluation = evaluator.evaluate(Thresholds(), 1, 1)
    changes, succeeded = run_with_pause(evaluation, pause, check_unchanged)
    assert succeeded
    assert sum(len(change.events) for change in changes) == len(engine.firing) == 300
    assert dict(engine.counts()) == {("trouble", "warning", "firing"): 300}


async def after(pauses: int, work: Callable[[], Awaitable[object]]) -> None:
    """Await `work` after that many turns of the event loop."""
    for _ in range(pauses):
        await checkpoint()
    await work()


@pytest.mark.anyio
@pytest.mark.parametrize("pauses", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55])
async def test_changes_during_an_evaluation_take_effect_as_a_whole(pauses: int) -> None:
    """No change is lost, and a dry run sees the state before or after the evaluation."""
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

    async def check() -> None:
        findings, _ = await engine.dry_run()
        assert len(findings) == 501
        assert len(engine.firing) in (500, 501)
        assert sum(engine.counts().values()) == len(engine.firing)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(after, pauses, change)
        tasks.start_soon(after, pauses, check)
        tasks.start_soon(engine.evaluate)

    assert engine.thresholds == Thresholds(error_rate=0.5)
    engine.clock.advance(400)
    engine.sink.events.clear()
    await engine.evaluate()
    reminded = {event.finding.subject.id for event in engine.sink.events}
    keys = {f"k{number}" for number in range(501)}
    assert reminded == keys - {"k7", acknowledged.finding["subject"]["id"]}
    stored = await engine.store.alert(acknowledged.id)
    assert stored is not None
    assert stored.ack is not None


@pytest.mark.anyio
@pytest.mark.parametrize("pauses", range(0, 90, 9))
async def test_traffic_during_an_evaluation_counts_in_one_evaluation(pauses: int) -> None:
    """Each request counts once, and no evaluation sees a change of its counts."""
    clock, totals = FakeClock(), list[tuple[int, int]]()

    def total(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[None]:
        """Add up the limited requests, at the beginning and at the end of a rule of many steps."""
        before = sum(requests for _, requests in traffic.limited.items())
        for _ in range(10 * STEP):
            yield None
        totals.append((before, sum(requests for _, requests in traffic.limited.items())))

    engine = AlertEngine([total, *default_rules()], [], clock=clock, wall=clock)
    await engine.evaluate()

    async def observe() -> None:
        for number in range(300):
            engine.observe(exchange(tenant=f"n{number}", limited=True, status=429))
        await engine.evaluate()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(after, pauses, observe)
        tasks.start_soon(engine.evaluate)

    assert len(totals) == 3
    assert sorted(totals) == [(0, 0), (0, 0), (300, 300)]


@pytest.mark.anyio
@pytest.mark.parametrize("pauses", [1, 3, 6, 10, 15, 25, 40])
async def test_cancelled_evaluation_takes_effect_as_a_whole_or_not(pauses: int) -> None:
    """The store and the sinks have exactly the alerts that the engine has."""
    engine = Engine(500)

    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.evaluate)
            await after(pauses, checkpoint)
            scope.cancel()

    firing = len(engine.firing)
    state = await loaded(engine.store)
    assert firing in (0, 500)
    assert len(state.alerts) == firing
    await engine.evaluate()
    assert sorted(event.fingerprint for event in engine.sink.events) == sorted(
        current.fingerprint for current in engine.firing
    )


@pytest.mark.anyio
async def test_concurrent_evaluations_notify_in_their_order() -> None:
    """No resolution comes before its alert has fired."""
    engine = Engine(300)

    async def evaluate_without_findings() -> None:
        engine.rule.number = 0
        await engine.evaluate()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.evaluate)
        tasks.start_soon(after, 25, evaluate_without_findings)

    by_alert: dict[str, list[str]] = defaultdict(list)
    for event in engine.sink.events:
        by_alert[event.fingerprint].append(event.transition)
    assert all(transitions == ["fired", "resolved"] for transitions in by_alert.values())

"""Quotas that only the process that counts them knows."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts import (
    AlertEngine,
    Budget,
    MemoryAlertStore,
    Quota,
    Rule,
    budget,
    quota_exceeded,
)

from ...support.clock import FakeClock
from ..findings import RecordingSink

pytestmark = pytest.mark.anyio


class Worker:
    """A process with a limiter of its own."""

    def __init__(self, store: MemoryAlertStore, clock: FakeClock, sink: RecordingSink) -> None:
        self.quotas: list[Quota] = []
        self.budgets: list[Budget] = []
        rules: list[Rule] = [
            quota_exceeded(lambda: self.quotas, per_process=True),
            budget(lambda: self.budgets, per_process=True, wall=clock.wall),
        ]
        self.engine = AlertEngine(rules, [sink], store=store, clock=clock, wall=clock.wall)

    async def report(self) -> None:
        """Report the quotas as once in each interval."""
        await self.engine._evaluate_now()


async def test_quota_that_another_process_counts_fires(clock: FakeClock) -> None:
    """The leader evaluates the largest share of a key that a process has reported."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    leader.quotas = [Quota("k1", used=10, limit=100)]
    other.quotas = [Quota("k1", used=95, limit=100), Quota("k2", used=3, limit=None)]

    await other.report()
    (event,) = await leader.engine.evaluate()

    assert (event.transition, event.finding.severity) == ("fired", "warning")
    assert (event.fingerprint, event.finding.value) == ("quota_exceeded:key:k1", 0.95)


async def test_quota_that_is_not_reported_any_more_is_resolved(clock: FakeClock) -> None:
    """A report counts for two and a half intervals; then the alert ends as any other."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    other.quotas = [Quota("k1", used=200, limit=100)]
    await other.report()
    assert [event.finding.severity for event in await leader.engine.evaluate()] == ["critical"]

    transitions: list[str] = []
    for _ in range(10):
        clock.advance(60)
        transitions += [event.transition for event in await leader.engine.evaluate()]

    assert transitions == ["resolved"]


async def test_quotas_of_a_common_source_are_read_by_the_leader_alone(clock: FakeClock) -> None:
    """A database with the usage of all processes is asked once in an interval."""
    calls: list[str] = []
    store = MemoryAlertStore(wall=clock.wall)

    def engine(name: str) -> AlertEngine:
        rule = quota_exceeded(lambda: calls.append(name) or [])  # type: ignore[func-returns-value]
        return AlertEngine([rule], [], store=store, clock=clock, wall=clock.wall)

    leader, other = engine("leader"), engine("other")
    for process in (leader, other, leader, other):
        await process._evaluate_now()

    assert calls == ["leader", "leader"]


async def test_quota_whose_key_is_not_valid_utf_8_is_escaped(clock: FakeClock) -> None:
    """The name of a key is arbitrary text, and must not prevent a heartbeat."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    other.quotas = [Quota("k\udc80", used=95, limit=100)]

    await other.report()
    (event,) = await leader.engine.evaluate()

    assert event.fingerprint == "quota_exceeded:key:k\\udc80"


async def test_report_that_fails_is_logged_and_repeated(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The process still takes part in its fleet."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    other.quotas = [("k1", 95)]  # type: ignore[list-item]
    await other.report()
    assert [message.partition(" with")[0] for message in caplog.messages] == [
        "report of rule quota_exceeded failed"
    ]

    other.quotas = [Quota("k1", used=95, limit=100)]
    await other.report()
    clock.advance(5)
    await other.engine.fleet()

    (event,) = await leader.engine.evaluate()
    assert event.finding.value == 0.95


def budget_of(used: float, *, reset_after: float = 3600) -> Budget:
    """Return a budget of 10 dollars."""
    return Budget("acme", used, 10, "dollars", reset_after)


async def test_budget_that_another_process_counts_fires_with_its_forecast(clock: FakeClock) -> None:
    """The leader follows the reports; a quota of the same key stays apart from its budget."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    leader.budgets = [budget_of(1)]
    other.quotas = [Quota("acme", used=60, limit=100)]

    fired = []
    for minute in range(6):
        other.budgets = [budget_of(7.5 + minute / 10, reset_after=3600 - 60 * minute)]
        await other.report()
        fired += await leader.engine.evaluate()
        clock.advance(60)

    assert [(event.fingerprint, event.finding.value) for event in fired] == [
        ("budget:dollars:acme", 0.8)
    ]
    (finding,) = (await leader.engine.dry_run()).findings
    assert "has used 8.00 of 10.00 USD (80.0 %), empty at about " in finding.message


async def test_report_of_a_window_that_has_ended_does_not_fire(clock: FakeClock) -> None:
    """A report counts for some minutes, but the budget of the next window is a new one."""
    store, sink = MemoryAlertStore(wall=clock.wall), RecordingSink()
    leader, other = Worker(store, clock, sink), Worker(store, clock, sink)
    await leader.engine.evaluate()
    other.budgets = [budget_of(10, reset_after=30)]
    await other.report()
    clock.advance(31)

    assert await leader.engine.evaluate() == []


async def test_budgets_of_a_common_source_are_read_by_the_leader_alone(clock: FakeClock) -> None:
    """Without `per_process`, a process that does not lead reports nothing."""
    store = MemoryAlertStore(wall=clock.wall)
    calls: list[str] = []

    def engine(name: str) -> AlertEngine:
        rule = budget(lambda: calls.append(name) or [])  # type: ignore[func-returns-value]
        return AlertEngine([rule], [], store=store, clock=clock, wall=clock.wall)

    leader, other = engine("leader"), engine("other")
    for process in (leader, other, leader, other):
        await process._evaluate_now()

    assert calls == ["leader", "leader"]

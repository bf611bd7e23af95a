"""Quotas that only the process that counts them knows."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts import AlertEngine, MemoryAlertStore, Quota, quota_exceeded

from ...support.clock import FakeClock
from ..findings import RecordingSink

pytestmark = pytest.mark.anyio


class Worker:
    """A process with a limiter of its own."""

    def __init__(self, store: MemoryAlertStore, clock: FakeClock, sink: RecordingSink) -> None:
        self.quotas: list[Quota] = []
        rule = quota_exceeded(lambda: self.quotas, per_process=True)
        self.engine = AlertEngine([rule], [sink], store=store, clock=clock, wall=clock.wall)

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

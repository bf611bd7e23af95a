"""Defects of the seed's detector that the engine avoids; those of its rules are in their tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    Finding,
    InvalidThresholds,
    Thresholds,
    Traffic,
    default_rules,
)
from tokenpulse_mw.alerts.store import (
    AlertRecord,
    MemoryAlertStore,
    StoreError,
)

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE
from .exchanges import exchange
from .findings import FixedRule, RecordingSink, finding


class FailingStore(MemoryAlertStore):
    """A store that fails while it is `down`; `take_over` takes one step of the event loop."""

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__(wall=wall)
        self.down = False

    async def heartbeat(self, *values: Any, **options: Any) -> Any:
        self._check()
        return await super().heartbeat(*values, **options)

    async def take_over(self, *values: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        self._check()
        return await super().take_over(*values)

    async def commit(self, *values: Any, **options: Any) -> Any:
        self._check()
        return await super().commit(*values, **options)

    async def set_thresholds(self, *values: Any, **options: Any) -> Any:
        self._check()
        return await super().set_thresholds(*values, **options)

    def _check(self) -> None:
        if self.down:
            raise StoreError("no database")


class Gateway:
    """An engine with a planned rule and the default rules, on a store that may fail."""

    def __init__(self, *findings: Finding) -> None:
        self.clock = FakeClock()
        self.store = FailingStore(self.clock)
        self.sink = RecordingSink()
        self.rule = FixedRule(*findings)
        self.restart()

    def restart(self) -> None:
        """Replace the engine by one that has seen no traffic."""
        self.engine = AlertEngine(
            [self.rule, *default_rules()],
            [self.sink],
            store=self.store,
            clock=self.clock,
            wall=self.clock,
        )

    async def evaluate(self, times: int = 1) -> list[str]:
        """Evaluate so many times, a minute apart, and return the transitions."""
        events: list[AlertEvent] = []
        for _ in range(times):
            self.clock.advance(60)
            events += await self.engine.evaluate()
        return [event.transition for event in events]

    async def alerts(self) -> list[AlertRecord]:
        """Return all stored alerts."""
        return list((await self.store.alerts()).items)


@pytest.mark.anyio
async def test_defect_2_alert_that_is_not_found_any_more_is_resolved() -> None:
    """After five episodes no alert is open."""
    gateway = Gateway()

    for _ in range(5):
        gateway.rule.findings = [finding()]
        assert await gateway.evaluate(2) == ["fired"]
        gateway.rule.findings = []
        assert await gateway.evaluate(2) == ["resolved"]

    assert [alert.state for alert in await gateway.alerts()] == ["resolved"] * 5
    assert (gateway.engine.firing, gateway.engine.counts()) == ([], {})


@pytest.mark.anyio
async def test_defect_3_acknowledged_alert_does_not_fire_again() -> None:
    """For an hour the alert stays the same, without reminders."""
    gateway = Gateway(finding())
    await gateway.evaluate()
    (alert,) = await gateway.alerts()

    await gateway.engine.controls.acknowledge(alert.id, by="ada")
    await gateway.evaluate(60)

    (acknowledged,) = await gateway.alerts()
    assert (acknowledged.id, acknowledged.state) == (alert.id, "firing")
    assert gateway.sink.transitions == ["fired"]


@pytest.mark.anyio
async def test_defect_4_escalation_within_the_cooldown_is_notified() -> None:
    """The alert escalates; no second alert fires."""
    gateway = Gateway(finding("warning"))
    await gateway.evaluate()

    gateway.rule.findings = [finding("critical")]
    await gateway.evaluate()

    (alert,) = await gateway.alerts()
    assert (alert.severity, alert.fired_at) == ("critical", 1060)
    assert gateway.sink.transitions == ["fired", "escalated"]


@pytest.mark.parametrize("stored", [False, True], ids=["new", "after a restart"])
@pytest.mark.anyio
async def test_defect_5_concurrent_evaluations_fire_one_alert(stored: bool) -> None:
    """A restarted engine restores the stored alert before it evaluates."""
    gateway = Gateway(finding())
    if stored:
        await gateway.evaluate()
        gateway.restart()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(gateway.evaluate)

    assert len(await gateway.alerts()) == 1
    assert gateway.sink.transitions == ["fired"]


@pytest.mark.anyio
async def test_defect_5_store_failure_causes_no_second_alert() -> None:
    """The alert is notified once, and stored when the store works again."""
    gateway = Gateway(finding())
    gateway.store.down = True
    await gateway.evaluate(4)
    assert (gateway.sink.transitions, await gateway.alerts()) == (["fired"], [])

    gateway.store.down = False
    await gateway.evaluate()

    assert gateway.sink.transitions == ["fired"]
    assert [alert.started_at for alert in await gateway.alerts()] == [
        1180
    ]  # after 2 minutes of failures


@pytest.mark.anyio
async def test_defect_9_threshold_of_0_is_never_in_force() -> None:
    """Controls reject it, and a stored one is ignored."""
    gateway = Gateway()
    with pytest.raises(InvalidThresholds, match="global_qps"):
        await gateway.engine.controls.set_thresholds(Thresholds(global_qps=0), by="ada")
    await gateway.store.set_thresholds({"global_qps": 0}, expected=None, by="ada", at=1)
    gateway.restart()

    gateway.engine.observe(exchange())

    assert await gateway.evaluate() == []
    assert gateway.engine.thresholds == Thresholds()


@pytest.mark.anyio
async def test_defect_10_store_failure_changes_no_thresholds() -> None:
    """The thresholds still apply, and a change that cannot be stored is rejected."""
    gateway = Gateway()
    chosen = Thresholds(error_rate=0.5)
    await gateway.evaluate()
    await gateway.engine.controls.set_thresholds(chosen, by="ada")

    gateway.store.down = True
    await gateway.evaluate(3)
    with pytest.raises(StoreError):
        await gateway.engine.controls.set_thresholds(Thresholds(), by="bob")

    assert gateway.engine.thresholds == gateway.engine.controls.thresholds == chosen


@pytest.mark.anyio
async def test_defect_10_thresholds_are_restored_when_the_store_works_again() -> None:
    """If the store is down at the start, each evaluation retries."""
    gateway = Gateway()
    chosen = Thresholds(error_rate=0.5)
    await gateway.evaluate()
    await gateway.engine.controls.set_thresholds(chosen, by="ada")

    gateway.store.down = True
    gateway.restart()
    await gateway.evaluate(2)
    gateway.store.down = False
    await gateway.evaluate()

    assert gateway.engine.thresholds == chosen


@pytest.mark.parametrize(("requests", "comparison"), [(120, "(12 >= 10)"), (125, "(12.5 >= 10)")])
@pytest.mark.anyio
async def test_defect_11_title_has_the_value_as_a_number(requests: int, comparison: str) -> None:
    """Integers and fractions are formatted alike."""
    gateway = Gateway()
    await gateway.engine.controls.set_thresholds(Thresholds(global_qps=10), by="ada")
    for _ in range(requests):
        gateway.engine.observe(exchange())

    await gateway.evaluate()

    (event,) = gateway.sink.events
    assert event.finding.title == f"Global QPS threshold exceeded {comparison}"


@pytest.mark.anyio
async def test_defect_13_burst_between_two_evaluations_is_counted() -> None:
    """A burst of rate-limited requests fires; an alert with `hold_for` does not."""
    gateway = Gateway()
    gateway.clock.advance(20)
    for _ in range(50):
        gateway.engine.observe(exchange(tenant="acme", provider="claude", limited=True, status=429))
    gateway.clock.advance(20)

    await gateway.evaluate(17)

    assert gateway.sink.transitions_of("rate_limit:master:acme") == ["fired", "resolved"]
    assert gateway.sink.transitions_of("rate_limit_exceeded:provider:claude") == []


@pytest.mark.anyio
async def test_defect_14_jumps_of_the_wall_clock_move_no_window() -> None:
    """Windows and life cycles use the monotonic clock."""
    clock, wall = FakeClock(), FakeClock(1.7e9)
    engine = AlertEngine(sinks=[], clock=clock, wall=wall)
    transitions: list[list[str]] = []

    for jump in (-7200, 7200, 86_400, -86_400):
        for _ in range(20):
            engine.observe(exchange(api_key="k1", status=500, duration=180.0))
        clock.advance(60)
        wall.now += jump
        transitions.append([event.transition for event in await engine.evaluate()])

    assert transitions == [["fired"], [], [], []]


@pytest.mark.anyio
async def test_defect_18_slow_rules_and_sinks_delay_no_evaluation() -> None:
    """A refresh has a timeout of one interval, and sinks run in the background."""

    class Hanging(FixedRule):
        async def refresh(self) -> None:
            await anyio.sleep_forever()

    async def hanging(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    evaluated = anyio.Event()
    times: list[float] = []

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        times.append(now)
        if len(times) == 3:
            evaluated.set()
        return [finding()]

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Hanging(), rule], [hanging], interval=0.01):
            await evaluated.wait()


@pytest.mark.anyio
async def test_defect_18_engine_exposes_its_last_evaluation() -> None:
    """Listeners get the result and the duration; `last_evaluation` ignores failed evaluations."""

    class Listener:
        evaluations: tuple[tuple[str, float], ...] = ()

        def on_evaluation(self, result: str, seconds: float) -> None:
            self.evaluations += ((result, seconds),)

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        clock.advance(7)
        if now > 1100:
            raise OSError("no answer")
        return []

    clock, listener = FakeClock(), Listener()
    engine = AlertEngine([rule], [], clock=clock, wall=clock)
    engine.add_listener(listener)
    last_evaluations = [engine.last_evaluation()]

    for _ in range(3):
        clock.advance(43)
        await engine.evaluate()
        last_evaluations.append(engine.last_evaluation())

    assert listener.evaluations == (("ok", 7), ("ok", 7), ("error", 7))
    assert last_evaluations == [{}, {(): 1043}, {(): 1093}, {(): 1093}]

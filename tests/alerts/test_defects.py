"""The defects of the seed's detector that are the engine's side; the rules' are in their tests."""

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
    Changes,
    EngineState,
    MemoryAlertStore,
    StoreError,
)

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE
from .exchanges import exchange
from .findings import FixedRule, RecordingSink, finding


class Trying(MemoryAlertStore):
    """A store that is out of order while it is `down`, and takes a moment to be read."""

    def __init__(self, wall: Callable[[], float]) -> None:
        super().__init__(wall=wall)
        self.down = False

    async def load(self) -> EngineState:
        await anyio.lowlevel.checkpoint()
        self._try()
        return await super().load()

    async def commit(self, changes: Changes) -> None:
        self._try()
        await super().commit(changes)

    async def set_thresholds(self, *values: Any, **options: Any) -> Any:
        self._try()
        return await super().set_thresholds(*values, **options)

    def _try(self) -> None:
        if self.down:
            raise StoreError("no database")


class Gateway:
    """An engine with a rule that finds what a test says, on a store that may fail."""

    def __init__(self, *found: Finding) -> None:
        self.clock = FakeClock()
        self.store = Trying(self.clock)
        self.heard = RecordingSink()
        self.rule = FixedRule(*found)
        self.restart()

    def restart(self) -> None:
        """Begin with an engine that has seen nothing."""
        self.engine = AlertEngine(
            [self.rule, *default_rules()],
            [self.heard],
            store=self.store,
            clock=self.clock,
            wall=self.clock,
        )

    async def rounds(self, number: int = 1) -> list[str]:
        """So many rounds, a minute apart, and what happened in them."""
        told: list[AlertEvent] = []
        for _ in range(number):
            self.clock.advance(60)
            told += await self.engine.evaluate()
        return [each.transition for each in told]

    async def alerts(self) -> list[AlertRecord]:
        """All that are kept."""
        return list((await self.store.alerts()).items)


@pytest.mark.anyio
async def test_defect_2_what_stops_is_resolved_and_piles_up_nowhere() -> None:
    """An alert that comes and goes leaves nothing that is active."""
    gateway = Gateway()

    for _ in range(5):
        gateway.rule.findings = [finding()]
        assert await gateway.rounds(2) == ["fired"]
        gateway.rule.findings = []
        assert await gateway.rounds(2) == ["resolved"]

    assert [each.state for each in await gateway.alerts()] == ["resolved"] * 5
    assert (gateway.engine.firing, gateway.engine.counts()) == ([], {})


@pytest.mark.anyio
async def test_defect_3_an_alert_that_somebody_has_seen_does_not_come_back() -> None:
    """For an hour it is the same alert, of which nobody is reminded."""
    gateway = Gateway(finding())
    await gateway.rounds()
    (alert,) = await gateway.alerts()

    await gateway.engine.controls.acknowledge(alert.id, by="ada")
    await gateway.rounds(60)

    (after,) = await gateway.alerts()
    assert (after.id, after.state) == (alert.id, "firing")
    assert gateway.heard.transitions == ["fired"]


@pytest.mark.anyio
async def test_defect_4_what_gets_worse_within_the_cooldown_is_told_of_the_same_alert() -> None:
    """It is neither swallowed nor a second alert."""
    gateway = Gateway(finding("warning"))
    await gateway.rounds()

    gateway.rule.findings = [finding("critical")]
    await gateway.rounds()

    (alert,) = await gateway.alerts()
    assert (alert.severity, alert.fired_at) == ("critical", 1060)
    assert gateway.heard.transitions == ["fired", "escalated"]


@pytest.mark.parametrize("kept", [False, True], ids=["new", "after a restart"])
@pytest.mark.anyio
async def test_defect_5_two_rounds_at_once_make_one_alert(kept: bool) -> None:
    """Also where the engine has just been started, and does not know yet what was kept."""
    gateway = Gateway(finding())
    if kept:
        await gateway.rounds()
        gateway.restart()

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(gateway.rounds)

    assert len(await gateway.alerts()) == 1
    assert gateway.heard.transitions == ["fired"]


@pytest.mark.anyio
async def test_defect_5_a_store_that_fails_makes_no_second_alert() -> None:
    """It is told once, and kept when the store takes it."""
    gateway = Gateway(finding())
    gateway.store.down = True
    await gateway.rounds(3)
    assert (gateway.heard.transitions, await gateway.alerts()) == (["fired"], [])

    gateway.store.down = False
    await gateway.rounds(1)

    assert gateway.heard.transitions == ["fired"]
    assert [each.started_at for each in await gateway.alerts()] == [1060]


@pytest.mark.anyio
async def test_defect_9_a_threshold_of_0_is_never_in_force() -> None:
    """It cannot be set; one that somebody has put into the database is not used."""
    gateway = Gateway()
    with pytest.raises(InvalidThresholds, match="global_qps"):
        await gateway.engine.controls.set_thresholds(Thresholds(global_qps=0), by="ada")
    await gateway.store.set_thresholds({"global_qps": 0}, expected=None, by="ada", at=1)
    gateway.restart()

    gateway.engine.observe(exchange())

    assert await gateway.rounds() == []
    assert gateway.engine.thresholds == Thresholds()


@pytest.mark.anyio
async def test_defect_10_a_sick_store_changes_no_thresholds() -> None:
    """Those in force stay so, round after round, and nobody can set others half."""
    gateway = Gateway()
    chosen = Thresholds(error_rate=0.5)
    await gateway.rounds()
    await gateway.engine.controls.set_thresholds(chosen, by="ada")

    gateway.store.down = True
    await gateway.rounds(3)
    with pytest.raises(StoreError):
        await gateway.engine.controls.set_thresholds(Thresholds(), by="bob")

    assert gateway.engine.thresholds == gateway.engine.controls.thresholds == chosen


@pytest.mark.anyio
async def test_defect_10_thresholds_are_those_that_were_set_as_soon_as_they_can_be_read() -> None:
    """A store that is down when an engine starts is asked again in each round."""
    gateway = Gateway()
    chosen = Thresholds(error_rate=0.5)
    await gateway.rounds()
    await gateway.engine.controls.set_thresholds(chosen, by="ada")

    gateway.store.down = True
    gateway.restart()
    await gateway.rounds(2)
    gateway.store.down = False
    await gateway.rounds()

    assert gateway.engine.thresholds == chosen


@pytest.mark.parametrize(("requests", "said"), [(120, "(12.0 >= 10)"), (125, "(12.5 >= 10)")])
@pytest.mark.anyio
async def test_defect_11_numbers_are_told_as_numbers(requests: int, said: str) -> None:
    """What is told of a spike has its value in it, whole or not."""
    gateway = Gateway()
    await gateway.engine.controls.set_thresholds(Thresholds(global_qps=10), by="ada")
    for _ in range(requests):
        gateway.engine.observe(exchange())

    await gateway.rounds()

    (event,) = gateway.heard.events
    assert event.finding.title == f"The gateway: QPS threshold exceeded {said}"


@pytest.mark.anyio
async def test_defect_13_a_throttling_of_seconds_is_told_and_one_spike_need_not_fire() -> None:
    """What happens between two rounds is seen; what must last is not fired by one instant."""
    gateway = Gateway()
    gateway.clock.advance(20)
    for _ in range(50):
        gateway.engine.observe(exchange(tenant="acme", provider="claude", limited=True, status=429))
    gateway.clock.advance(20)

    await gateway.rounds(4)

    assert gateway.heard.transitions_of("rate_limit:master:acme") == ["fired", "resolved"]
    assert gateway.heard.transitions_of("rate_limit_exceeded:provider:claude") == []


@pytest.mark.anyio
async def test_defect_14_a_wall_clock_that_is_changed_moves_no_window() -> None:
    """Windows, and the times of alerts, go by the monotonic clock."""
    clock, wall = FakeClock(), FakeClock(1.7e9)
    engine = AlertEngine(sinks=[], clock=clock, wall=wall)
    told: list[list[str]] = []

    for jump in (-7200, 7200, 86_400, -86_400):
        for _ in range(20):
            engine.observe(exchange(api_key="k1", status=500, duration=180.0))
        clock.advance(60)
        wall.advance(jump)
        told.append([each.transition for each in await engine.evaluate()])

    assert told == [["fired"], [], [], []]


@pytest.mark.anyio
async def test_defect_18_who_is_slow_delays_neither_the_other_rules_nor_the_next_round() -> None:
    """A rule that has to ask somebody, and a sink, are given up after an interval."""

    class Hanging(FixedRule):
        async def refresh(self) -> None:
            await anyio.sleep_forever()

    async def hanging(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    enough = anyio.Event()
    asked: list[float] = []

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        asked.append(now)
        if len(asked) == 3:
            enough.set()
        return [finding()]

    with anyio.fail_after(PATIENCE):
        async with AlertEngine([Hanging(), rule], [hanging], interval=0.01):
            await enough.wait()


@pytest.mark.anyio
async def test_defect_18_an_engine_that_is_late_or_dead_can_be_seen() -> None:
    """It tells when its last whole round was, how each ended, and how long it took."""

    class Listening:
        told: tuple[tuple[str, float], ...] = ()

        def on_evaluation(self, result: str, seconds: float) -> None:
            self.told += ((result, seconds),)

    def rule(traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        clock.advance(7)
        if now > 1100:
            raise OSError("no answer")
        return []

    clock, listening = FakeClock(), Listening()
    engine = AlertEngine([rule], [], clock=clock, wall=clock)
    engine.add_listener(listening)
    seen = [engine.last_evaluation()]

    for _ in range(3):
        clock.advance(43)
        await engine.evaluate()
        seen.append(engine.last_evaluation())

    assert listening.told == (("ok", 7), ("ok", 7), ("error", 7))
    assert [each[()] for each in seen] == [1000, 1043, 1093, 1093]

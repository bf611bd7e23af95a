"""Running engines on one store, on a clock that jumps to the next event of the loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from tokenpulse_mw.alerts import AlertEngine, Finding, MemoryAlertStore, Thresholds, Traffic
from tokenpulse_mw.alerts.rules import traffic_spike

from ..exchanges import exchange
from ..findings import RecordingSink, finding

START = 1_700_000_000.0
INTERVAL = 60


def wall() -> float:
    """Return the seconds since the epoch."""
    return START + anyio.current_time()


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on a clock that jumps to the next event."""

    def run(**parameters: Any) -> None:
        async def call() -> None:
            await test(**parameters)

        clock = MockClock(autojump_threshold=0)
        anyio.run(call, backend="trio", backend_options={"clock": clock})

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


class TimedRule:
    """A rule that records the time of each evaluation, and fires while `fires`."""

    def __init__(self) -> None:
        self.times = list[float]()
        self.fires = False

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        self.times.append(round(anyio.current_time(), 1))
        return [finding()] if self.fires else []


class Fleet:
    """Processes that share a store in memory, a rule and a sink."""

    def __init__(self) -> None:
        self.store = MemoryAlertStore(wall=wall)
        self.rule, self.sink = TimedRule(), RecordingSink()

    def engine(self, *rules: Any, **options: Any) -> AlertEngine:
        """Return another process."""
        return AlertEngine(
            rules or [self.rule],
            [self.sink],
            store=self.store,
            interval=INTERVAL,
            clock=anyio.current_time,
            wall=wall,
            **options,
        )


@simulated
async def test_fleet_evaluates_once_in_an_interval() -> None:
    """Three processes evaluate as often as one, and notify once."""
    fleet = Fleet()
    async with fleet.engine(), fleet.engine(), fleet.engine():
        await anyio.sleep(5 * INTERVAL + 1)
        fleet.rule.fires = True
        await anyio.sleep(3 * INTERVAL)
        fleet.rule.fires = False
        await anyio.sleep(3 * INTERVAL)

    gaps = {round(later - time) for time, later in pairwise(fleet.rule.times)}
    assert gaps == {INTERVAL}
    assert len(fleet.rule.times) == 11
    assert fleet.sink.transitions == ["fired", "resolved"]


@pytest.mark.parametrize("killed_after", [10, 30, 59])
def test_next_leader_evaluates_when_the_previous_one_would_have(killed_after: int) -> None:
    """If that is past when it takes over, it evaluates at once."""

    @simulated
    async def run() -> None:
        fleet = Fleet()
        first, second = fleet.engine(), fleet.engine()
        with anyio.move_on_after(INTERVAL + killed_after):  # killed: without a last heartbeat
            await first.fleet()
            await first.run()
        async with second:
            await anyio.sleep(2 * INTERVAL)
            assert second.leads

        times = fleet.rule.times
        taken_over = INTERVAL + killed_after + 15
        assert times[0] == INTERVAL
        assert max(2 * INTERVAL, taken_over) <= times[1] <= max(2 * INTERVAL, taken_over + 5) + 1

    run()


@simulated
async def test_clean_stop_hands_over_within_a_heartbeat() -> None:
    """A deployment delays no evaluation."""
    fleet = Fleet()
    first, second = fleet.engine(), fleet.engine()
    await first.fleet()
    async with second:
        async with first:
            await anyio.sleep(INTERVAL + 1)
            assert (first.leads, second.leads) == (True, False)
        await anyio.sleep(6)
        assert (first.leads, second.leads) == (False, True)
        await anyio.sleep(INTERVAL)

    assert [round(time) for time in fleet.rule.times] == [60, 120]


@simulated
async def test_restart_of_a_single_process_keeps_the_schedule() -> None:
    """A process that is restarted more often than it evaluates still evaluates."""
    fleet = Fleet()
    for seconds in (61, 31, 31, 31, 31, 31, 31, 31, 31):
        async with fleet.engine():
            await anyio.sleep(seconds)

    assert [round(time) for time in fleet.rule.times] == [60, 120, 180, 240, 300]


@simulated
async def test_regular_evaluation_counts_complete_slots_of_all_processes() -> None:
    """It evaluates up to the slot that all processes have sent."""
    fleet = Fleet()
    chosen = Thresholds(master_rpm=110, traffic_keep_firing=0)
    engines = [fleet.engine(traffic_spike, thresholds=chosen) for _ in range(3)]
    async with engines[0], engines[1], engines[2]:
        await anyio.sleep(INTERVAL)
        for number in range(120):
            engines[number % 3].observe(exchange(tenant="acme"))
            await anyio.sleep(0.25)
        await anyio.sleep(3 * INTERVAL)

    fired, resolved = fleet.sink.events
    assert (fired.transition, resolved.transition) == ("fired", "resolved")
    assert fired.finding.value == 120


@simulated
async def test_change_of_thresholds_applies_everywhere_within_6_seconds() -> None:
    """Each process reads it with its next heartbeat."""
    fleet = Fleet()
    engines = [fleet.engine() for _ in range(3)]
    async with engines[0], engines[1], engines[2]:
        await anyio.sleep(13)
        await engines[2].controls.set_thresholds(Thresholds(error_rate=0.3), by="ada")
        await anyio.sleep(6)

        assert {engine.thresholds.error_rate for engine in engines} == {0.3}

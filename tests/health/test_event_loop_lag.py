"""How late the event loop is."""

from __future__ import annotations

import time
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.health import Check, EventLoopLag, HealthRouter
from tokenpulse_mw.health.event_loop_lag import to_result

from ..support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("lag", "status"),
    [(0.0, "pass"), (0.49, "pass"), (0.5, "warn"), (1.99, "warn"), (2.0, "fail"), (9.0, "fail")],
)
def test_a_lag_is_judged_by_both_bounds(lag: float, status: str) -> None:
    """From a bound on, it is reached."""
    result = to_result(lag, warn=0.5, fail=2.0)

    assert (result.status, result.observed_value, result.observed_unit) == (status, lag, "s")


@pytest.mark.anyio
async def test_what_blocks_the_event_loop_is_seen() -> None:
    """An idle loop is on time; one that was blocked was late, and is called so for a while."""
    lag = EventLoopLag(warn=0.05)

    async with lag.running():
        assert (await lag()).status == "pass"
        await anyio.wait_all_tasks_blocked()
        time.sleep(0.35)  # noqa: ASYNC251 - this is what is to be seen
        with anyio.fail_after(PATIENCE):
            while (result := await lag()).status == "pass":
                await anyio.lowlevel.checkpoint()

    assert result.status == "warn"
    assert isinstance(result.observed_value, float)
    assert result.observed_value >= 0.05


@pytest.mark.anyio
async def test_a_lag_that_is_not_measured_is_not_called_fine() -> None:
    """Neither before nor after."""
    lag = EventLoopLag()

    before = await lag()
    async with lag.running():
        pass

    assert before == await lag()
    assert (before.status, before.output) == ("warn", "not measured, because it is not running")


@pytest.mark.anyio
async def test_it_measures_while_the_router_runs() -> None:
    """Given plainly or as a `Check`."""
    plain, said_more = EventLoopLag(warn=PATIENCE), EventLoopLag(warn=PATIENCE)
    health = HealthRouter(checks={"a": plain, "b": Check(said_more), "c": lambda: True})

    async with health.running():
        assert [(await each()).status for each in (plain, said_more)] == ["pass", "pass"]
    assert (await plain()).status == "warn"


@pytest.mark.anyio
async def test_what_is_raised_beside_it_stays_what_it_is() -> None:
    """An application that fails in its lifespan is not hidden in a group of errors."""
    with pytest.raises(OSError, match="no port"):
        async with EventLoopLag().running():
            raise OSError("no port")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warn": 0}, r"^warn must be a number of seconds above 0, got 0$"),
        ({"warn": float("nan")}, r"^warn must be a number of seconds above 0, got nan$"),
        ({"fail": "2"}, r"^fail must be a number of seconds above 0, got '2'$"),
        ({"warn": 0.5, "fail": 0.5}, r"^fail must be above warn \(0\.5 seconds\), got 0\.5$"),
    ],
)
def test_bounds_that_could_not_work_are_refused(options: dict[str, Any], message: str) -> None:
    """A mistake shows at start."""
    with pytest.raises(ValueError, match=message):
        EventLoopLag(**options)

"""Check of the event loop lag."""

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
def test_status_depends_on_both_bounds(lag: float, status: str) -> None:
    """A lag equal to a bound has reached it."""
    result = to_result(lag, warn=0.5, fail=2.0)

    assert (result.status, result.observed_value, result.observed_unit) == (status, lag, "s")


@pytest.mark.anyio
async def test_blocked_event_loop_is_detected() -> None:
    """An idle loop has no lag; the lag of a blocked loop is reported for ten seconds."""
    lag = EventLoopLag(warn=0.05)

    async with lag.running():
        assert (await lag()).status == "pass"
        await anyio.wait_all_tasks_blocked()
        time.sleep(0.35)  # noqa: ASYNC251 - blocks the event loop on purpose
        with anyio.fail_after(PATIENCE):
            while (result := await lag()).status == "pass":
                await anyio.lowlevel.checkpoint()

    assert result.status == "warn"
    assert isinstance(result.observed_value, float)
    assert result.observed_value >= 0.05


@pytest.mark.anyio
async def test_lag_that_is_not_measured_is_a_warning() -> None:
    """The lag is not measured before and after `running()`."""
    lag = EventLoopLag()

    before = await lag()
    async with lag.running():
        pass

    assert before == await lag()
    assert (before.status, before.output) == ("warn", "not measured: running() is not entered")


@pytest.mark.anyio
async def test_router_measures_the_lag_while_it_runs() -> None:
    """A function and a `Check` are both recognized."""
    lag, lag_with_options = EventLoopLag(warn=PATIENCE), EventLoopLag(warn=PATIENCE)
    health = HealthRouter(checks={"a": lag, "b": Check(lag_with_options), "c": lambda: True})

    async with health.running():
        assert [(await check()).status for check in (lag, lag_with_options)] == ["pass", "pass"]
    assert (await lag()).status == "warn"


@pytest.mark.anyio
async def test_error_in_the_body_is_raised_unchanged() -> None:
    """An error of the lifespan is not wrapped in an exception group."""
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
def test_invalid_bounds_are_rejected(options: dict[str, Any], message: str) -> None:
    """The error names the parameter and the value it got."""
    with pytest.raises(ValueError, match=message):
        EventLoopLag(**options)

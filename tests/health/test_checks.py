"""Readiness checks: concurrency, deadlines, caching and logs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from tokenpulse_mw.health import AnyCheck, Check, CheckResult, Checks

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("patient")


async def passing() -> bool:
    """Pass."""
    return True


async def hanging() -> bool:
    """Never return."""
    await anyio.sleep_forever()
    return True


def broken() -> bool:
    """Raise an error with a secret address."""
    raise OSError("no disk at 10.0.0.7")


async def statuses(checks: Mapping[str, AnyCheck], **options: Any) -> dict[str, str]:
    """Return the status of each check."""
    observations = await Checks(checks, **{"timeout": PATIENCE, **options}).run()
    return {name: observation.result.status for name, observation in observations.items()}


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (True, "pass"),
        (False, "fail"),
        (CheckResult(), "pass"),
        (CheckResult(status="warn"), "warn"),
        (CheckResult(status="fail"), "fail"),
    ],
)
@pytest.mark.anyio
async def test_check_returns_a_bool_or_a_result(value: Any, status: str) -> None:
    """True passes, False fails, and a `CheckResult` has its own status."""
    assert await statuses({"only": lambda: value}) == {"only": status}


@pytest.mark.parametrize(
    ("value", "kind"), [("down", "a str"), (None, "None"), (1, "a int"), ({}, "a dict")]
)
@pytest.mark.anyio
async def test_check_that_returns_another_value_fails(
    value: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A string is true, and a forgotten return is None; output and log name the type."""
    observation = (await Checks({"only": lambda: value}, timeout=PATIENCE).run())["only"]

    output = f"check must return True, False or a CheckResult, got {kind}"
    assert observation.result == CheckResult(status="fail", output=output)
    assert caplog.messages == [
        f"health check not passing: check='only' status=fail output={output!r}"
    ]


@pytest.mark.anyio
async def test_no_checks_have_no_results() -> None:
    """Without checks, the result is empty."""
    assert await statuses({}) == {}


@pytest.mark.anyio
async def test_check_that_raises_or_hangs_fails_alone() -> None:
    """The output is the class of the error: its text may contain a secret."""
    checks = Checks(
        {"disk": broken, "slow": Check(hanging, timeout=0.01), "other": passing}, timeout=PATIENCE
    )

    with anyio.fail_after(PATIENCE):
        observations = await checks.run()

    results = {name: observation.result for name, observation in observations.items()}
    assert {name: (result.status, result.output) for name, result in results.items()} == {
        "disk": ("fail", "OSError"),
        "slow": ("fail", "timeout"),
        "other": ("pass", None),
    }


@pytest.mark.anyio
async def test_failure_of_a_check_that_is_not_critical_is_a_warning() -> None:
    """The details of the result are unchanged."""
    full = CheckResult(status="fail", observed_value=97, observed_unit="%", output="nearly full")
    checks = Checks({"disk": Check(lambda: full, critical=False)}, timeout=PATIENCE)

    observation = (await checks.run())["disk"]

    assert observation.result == CheckResult(
        status="warn", observed_value=97, observed_unit="%", output="nearly full"
    )


@pytest.mark.anyio
async def test_timeout_of_a_check_overrides_the_default() -> None:
    """A check with a short timeout fails, and the others continue."""
    checks: dict[str, AnyCheck] = {"slow": Check(hanging, timeout=0.01), "quick": passing}

    with anyio.fail_after(PATIENCE):
        assert await statuses(checks, timeout=PATIENCE, deadline=PATIENCE) == {
            "slow": "fail",
            "quick": "pass",
        }


@pytest.mark.anyio
async def test_deadline_applies_to_all_checks_together() -> None:
    """Hanging and queued checks fail at the deadline; finished ones keep their result."""
    checks: dict[str, AnyCheck] = {
        "first": passing,
        **{f"slow {number}": hanging for number in range(16)},
    }

    with anyio.fail_after(PATIENCE):
        while True:
            results = await statuses({**checks, "last": passing}, timeout=PATIENCE, deadline=0.05)
            if results.pop("first") == "pass":  # else the machine was too slow
                break

    assert set(results.values()) == {"fail"}


@pytest.mark.anyio
async def test_at_most_sixteen_checks_run_concurrently() -> None:
    """A probe starts no more than sixteen of its checks at a time."""
    running: list[int] = []
    peak = 0
    release = anyio.Event()

    async def check() -> bool:
        nonlocal peak
        running.append(1)
        peak = max(peak, len(running))
        await release.wait()
        running.pop()
        return True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Checks({str(number): check for number in range(40)}, timeout=PATIENCE).run)
        await anyio.wait_all_tasks_blocked()
        assert peak == 16
        release.set()
    assert peak == 16


@pytest.mark.anyio
async def test_failure_ttl_applies_to_failures(clock: FakeClock) -> None:
    """Successes are cached for `ttl` seconds."""
    values = iter([True, False, True])
    check = Check(lambda: next(values), ttl=10, failure_ttl=2)
    checks = Checks({"only": check}, timeout=PATIENCE, clock=clock)
    results = []

    for seconds in (0.0, 9.9, 0.1, 1.9, 0.1):
        clock.advance(seconds)
        results.append((await checks.run())["only"].result.status)

    assert results == ["pass", "pass", "fail", "fail", "pass"]


@pytest.mark.anyio
async def test_changes_of_the_status_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Repeated results are not logged; the log contains the text of the error."""
    caplog.set_level(logging.INFO)
    values = iter([True, False, False, OSError("no disk"), CheckResult(status="warn"), True, True])

    def check() -> Any:
        value = next(values)
        if isinstance(value, OSError):
            raise value
        return value

    checks = Checks({"disk": Check(check, ttl=0, failure_ttl=0)}, timeout=PATIENCE)
    for _ in range(7):
        await checks.run()
    await Checks({"disk": broken}, timeout=PATIENCE).run()

    assert caplog.messages == [
        "health check not passing: check='disk' status=fail output=None",
        "health check recovered: check='disk' from=fail to=warn (seconds=0 failures=3)",
        "health check not passing: check='disk' status=warn output=None",
        "health check recovered: check='disk' from=warn to=pass (seconds=0 failures=1)",
        "health check not passing: check='disk' status=fail output='OSError'",
    ]
    assert "no disk at 10.0.0.7" in caplog.text


@pytest.mark.anyio
async def test_observation_has_the_time_of_its_run(clock: FakeClock) -> None:
    """A cached result keeps its time."""
    wall = FakeClock(1_769_004_042.0)
    checks = Checks({"disk": Check(lambda: True, ttl=10)}, timeout=PATIENCE, clock=clock, wall=wall)

    times = [(await checks.run())["disk"].time]
    wall.advance(3)
    times.append((await checks.run())["disk"].time)

    assert times == [1_769_004_042.0, 1_769_004_042.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, r"^timeout must be a number of seconds above 0, got 0$"),
        ({"timeout": "2"}, r"^timeout must be a number of seconds above 0, got '2'$"),
        ({"ttl": -1}, r"^ttl must be a number of seconds, 0 or more, got -1$"),
        ({"failure_ttl": float("nan")}, r"^failure_ttl must be a number .*, got nan$"),
        ({"function": True}, r"^check must be a function that returns a bool, got True$"),
        ({"component_type": b"system"}, r"^component_type must be a string, got b'system'$"),
    ],
)
def test_invalid_check_is_rejected(options: dict[str, Any], message: str) -> None:
    """The constructor names the parameter and the value it got."""
    with pytest.raises(ValueError, match=message):
        Check(**{"function": passing, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "ok"}, r"^status must be one of pass, warn, fail, got 'ok'$"),
        ({"observed_value": float("inf")}, r"^observed_value must be a finite number .* got inf$"),
        ({"observed_value": b"1"}, r"^observed_value must be a finite number .* got b'1'$"),
        (
            {"observed_value": 2**64},
            r"^observed_value must be an integer of at most 64 bits, got a larger one$",
        ),
        (
            {"observed_value": -(10**5000)},
            r"^observed_value must be an integer of at most 64 bits, got a larger one$",
        ),
        ({"observed_unit": b"%"}, r"^observed_unit must be a string, got b'%'$"),
        ({"output": OSError()}, r"^output must be a string, got OSError\(\)$"),
    ],
)
def test_invalid_check_result_is_rejected(options: dict[str, Any], message: str) -> None:
    """A value that JSON cannot represent is an error."""
    with pytest.raises(ValueError, match=message):
        CheckResult(**options)

"""Checks: run side by side, each within its deadline."""

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


async def good() -> bool:
    """Holds."""
    return True


async def hanging() -> bool:
    """Never says."""
    await anyio.sleep_forever()
    return True


def broken() -> bool:
    """Cannot say."""
    raise OSError("no disk at 10.0.0.7")


async def statuses(checks: Mapping[str, AnyCheck], **options: Any) -> dict[str, str]:
    """What each check says."""
    observed = await Checks(checks, **{"timeout": PATIENCE, **options}).run()
    return {name: each.result.status for name, each in observed.items()}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (True, "pass"),
        (False, "fail"),
        (CheckResult(), "pass"),
        (CheckResult(status="warn"), "warn"),
        (CheckResult(status="fail"), "fail"),
    ],
)
@pytest.mark.anyio
async def test_a_check_gives_a_bool_or_a_result(answer: Any, status: str) -> None:
    """A bool is enough."""
    assert await statuses({"only": lambda: answer}) == {"only": status}


@pytest.mark.parametrize(
    ("answer", "kind"), [("down", "str"), (None, "NoneType"), (1, "int"), ({}, "dict")]
)
@pytest.mark.anyio
async def test_a_check_that_gives_anything_else_has_failed(
    answer: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Every text is true, and a forgotten return is no failure: both are told what they are."""
    observed = (await Checks({"only": lambda: answer}, timeout=PATIENCE).run())["only"]

    why = f"must return True, False or a CheckResult, and returned a value of type {kind}"
    assert observed.result == CheckResult(status="fail", output=f"the check {why}")
    assert caplog.messages == [f"health check 'only' is now fail: the check {why}"]


@pytest.mark.anyio
async def test_no_checks_have_no_results() -> None:
    """There is nothing to wait for."""
    assert await statuses({}) == {}


@pytest.mark.anyio
async def test_a_check_that_raises_or_hangs_has_failed_and_the_others_have_not() -> None:
    """Why is told by a class's name: a text may hold what is not for everyone."""
    checks = Checks(
        {"disk": broken, "slow": Check(hanging, timeout=0.01), "other": good}, timeout=PATIENCE
    )

    with anyio.fail_after(PATIENCE):
        observed = await checks.run()

    assert {name: (each.result.status, each.result.output) for name, each in observed.items()} == {
        "disk": ("fail", "OSError"),
        "slow": ("fail", "timeout"),
        "other": ("pass", None),
    }


@pytest.mark.anyio
async def test_a_check_that_is_not_critical_only_warns() -> None:
    """What it measured is told all the same."""
    full = CheckResult(status="fail", observed_value=97, observed_unit="%", output="nearly full")
    checks = Checks({"disk": Check(lambda: full, critical=False)}, timeout=PATIENCE)

    observed = (await checks.run())["disk"]

    assert observed.result == CheckResult(
        status="warn", observed_value=97, observed_unit="%", output="nearly full"
    )


@pytest.mark.anyio
async def test_a_check_may_have_its_own_deadline() -> None:
    """It may be shorter than that of the others, or longer."""
    checks: dict[str, AnyCheck] = {"slow": Check(hanging, timeout=0.01), "quick": good}

    with anyio.fail_after(PATIENCE):
        assert await statuses(checks, timeout=PATIENCE, deadline=PATIENCE) == {
            "slow": "fail",
            "quick": "pass",
        }


@pytest.mark.anyio
async def test_all_checks_together_have_a_deadline() -> None:
    """Whoever waited behind those that hang is late too, and whoever was done is not."""
    checks: dict[str, AnyCheck] = {"first": good, **{f"slow {n}": hanging for n in range(16)}}

    with anyio.fail_after(PATIENCE):
        while True:
            found = await statuses({**checks, "last": good}, timeout=PATIENCE, deadline=0.05)
            if found.pop("first") == "pass":  # else the machine stood still
                break

    assert set(found.values()) == {"fail"}


@pytest.mark.anyio
async def test_a_few_checks_run_at_the_same_time_and_not_all() -> None:
    """However many there are, one probe does not begin more than sixteen at once."""
    running: list[int] = []
    most = 0
    release = anyio.Event()

    async def check() -> bool:
        nonlocal most
        running.append(1)
        most = max(most, len(running))
        await release.wait()
        running.pop()
        return True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Checks({str(n): check for n in range(40)}, timeout=PATIENCE).run)
        await anyio.wait_all_tasks_blocked()
        assert most == 16
        release.set()
    assert most == 16


@pytest.mark.anyio
async def test_failures_are_kept_for_a_time_of_their_own(clock: FakeClock) -> None:
    """So that a service that has recovered is back soon, or what struggles is left alone."""
    answers = iter([True, False, True])
    check = Check(lambda: next(answers), ttl=10, failure_ttl=2)
    checks = Checks({"only": check}, timeout=PATIENCE, clock=clock)
    found = []

    for seconds in (0.0, 9.9, 0.1, 1.9, 0.1):
        clock.advance(seconds)
        found.append((await checks.run())["only"].result.status)

    assert found == ["pass", "pass", "fail", "fail", "pass"]


@pytest.mark.anyio
async def test_the_log_tells_of_a_change_and_not_of_each_probe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log has the exception's text, which no answer has."""
    caplog.set_level(logging.INFO)
    answers = iter([True, False, False, OSError("no disk"), CheckResult(status="warn"), True, True])

    def check() -> Any:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    checks = Checks({"disk": Check(check, ttl=0, failure_ttl=0)}, timeout=PATIENCE)
    for _ in range(7):
        await checks.run()
    await Checks({"disk": broken}, timeout=PATIENCE).run()

    assert caplog.messages == [
        "health check 'disk' is now fail",
        "health check 'disk' is no longer fail (seconds=0 failures=3)",
        "health check 'disk' is now warn",
        "health check 'disk' passes again (seconds=0 failures=1)",
        "health check 'disk' is now fail: OSError",
    ]
    assert "no disk at 10.0.0.7" in caplog.text


@pytest.mark.anyio
async def test_a_result_knows_when_it_was_found(clock: FakeClock) -> None:
    """A kept one is not passed off as new."""
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
        ({"function": True}, r"^a check must be a function that returns a bool, got True$"),
        ({"component_type": b"system"}, r"^component_type must be a string, got b'system'$"),
    ],
)
def test_a_check_that_could_not_work_is_refused(options: dict[str, Any], message: str) -> None:
    """A mistake shows at start, not at the first probe."""
    with pytest.raises(ValueError, match=message):
        Check(**{"function": good, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": "ok"}, r"^status must be one of \['pass', 'warn', 'fail'\], got 'ok'$"),
        ({"observed_value": float("inf")}, r"^observed_value must be a finite number .* got inf$"),
        ({"observed_value": b"1"}, r"^observed_value must be a finite number .* got b'1'$"),
        ({"observed_value": 2**64}, r"^observed_value must be below 2\*\*64, got a larger number$"),
        ({"observed_value": -(10**5000)}, r"^observed_value must be below 2\*\*64, got a larger "),
        ({"observed_unit": b"%"}, r"^observed_unit must be a string, got b'%'$"),
        ({"output": OSError()}, r"^output must be a string, got OSError\(\)$"),
    ],
)
def test_a_result_that_could_not_be_told_is_refused(options: dict[str, Any], message: str) -> None:
    """A check that gives one has failed, as if it had raised anything else."""
    with pytest.raises(ValueError, match=message):
        CheckResult(**options)

"""The status of credentials: bools, or not known."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.health import credentials
from tokenpulse_mw.health.credentials import CredentialStatus, bools

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("claude", True)], r"^credentials must be a mapping .*; got a value of type list$"),
        ({"claude": "sk-1"}, r"^credentials of 'claude' must be True .* got a value of type str$"),
        ({"claude": 1}, r"^credentials of 'claude' must be True .* got a value of type int$"),
        ({1: True}, r"^credentials must be given by provider's name, got a value of type int$"),
        ({"\ud83d": True}, r"^provider name must be valid UTF-8, got '\\ud83d'$"),
    ],
)
def test_what_is_no_bool_by_name_is_refused(given: Any, message: str) -> None:
    """It is not told what came: somebody may have put the credential itself there."""
    with pytest.raises(ValueError, match=message):
        bools(given)


def test_a_mapping_is_looked_at_when_it_is_given() -> None:
    """A mistake shows at start, not at the first probe."""
    with pytest.raises(ValueError, match="credentials of 'claude' must be True"):
        CredentialStatus({"claude": "yes"}, timeout=PATIENCE)  # type: ignore[dict-item]


@pytest.mark.anyio
async def test_a_mapping_that_goes_bad_is_not_known_any_more() -> None:
    """For metrics, what it last was stands for a while."""
    given: dict[str, Any] = {"claude": True}
    status = CredentialStatus(given, timeout=PATIENCE)

    given["claude"] = "expired"
    assert (await status.get(), status.known()) == (None, {"claude": True})
    given["claude"] = False
    assert (await status.get(), status.known()) == ({"claude": False}, {"claude": False})


@pytest.mark.anyio
async def test_what_was_known_long_ago_is_not_known_any_more(clock: FakeClock) -> None:
    """A few askings may fail; then metrics show nothing, and not what may be wrong by now."""
    given: dict[str, Any] = {"claude": True}
    status = CredentialStatus(lambda: given, timeout=PATIENCE, clock=clock)
    assert status.known() == {}
    await status.get()
    given["claude"] = "expired"
    found = []

    for seconds in (300, 0.1):
        clock.advance(seconds)
        assert await status.get() is None
        found.append(status.known())

    assert found == [{"claude": True}, {}]


@pytest.mark.anyio
async def test_it_is_kept_known_by_asking_now_and_then(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it fails."""
    monkeypatch.setattr(credentials, "_EVERY", 0.0)
    asked: list[float] = []

    async def source() -> dict[str, bool]:
        asked.append(clock.now)
        if len(asked) < 3:
            raise SystemExit("no database")
        return {"claude": True}

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(status.keep_known)
            while not status.known():
                clock.advance(1)
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    assert len(asked) == 3
    assert status.known() == {"claude": True}


@pytest.mark.anyio
async def test_a_functions_answer_is_kept_for_a_second(clock: FakeClock) -> None:
    """Also when it fails: what struggles is not asked by every probe."""
    asked: list[float] = []

    async def source() -> dict[str, bool]:
        asked.append(clock.now)
        if len(asked) == 2:
            raise OSError("no database")
        return {"claude": len(asked) > 2}

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)
    found = []
    for seconds in (0.0, 0.9, 0.1, 0.9, 0.1):
        clock.advance(seconds)
        found.append(await status.get())

    assert found == [{"claude": False}, {"claude": False}, None, None, {"claude": True}]
    assert len(asked) == 3


@pytest.mark.anyio
async def test_the_log_tells_when_it_is_not_known_and_when_it_is_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not at each probe."""
    caplog.set_level(logging.INFO)
    answers = iter([OSError("no database"), {"claude": 1}, {"claude": True}, {"claude": True}])

    def source() -> Any:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)
    for _ in range(4):
        await status.get()
        clock.advance(1)

    assert caplog.messages == [
        "the status of credentials is not known: OSError",
        "the status of credentials is known again (seconds=2 failures=2)",
    ]
    assert "no database" in caplog.text


@pytest.mark.anyio
async def test_a_function_that_takes_too_long_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its status is not known then."""

    async def source() -> dict[str, bool]:
        await anyio.sleep_forever()
        return {}

    with anyio.fail_after(PATIENCE):
        assert await CredentialStatus(source, timeout=0.01).get() is None
    assert caplog.messages == ["the status of credentials is not known: timeout"]

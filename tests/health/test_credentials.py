"""Status of credentials."""

from __future__ import annotations

import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.health import credentials
from tokenpulse_mw.health.credentials import CredentialStatus, check_credentials

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([("claude", True)], r"^credentials must be a mapping .*, got a list$"),
        ({"claude": "sk-1"}, r"^credentials of 'claude' must be True .* got a str$"),
        ({"claude": 1}, r"^credentials of 'claude' must be True .* got a int$"),
        ({1: True}, r"^credentials must have provider names as keys, got a int$"),
        ({"\ud83d": True}, r"^provider name must be valid UTF-8, got '\\ud83d'$"),
    ],
)
def test_invalid_credentials_are_rejected(value: Any, message: str) -> None:
    """The error has the type of the value, which may be a secret."""
    with pytest.raises(ValueError, match=message):
        check_credentials(value)


def test_invalid_mapping_is_rejected_by_the_constructor() -> None:
    """A mapping is checked before the first request."""
    with pytest.raises(ValueError, match="credentials of 'claude' must be True"):
        CredentialStatus({"claude": "yes"}, timeout=PATIENCE)  # type: ignore[dict-item]


@pytest.mark.anyio
async def test_mapping_that_becomes_invalid_is_unknown() -> None:
    """`recent` returns its last valid status."""
    mapping: dict[str, Any] = {"claude": True}
    status = CredentialStatus(mapping, timeout=PATIENCE)

    mapping["claude"] = "expired"
    assert (await status.get(), status.recent()) == (None, {"claude": True})
    mapping["claude"] = False
    assert (await status.get(), status.recent()) == ({"claude": False}, {"claude": False})


@pytest.mark.anyio
async def test_recent_status_expires_after_five_minutes(clock: FakeClock) -> None:
    """Failed calls do not remove it earlier; an older status may be wrong."""
    mapping: dict[str, Any] = {"claude": True}
    status = CredentialStatus(lambda: mapping, timeout=PATIENCE, clock=clock)
    assert status.recent() == {}
    await status.get()
    mapping["claude"] = "expired"
    results = []

    for seconds in (300, 0.1):
        clock.advance(seconds)
        assert await status.get() is None
        results.append(status.recent())

    assert results == [{"claude": True}, {}]


@pytest.mark.anyio
async def test_refresh_calls_the_source_again_after_failures(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is set by the first call that succeeds."""
    monkeypatch.setattr(credentials, "_REFRESH_INTERVAL", 0.0)
    calls: list[float] = []

    async def source() -> dict[str, bool]:
        calls.append(clock.now)
        if len(calls) < 3:
            raise SystemExit("no database")
        return {"claude": True}

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(status.refresh)
            while not status.recent():
                clock.advance(1)
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    assert len(calls) == 3
    assert status.recent() == {"claude": True}


@pytest.mark.anyio
async def test_result_of_a_function_is_cached_for_a_second(clock: FakeClock) -> None:
    """A failure is cached too, so that probes do not overload the source."""
    calls: list[float] = []

    async def source() -> dict[str, bool]:
        calls.append(clock.now)
        if len(calls) == 2:
            raise OSError("no database")
        return {"claude": len(calls) > 2}

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)
    results = []
    for seconds in (0.0, 0.9, 0.1, 0.9, 0.1):
        clock.advance(seconds)
        results.append(await status.get())

    assert results == [{"claude": False}, {"claude": False}, None, None, {"claude": True}]
    assert len(calls) == 3


@pytest.mark.anyio
async def test_failures_and_recovery_are_logged(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Not every failed call is logged."""
    caplog.set_level(logging.INFO)
    values = iter([OSError("no database"), {"claude": 1}, {"claude": True}, {"claude": True}])

    def source() -> Any:
        value = next(values)
        if isinstance(value, OSError):
            raise value
        return value

    status = CredentialStatus(source, timeout=PATIENCE, clock=clock)
    for _ in range(4):
        await status.get()
        clock.advance(1)

    assert caplog.messages == [
        "credentials status unknown: reason=OSError",
        "credentials status recovered (seconds=2 failures=2)",
    ]
    assert "no database" in caplog.text


@pytest.mark.anyio
async def test_slow_function_gives_an_unknown_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The call is not awaited longer than `timeout`."""

    async def source() -> dict[str, bool]:
        await anyio.sleep_forever()
        return {}

    with anyio.fail_after(PATIENCE):
        assert await CredentialStatus(source, timeout=0.01).get() is None
    assert caplog.messages == ["credentials status unknown: reason=timeout"]


def test_cleared_status_of_a_mapping_is_read_again() -> None:
    """A mapping is available at any time."""
    state = {"claude": False}
    status = CredentialStatus(state, timeout=PATIENCE)

    status.clear()
    state["claude"] = True

    assert status.recent() == {"claude": True}

"""Calls of user code: timeouts, and cancellations raised by the called code."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    MemoryAlertStore,
    Quota,
    Rule,
    quota_exceeded,
)
from tokenpulse_mw.alerts.store.protocol import EngineState
from tokenpulse_mw.alerts.timeouts import CancelledByCalleeError, call_with_timeout

from ..support.waiting import PATIENCE
from .findings import FixedRule, finding


async def await_cancelled_future() -> None:
    """Raise a cancellation, as a connection does when its pool is closed."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.anyio
async def test_call_may_be_async_or_not() -> None:
    """The result is returned in both cases."""

    async def async_call() -> int:
        return 2

    assert (
        await call_with_timeout(PATIENCE, lambda: 1),
        await call_with_timeout(PATIENCE, async_call),
    ) == (1, 2)


@pytest.mark.anyio
async def test_call_that_takes_too_long_raises_timeout_error() -> None:
    """The call is cancelled after its timeout."""
    with pytest.raises(TimeoutError):
        await call_with_timeout(0.01, anyio.sleep_forever)


@pytest.mark.anyio
async def test_cancellation_of_the_caller_is_raised() -> None:
    """A cancelled caller does not wait for the call."""
    with anyio.move_on_after(0.01) as scope:
        await call_with_timeout(PATIENCE, anyio.sleep_forever)

    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_cancellation_by_the_callee_is_an_error() -> None:
    """The call raises an ordinary exception; on trio there is no such cancellation."""
    with pytest.raises(
        CancelledByCalleeError, match=r"^the called function raised a cancellation$"
    ):
        await call_with_timeout(PATIENCE, await_cancelled_future)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_sink_that_cancels_itself_does_not_stop_the_engine() -> None:
    """The other sinks get all notifications, and the body of the engine continues."""
    transitions: list[str] = []
    resolved = anyio.Event()

    async def working(event: AlertEvent) -> None:
        transitions.append(event.transition)
        rule.findings = []
        if len(transitions) == 2:
            resolved.set()

    async def broken(event: AlertEvent) -> None:
        await await_cancelled_future()

    rule = FixedRule(finding())
    with anyio.fail_after(PATIENCE):
        async with AlertEngine([rule], [broken, working], interval=0.01):
            await resolved.wait()

    assert transitions == ["fired", "resolved"]


class ClosedStore(MemoryAlertStore):
    """A store whose connection pool is closed."""

    async def load(self, *values: Any) -> EngineState | None:
        await await_cancelled_future()
        return None

    async def commit(self, *values: Any, **options: Any) -> int:
        await await_cancelled_future()
        return 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_store_or_quota_source_that_cancels_itself_does_not_stop_the_engine() -> None:
    """The engine continues to evaluate and to notify."""
    notified, retried = anyio.Event(), anyio.Event()
    calls = 0

    async def sink(event: AlertEvent) -> None:
        notified.set()

    async def source() -> list[Quota]:
        nonlocal calls
        calls += 1
        if calls == 3:
            retried.set()
        await await_cancelled_future()
        return []

    rules: list[Rule] = [FixedRule(finding()), quota_exceeded(source)]
    with anyio.fail_after(PATIENCE):
        async with AlertEngine(rules, [sink], interval=0.01, store=ClosedStore()):
            await notified.wait()
            await retried.wait()


@pytest.mark.anyio
async def test_sink_may_be_a_plain_function() -> None:
    """The engine calls it once for each event."""
    transitions: list[str] = []

    def sink(event: AlertEvent) -> None:
        transitions.append(event.transition)

    rule = FixedRule(finding())
    engine = AlertEngine([rule], [sink])
    await engine.evaluate()
    rule.findings = []
    await engine.evaluate()

    assert transitions == ["fired", "resolved"]

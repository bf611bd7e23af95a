"""Other people's code: whatever it does to itself, we go on."""

from __future__ import annotations

import asyncio

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
from tokenpulse_mw.alerts.store.protocol import Changes, EngineState
from tokenpulse_mw.alerts.timeouts import CancelledByCalleeError, call_with_timeout

from ..support.waiting import PATIENCE
from .findings import FixedRule, finding


async def waits_for_what_was_cancelled() -> None:
    """As a connection does whose pool was closed."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


@pytest.mark.anyio
async def test_what_is_called_may_be_async_or_not() -> None:
    """Its answer is given either way."""

    async def later() -> int:
        return 2

    assert (
        await call_with_timeout(PATIENCE, lambda: 1),
        await call_with_timeout(PATIENCE, later),
    ) == (1, 2)


@pytest.mark.anyio
async def test_what_takes_too_long_is_given_up() -> None:
    """As anyio says it."""
    with pytest.raises(TimeoutError):
        await call_with_timeout(0.01, anyio.sleep_forever)


@pytest.mark.anyio
async def test_that_we_are_cancelled_is_let_through() -> None:
    """Whoever leaves an engine does not wait for what it calls."""
    with anyio.move_on_after(0.01) as scope:
        await call_with_timeout(PATIENCE, anyio.sleep_forever)

    assert scope.cancelled_caught


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_that_it_cancels_itself_is_a_failure_like_others() -> None:
    """On trio nothing can."""
    with pytest.raises(
        CancelledByCalleeError, match=r"^the call was cancelled, but not by its caller$"
    ):
        await call_with_timeout(PATIENCE, waits_for_what_was_cancelled)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_sink_that_cancels_itself_ends_no_other() -> None:
    """Nor the engine, nor the application inside of it."""
    told: list[str] = []
    enough = anyio.Event()

    async def other(event: AlertEvent) -> None:
        told.append(event.transition)
        rule.findings = []
        if len(told) == 2:
            enough.set()

    async def broken(event: AlertEvent) -> None:
        await waits_for_what_was_cancelled()

    rule = FixedRule(finding())
    with anyio.fail_after(PATIENCE):
        async with AlertEngine([rule], [broken, other], interval=0.01):
            await enough.wait()

    assert told == ["fired", "resolved"]


class Closed(MemoryAlertStore):
    """A store whose pool was closed."""

    async def load(self) -> EngineState:
        await waits_for_what_was_cancelled()
        return EngineState()

    async def commit(self, changes: Changes) -> None:
        await waits_for_what_was_cancelled()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_store_or_a_source_that_cancels_itself_ends_no_engine() -> None:
    """Alerts are found and told without them."""
    told, often = anyio.Event(), anyio.Event()
    asked: list[None] = []

    async def sink(event: AlertEvent) -> None:
        told.set()

    async def source() -> list[Quota]:
        asked.append(None)
        if len(asked) == 3:
            often.set()
        await waits_for_what_was_cancelled()
        return []

    rules: list[Rule] = [FixedRule(finding()), quota_exceeded(source)]
    with anyio.fail_after(PATIENCE):
        async with AlertEngine(rules, [sink], interval=0.01, store=Closed()):
            await told.wait()
            await often.wait()


@pytest.mark.anyio
async def test_a_sink_may_be_a_plain_function() -> None:
    """It is called once for each event."""
    told: list[str] = []

    def sink(event: AlertEvent) -> None:
        told.append(event.transition)

    rule = FixedRule(finding())
    engine = AlertEngine([rule], [sink])
    await engine.evaluate()
    rule.findings = []
    await engine.evaluate()

    assert told == ["fired", "resolved"]

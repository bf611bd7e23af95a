"""Values that may be slow or fail."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.dashboard.cached import Cached

from ..support.clock import FakeClock

pytestmark = pytest.mark.anyio


async def test_concurrent_requests_share_one_call(clock: FakeClock) -> None:
    """All get the result of the call, and a new one only after its time."""
    calls, release = list[int](), anyio.Event()

    async def read() -> int:
        calls.append(1)
        await release.wait()
        return len(calls)

    value, results = Cached(read, 0, of="number", ttl=5.0, clock=clock), list[int]()

    async def get() -> None:
        results.append(await value.get())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(get)
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert results == [1, 1, 1]
    clock.advance(4.9)
    assert await value.get() == 1
    clock.advance(0.1)
    assert await value.get() == 2


async def test_slow_value_is_the_default_after_the_timeout(clock: FakeClock) -> None:
    """A source that hangs delays one request, and not each."""
    calls = list[int]()

    async def read() -> int:
        calls.append(1)
        await anyio.sleep_forever()
        return 1

    value = Cached(read, 0, of="number", timeout=0.001, clock=clock)

    assert [await value.get(), await value.get()] == [0, 0]
    assert (value.is_failing, len(calls)) == (True, 1)


async def test_failure_is_logged_once_and_recovers(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A value of before is not used."""
    errors: list[Exception] = []

    async def read() -> int:
        if errors:
            raise errors[0]
        return 1

    value = Cached(read, 0, of="number", clock=clock)
    results = [await value.get()]
    errors.append(OSError("down"))
    for _ in range(3):
        clock.advance(5)
        results.append(await value.get())
    errors.clear()
    value.clear()
    results.append(await value.get())

    assert results == [1, 0, 0, 0, 1]
    assert caplog.text.count("dashboard value unknown: value=number") == 1

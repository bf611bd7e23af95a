"""Checks: run side by side, each within its deadline."""

from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.to_thread
import pytest

from tokenpulse_mw.health.checks import Call, Check, Checks


async def good() -> bool:
    """Holds."""
    return True


async def bad() -> bool:
    """Does not hold."""
    return False


async def hanging() -> bool:
    """Never says."""
    await anyio.sleep_forever()
    return True


@pytest.mark.parametrize(
    ("check", "result"),
    [
        pytest.param(lambda: True, True, id="true"),
        pytest.param(lambda: False, False, id="false"),
        pytest.param(lambda: 1, True, id="truthy"),
        pytest.param(lambda: None, False, id="falsy"),
        pytest.param(good, True, id="async true"),
        pytest.param(bad, False, id="async false"),
        pytest.param(lambda: good(), True, id="awaitable true"),
        pytest.param(lambda: bad(), False, id="awaitable false"),
    ],
)
@pytest.mark.anyio
async def test_a_check_may_be_async_or_not(check: Check, result: bool) -> None:
    """It may also give an awaitable; what comes of it is taken as a bool."""
    results = await Checks({"only": check}, timeout=5).run()

    assert results == {"only": result}
    assert type(results["only"]) is bool


@pytest.mark.anyio
async def test_no_checks_have_no_results() -> None:
    """There is nothing to wait for."""
    assert await Checks({}, timeout=1).run() == {}


@pytest.mark.anyio
async def test_a_check_that_raises_has_failed_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names it and says why; the other checks still count."""

    def broken() -> bool:
        raise OSError("no disk")

    results = await Checks({"disk": broken, "other": good}, timeout=5).run()

    assert results == {"disk": False, "other": True}
    assert caplog.messages == ["health check 'disk' raised"]
    assert "OSError: no disk" in caplog.text


@pytest.mark.parametrize(
    "slow", [pytest.param(hanging, id="async"), pytest.param(lambda: hanging(), id="awaitable")]
)
@pytest.mark.anyio
async def test_a_check_that_hangs_takes_no_more_than_its_deadline(slow: Check) -> None:
    """It has failed then, and the checks beside it have not."""
    with anyio.fail_after(5):
        results = await Checks({"slow": slow, "quick": good}, timeout=0.01).run()

    assert results == {"slow": False, "quick": True}


@pytest.mark.anyio
async def test_a_check_that_blocks_its_thread_is_abandoned_at_its_deadline() -> None:
    """A blocking call cannot be cancelled, so it is no longer waited for."""
    release = threading.Event()

    with anyio.fail_after(5):
        results = await Checks({"blocking": release.wait}, timeout=0.01).run()
    release.set()

    assert results == {"blocking": False}


@pytest.mark.anyio
async def test_a_check_that_goes_on_blocking_takes_one_thread_for_all_probes() -> None:
    """It is not started again before it is done, and counts as failed until then."""
    started: list[threading.Event] = []
    release, ended = threading.Event(), threading.Event()

    def blocking() -> bool:
        started.append(release)
        release.wait()
        ended.set()
        return True

    checks = Checks({"blocking": blocking}, timeout=0.01)

    assert [await checks.run() for _ in range(5)] == [{"blocking": False}] * 5
    assert len(started) == 1
    release.set()
    with anyio.fail_after(5):
        while (await Checks({"blocking": blocking}, timeout=5).run()) != {"blocking": True}:
            pass
    assert ended.is_set()


@pytest.mark.anyio
async def test_probes_at_the_same_time_share_one_run() -> None:
    """A hundred probes do not take a hundred threads."""
    started: list[int] = []
    release = threading.Event()

    def slow() -> bool:
        started.append(1)
        return release.wait(5)

    checks = Checks({"slow": slow}, timeout=5)
    results: list[dict[str, bool]] = []

    async def probe() -> None:
        results.append(await checks.run())

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(probe)
        await anyio.to_thread.run_sync(release.set)

    assert results == [{"slow": True}] * 20
    assert len(started) == 1


@pytest.mark.anyio
async def test_a_probe_that_is_given_up_does_not_fail_the_others() -> None:
    """Whoever waited for its run begins another."""
    runs: list[anyio.Event] = []

    async def check() -> bool:
        runs.append(anyio.Event())
        if len(runs) == 1:
            await anyio.sleep_forever()
        return True

    checks = Checks({"check": check}, timeout=5)
    results: list[dict[str, bool]] = []

    async def probe() -> None:
        results.append(await checks.run())

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as given_up:
        given_up.start_soon(checks.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        given_up.cancel_scope.cancel()

    assert results == [{"check": True}]
    assert len(runs) == 2


def test_probes_of_different_event_loops_do_not_wait_for_each_other() -> None:
    """A loop that was closed in the middle of a run leaves nothing behind."""
    begun: list[bool] = []

    async def check() -> bool:
        begun.append(True)
        if len(begun) == 1:
            await anyio.sleep_forever()
        return True

    checks = Checks({"check": check}, timeout=5)
    abandoned = checks.run()
    loop = asyncio.new_event_loop()
    task = loop.create_task(abandoned)
    while not begun:
        loop.run_until_complete(asyncio.sleep(0))

    assert anyio.run(checks.run) == {"check": True}
    assert anyio.run(checks.run, backend="trio") == {"check": True}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


@pytest.mark.anyio
async def test_a_check_that_found_no_thread_is_tried_again() -> None:
    """One busy moment of the process does not make the service unready for ever."""
    checks = Checks({"quick": lambda: True}, timeout=0.05)
    threads = anyio.to_thread.current_default_thread_limiter()
    total, threads.total_tokens = threads.total_tokens, 1
    release = threading.Event()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: release.wait(5))
            await anyio.wait_all_tasks_blocked()
            assert await checks.run() == {"quick": False}
            release.set()
        assert await checks.run() == {"quick": True}
    finally:
        threads.total_tokens = total


@pytest.mark.anyio
async def test_checks_run_side_by_side() -> None:
    """A check can wait for what another one does."""
    met = anyio.Event()

    async def waits() -> bool:
        await met.wait()
        return True

    async def comes() -> bool:
        met.set()
        return True

    assert await Checks({"waits": waits, "comes": comes}, timeout=5).run() == {
        "waits": True,
        "comes": True,
    }


@pytest.mark.anyio
async def test_a_function_that_is_not_async_does_not_block_the_event_loop() -> None:
    """It runs in a worker thread, and an async one in the loop's own."""

    async def in_loop() -> int:
        return threading.get_ident()

    assert await Call(in_loop).result() == threading.get_ident()
    assert await Call(threading.get_ident).result() != threading.get_ident()

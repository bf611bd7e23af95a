"""Single-flight calls with a cached result."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from tokenpulse_mw.health.single_flight import Call, SingleFlight

from ..support.clock import FakeClock
from ..support.waiting import PATIENCE


def single_flight(
    function: Callable[[], Any],
    *,
    timeout: float = PATIENCE,
    ttl: float = 0.0,
    clock: FakeClock | None = None,
) -> SingleFlight[Any]:
    """Return a call whose result is that of the function, its error, or "late"."""
    return SingleFlight(
        function,
        read=lambda value: value,
        fail=lambda error: "late" if error is None else error,
        ttl=lambda result: ttl,
        timeout=timeout,
        clock=clock or FakeClock(),
    )


async def respond() -> str:
    """Return a result at once."""
    return "result"


class AsyncCallable:
    """Object with an async `__call__`."""

    async def __call__(self) -> int:
        return threading.get_ident()


@pytest.mark.parametrize(
    "function",
    [lambda: "result", respond, lambda: respond()],
    ids=["function", "async function", "awaitable"],
)
@pytest.mark.anyio
async def test_function_may_be_async_or_not(function: Callable[[], Any]) -> None:
    """A function may also return an awaitable."""
    assert await single_flight(function).get() == "result"


@pytest.mark.anyio
async def test_error_of_the_function_is_a_result() -> None:
    """Callers need not catch errors."""

    def broken() -> str:
        raise OSError("no disk")

    assert repr(await single_flight(broken).get()) == "OSError('no disk')"


@pytest.mark.anyio
async def test_result_is_cached_for_its_ttl(clock: FakeClock) -> None:
    """The function is called again only after that."""
    values = iter("abc")
    call = single_flight(lambda: next(values), ttl=10, clock=clock)

    cached = [await call.get(), await call.get()]
    clock.advance(9.9)
    cached.append(await call.get())
    clock.advance(0.1)

    assert cached == ["a", "a", "a"]
    assert await call.get() == "b"


@pytest.mark.anyio
async def test_concurrent_callers_share_one_call() -> None:
    """Twenty probes use one thread."""
    calls: list[int] = []
    release = threading.Event()

    def slow() -> bool:
        calls.append(1)
        return release.wait(PATIENCE)

    call, results = single_flight(slow), []

    async def probe() -> None:
        results.append(await call.get())

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert (results, calls) == ([True] * 20, [1])


@pytest.mark.anyio
async def test_cancelled_caller_does_not_cancel_the_call() -> None:
    """Other callers still get the result."""
    release, calls = anyio.Event(), []

    async def function() -> str:
        calls.append(1)
        await release.wait()
        return "result"

    call, results = single_flight(function), []

    async def probe() -> None:
        results.append(await call.get())

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as cancelled_callers:
        cancelled_callers.start_soon(call.get)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        cancelled_callers.cancel_scope.cancel()
        release.set()

    assert (results, calls) == (["result"], [1])


@pytest.mark.anyio
async def test_late_call_is_neither_cancelled_nor_repeated() -> None:
    """Callers get the late result until the call ends, and its value is discarded."""
    release, calls = anyio.Event(), []

    async def slow() -> str:
        calls.append(1)
        await release.wait()
        return f"result {len(calls)}"

    clock, results = FakeClock(), []
    call = single_flight(slow, timeout=0.01, ttl=10, clock=clock)

    with anyio.fail_after(PATIENCE):
        for _ in range(5):
            results.append(await call.get())
            clock.advance(10)
        assert (results, len(calls)) == (["late"] * 5, 1)
        release.set()
        await anyio.wait_all_tasks_blocked()
        assert await call.get() == "late"
        clock.advance(10)
        while (result := await call.get()) == "late":  # the machine was too slow
            clock.advance(10)
        assert result == f"result {len(calls)}"
        assert len(calls) >= 2


@pytest.mark.anyio
async def test_late_call_is_not_cancelled_repeatedly() -> None:
    """Repeated cancellation of a stubborn call would keep the event loop busy."""
    release, cancelled = anyio.Event(), []

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except anyio.get_cancelled_exc_class():
                cancelled.append(1)
                if len(cancelled) > 1000:  # the test has failed
                    raise
        return "result"

    call = single_flight(stubborn, timeout=0.01)

    with anyio.fail_after(PATIENCE):
        for _ in range(5):
            assert await call.get() == "late"
        release.set()
        await anyio.wait_all_tasks_blocked()
        while (result := await call.get()) == "late":  # the machine was too slow
            await anyio.wait_all_tasks_blocked()
        assert (result, cancelled) == ("result", [])


def test_call_that_waits_for_a_thread_uses_one_thread() -> None:
    """Cancelling it would not stop the thread, and the next call would start another."""
    release, calls = threading.Event(), []

    def blocking() -> str:
        calls.append(1)
        release.wait(PATIENCE)
        return "result"

    async def probes() -> list[str]:
        call = single_flight(lambda: asyncio.to_thread(blocking), timeout=0.05)
        try:
            return [await call.get() for _ in range(5)]
        finally:
            release.set()

    assert (asyncio.run(probes()), calls) == (["late"] * 5, [1])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_hanging_call_is_cancelled_when_the_event_loop_ends(backend: str) -> None:
    """The call can release its resources, and the process does not wait."""
    ended: list[int] = []

    async def hanging() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)
        return "result"

    assert anyio.run(single_flight(hanging, timeout=0.01).get, backend=backend) == "late"
    assert ended == [1]


class CustomBaseException(BaseException):
    """Error that `except Exception` does not catch."""


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), CustomBaseException()], ids=repr
)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "not async"])
@pytest.mark.anyio
async def test_base_exception_of_the_function_is_a_result(
    error: BaseException, is_async: bool
) -> None:
    """A library may call `sys.exit`; the gateway continues to serve."""

    async def ending() -> None:
        raise error

    def ending_in_a_thread() -> None:
        raise error

    assert await single_flight(ending if is_async else ending_in_a_thread).get() is error


@pytest.mark.anyio
async def test_blocking_call_uses_one_thread() -> None:
    """A blocking function is not called again before it has returned."""
    calls: list[int] = []
    release, ended = threading.Event(), threading.Event()

    def blocking() -> str:
        calls.append(1)
        release.wait(PATIENCE)
        ended.set()
        return "result"

    call = single_flight(blocking, timeout=0.01)

    with anyio.fail_after(PATIENCE):
        results = [await call.get() for _ in range(5)]
        assert (results, calls, ended.is_set()) == (["late"] * 5, [1], False)
        release.set()
        while await call.get() != "result":
            await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_call_does_not_need_a_worker_thread_of_the_application() -> None:
    """Blocked endpoints may use all worker threads."""
    threads = anyio.to_thread.current_default_thread_limiter()
    total, threads.total_tokens = threads.total_tokens, 1
    release = threading.Event()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: release.wait(PATIENCE))
            await anyio.wait_all_tasks_blocked()
            assert await single_flight(lambda: "result").get() == "result"
            release.set()
    finally:
        threads.total_tokens = total


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_blocking_call_does_not_prevent_process_exit(backend: str) -> None:
    """The process exits without a traceback."""
    program = (
        "import anyio, threading\n"
        "from tokenpulse_mw.health import Checks\n"
        "checks = Checks({'stuck': threading.Event().wait}, timeout=0.01)\n"
        f"print(anyio.run(checks.run, backend={backend!r})['stuck'].result.output)\n"
    )

    process = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE)

    assert (process.returncode, process.stdout) == (0, b"timeout\n")
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_call_that_ends_after_its_event_loop_raises_no_error(backend: str) -> None:
    """The result of the call is discarded."""
    release, threads = threading.Event(), []

    def blocking() -> bool:
        threads.append(threading.current_thread())
        return release.wait(PATIENCE)

    assert anyio.run(single_flight(blocking, timeout=0.01).get, backend=backend) == "late"
    release.set()
    threads[0].join()


def test_call_of_a_closed_event_loop_does_not_block_others() -> None:
    """A new event loop starts a new call."""
    calls: list[int] = []

    async def function() -> str:
        calls.append(1)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return "result"

    call = single_flight(function)
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(call.get())
    while not calls:
        loop.run_until_complete(asyncio.sleep(0))

    assert anyio.run(call.get) == "result"
    assert anyio.run(call.get, backend="trio") == "result"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(abandoned)
    loop.close()


@pytest.mark.anyio
async def test_only_sync_functions_run_in_a_thread() -> None:
    """Async functions may need the event loop, and others would block it."""

    async def in_loop() -> int:
        return threading.get_ident()

    here = threading.get_ident()
    assert await Call(in_loop).result() == here
    assert await Call(AsyncCallable()).result() == here
    assert await Call(threading.get_ident).result() != here

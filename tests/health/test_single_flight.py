"""One answer for all who ask at about the same time."""

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


def single(
    function: Callable[[], Any],
    *,
    timeout: float = PATIENCE,
    keep: float = 0.0,
    clock: FakeClock | None = None,
) -> SingleFlight[Any]:
    """Gives what the function gives, the error that it raises, or "late"."""
    return SingleFlight(
        function,
        read=lambda answer: answer,
        fail=lambda error: "late" if error is None else error,
        keep=lambda answer: keep,
        timeout=timeout,
        clock=clock or FakeClock(),
    )


async def answering() -> str:
    """Answers at once."""
    return "answer"


class Asked:
    """An object that can be asked asynchronously."""

    async def __call__(self) -> int:
        return threading.get_ident()


@pytest.mark.parametrize(
    "function",
    [lambda: "answer", answering, lambda: answering()],
    ids=["function", "async function", "awaitable"],
)
@pytest.mark.anyio
async def test_a_function_may_be_async_or_not(function: Callable[[], Any]) -> None:
    """It may also give an awaitable."""
    assert await single(function).get() == "answer"


@pytest.mark.anyio
async def test_what_a_function_raises_is_an_answer_too() -> None:
    """Nobody who asks has to catch anything."""

    def broken() -> str:
        raise OSError("no disk")

    assert repr(await single(broken).get()) == "OSError('no disk')"


@pytest.mark.anyio
async def test_an_answer_is_kept_for_its_time(clock: FakeClock) -> None:
    """Until then nobody is asked again."""
    answers = iter("abc")
    asked = single(lambda: next(answers), keep=10, clock=clock)

    first = [await asked.get(), await asked.get()]
    clock.advance(9.9)
    first.append(await asked.get())
    clock.advance(0.1)

    assert first == ["a", "a", "a"]
    assert await asked.get() == "b"


@pytest.mark.anyio
async def test_many_who_ask_at_once_share_one_call() -> None:
    """A hundred probes do not take a hundred threads."""
    calls: list[int] = []
    release = threading.Event()

    def slow() -> bool:
        calls.append(1)
        return release.wait(PATIENCE)

    asked, answers = single(slow), []

    async def probe() -> None:
        answers.append(await asked.get())

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        release.set()

    assert (answers, calls) == ([True] * 20, [1])


@pytest.mark.anyio
async def test_who_gives_up_does_not_stop_the_others() -> None:
    """The function goes on for whoever still waits."""
    release, calls = anyio.Event(), []

    async def function() -> str:
        calls.append(1)
        await release.wait()
        return "answer"

    asked, answers = single(function), []

    async def probe() -> None:
        answers.append(await asked.get())

    async with anyio.create_task_group() as tasks, anyio.create_task_group() as given_up:
        given_up.start_soon(asked.get)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        given_up.cancel_scope.cancel()
        release.set()

    assert (answers, calls) == (["answer"], [1])


@pytest.mark.anyio
async def test_what_is_late_goes_on_alone_and_holds_up_nobody() -> None:
    """It is not cancelled, and not called again before it is done; what it says late is nothing."""
    release, calls = anyio.Event(), []

    async def slow() -> str:
        calls.append(1)
        await release.wait()
        return f"answer {len(calls)}"

    clock, answers = FakeClock(), []
    asked = single(slow, timeout=0.01, keep=10, clock=clock)

    with anyio.fail_after(PATIENCE):
        for _ in range(5):
            answers.append(await asked.get())
            clock.advance(10)
        assert (answers, len(calls)) == (["late"] * 5, 1)
        release.set()
        await anyio.wait_all_tasks_blocked()
        assert await asked.get() == "late"
        clock.advance(10)
        while (answer := await asked.get()) == "late":  # the machine stood still
            clock.advance(10)
        assert answer == f"answer {len(calls)}"
        assert len(calls) >= 2


@pytest.mark.anyio
async def test_what_ignores_a_cancellation_is_not_cancelled_without_end() -> None:
    """It would be woken again and again, and leave the event loop no time for requests."""
    release, cancelled = anyio.Event(), []

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except anyio.get_cancelled_exc_class():
                cancelled.append(1)
                if len(cancelled) > 1000:  # it has been shown
                    raise
        return "answer"

    asked = single(stubborn, timeout=0.01)

    with anyio.fail_after(PATIENCE):
        for _ in range(5):
            assert await asked.get() == "late"
        release.set()
        await anyio.wait_all_tasks_blocked()
        while (answer := await asked.get()) == "late":  # the machine stood still
            await anyio.wait_all_tasks_blocked()
        assert (answer, cancelled) == ("answer", [])


def test_what_waits_for_a_thread_takes_one_thread() -> None:
    """A thread goes on when who waits for it is cancelled, and the next call takes another."""
    release, calls = threading.Event(), []

    def blocking() -> str:
        calls.append(1)
        release.wait(PATIENCE)
        return "answer"

    async def probes() -> list[str]:
        asked = single(lambda: asyncio.to_thread(blocking), timeout=0.05)
        try:
            return [await asked.get() for _ in range(5)]
        finally:
            release.set()

    assert (asyncio.run(probes()), calls) == (["late"] * 5, [1])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_hangs_is_cancelled_when_its_event_loop_ends(backend: str) -> None:
    """It can close what it has opened, and the process does not wait for it."""
    ended: list[int] = []

    async def hanging() -> str:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)
        return "answer"

    assert anyio.run(single(hanging, timeout=0.01).get, backend=backend) == "late"
    assert ended == [1]


class Ends(BaseException):
    """What is not caught by who catches every `Exception`."""


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), Ends()], ids=repr)
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "not async"])
@pytest.mark.anyio
async def test_a_function_that_would_end_the_process_has_failed(
    error: BaseException, is_async: bool
) -> None:
    """A library may call `sys.exit`: that is an answer too, and the gateway serves on."""

    async def ending() -> None:
        raise error

    def ending_in_a_thread() -> None:
        raise error

    assert await single(ending if is_async else ending_in_a_thread).get() is error


@pytest.mark.anyio
async def test_what_blocks_its_thread_takes_one_thread() -> None:
    """It is not called again before it is done."""
    calls: list[int] = []
    release, ended = threading.Event(), threading.Event()

    def blocking() -> str:
        calls.append(1)
        release.wait(PATIENCE)
        ended.set()
        return "answer"

    asked = single(blocking, timeout=0.01)

    with anyio.fail_after(PATIENCE):
        answers = [await asked.get() for _ in range(5)]
        assert (answers, calls, ended.is_set()) == (["late"] * 5, [1], False)
        release.set()
        while await asked.get() != "answer":
            await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
async def test_a_busy_application_takes_no_threads_away() -> None:
    """Its endpoints may all be blocked, and a check is still made."""
    threads = anyio.to_thread.current_default_thread_limiter()
    total, threads.total_tokens = threads.total_tokens, 1
    release = threading.Event()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, lambda: release.wait(PATIENCE))
            await anyio.wait_all_tasks_blocked()
            assert await single(lambda: "answer").get() == "answer"
            release.set()
    finally:
        threads.total_tokens = total


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_blocks_for_ever_does_not_keep_the_process(backend: str) -> None:
    """It ends when the application does, and says nothing of it."""
    program = (
        "import anyio, threading\n"
        "from tokenpulse_mw.health import Checks\n"
        "checks = Checks({'stuck': threading.Event().wait}, timeout=0.01)\n"
        f"print(anyio.run(checks.run, backend={backend!r})['stuck'].result.output)\n"
    )

    run = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=PATIENCE)

    assert (run.returncode, run.stdout) == (0, b"timeout\n")
    assert b"Traceback" not in run.stderr


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_ends_after_its_event_loop_disturbs_nobody(backend: str) -> None:
    """There is nobody left to be told."""
    release, threads = threading.Event(), []

    def blocking() -> bool:
        threads.append(threading.current_thread())
        return release.wait(PATIENCE)

    assert anyio.run(single(blocking, timeout=0.01).get, backend=backend) == "late"
    release.set()
    threads[0].join()


def test_event_loops_do_not_wait_for_each_other() -> None:
    """A loop that was closed in the middle of a call leaves nothing behind."""
    calls: list[int] = []

    async def function() -> str:
        calls.append(1)
        if len(calls) == 1:
            await anyio.sleep_forever()
        return "answer"

    asked = single(function)
    loop = asyncio.new_event_loop()
    abandoned = loop.create_task(asked.get())
    while not calls:
        loop.run_until_complete(asyncio.sleep(0))

    assert anyio.run(asked.get) == "answer"
    assert anyio.run(asked.get, backend="trio") == "answer"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(abandoned)
    loop.close()


@pytest.mark.anyio
async def test_only_what_is_not_async_leaves_the_event_loop() -> None:
    """It would block the loop; the others may need it."""

    async def in_loop() -> int:
        return threading.get_ident()

    here = threading.get_ident()
    assert await Call(in_loop).result() == here
    assert await Call(Asked()).result() == here
    assert await Call(threading.get_ident).result() != here

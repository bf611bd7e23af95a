"""Single-flight calls: concurrent callers share one run and its cached result."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """A function that runs once at a time, with a cached result.

    The function runs in a task of its own, so that no caller waits longer than its deadline. Until
    a late run ends, all callers get the late result, and the function is not called again. A late
    run is not cancelled, because a thread that it waits for would continue and the next call would
    start another. It is cancelled when the event loop ends.

    Args:
        function: The function, async or not; a function that is not async runs in a thread.
        read: Converts what the function returns; called in the event loop. An error counts as one
            of the function.
        fail: Returns the result if the function raises, including `SystemExit`, or is late (None).
        keep: Returns the seconds for which a result is cached.
        timeout: Seconds that the function may take.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        *,
        read: Callable[[Any], T],
        fail: Callable[[BaseException | None], T],
        keep: Callable[[T], float],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._function, self._read, self._fail, self._keep = function, read, fail, keep
        self._timeout, self._clock = timeout, clock
        self._run: _Run[T] | None = None
        self._kept: tuple[T, float] | None = None

    async def get(self) -> T:
        """Return the cached or a new result, within the deadline of its run."""
        if self._kept is not None and self._clock() < self._kept[1]:
            return self._kept[0]
        run = self._run
        if run is None or run.is_over or not run.is_of_this_loop:
            run = self._run = _Run[T](self._function, timeout=self._timeout)
            run.task = _begin(partial(self._go, run))
        with anyio.CancelScope(deadline=run.deadline):
            await run.ended.wait()
        return self.late() if run.answer is None else run.answer[0]

    def late(self) -> T:
        """Return the result of a late run."""
        return self._fail(None)

    async def _go(self, run: _Run[T]) -> None:
        try:
            answer = await self._asked(run)
            self._kept = answer, self._clock() + self._keep(answer)
            run.answer = (answer,)
        finally:
            run.ended.set()

    async def _asked(self, run: _Run[T]) -> T:
        try:
            given = await run.call.result()
            return self.late() if run.is_late else self._read(given)
        except BaseException as error:
            if isinstance(error, run.endings):
                raise
            return self._fail(error)  # any other error is a result


class _Run(Generic[T]):
    """One run of the function, shared by all callers on the same event loop.

    Attributes:
        deadline: Time from which it is late, by the event loop's clock.
        endings: Exceptions raised in it when the event loop ends or was closed.
        ended: Set when the run has ended.
        answer: The result in a tuple; None while it runs, or if its event loop was closed.
        task: The task, referenced so that it is not collected.
    """

    def __init__(self, function: Callable[[], Any], *, timeout: float) -> None:
        self.call = Call(function)
        self.deadline = anyio.current_time() + timeout
        self.endings = (anyio.get_cancelled_exc_class(), GeneratorExit)
        self.ended = anyio.Event()
        self.answer: tuple[T] | None = None
        self.task: object = None
        self._loop = current_token()

    @property
    def is_over(self) -> bool:
        """Return True if another run may start."""
        return self.ended.is_set() and not self.call.blocking

    @property
    def is_late(self) -> bool:
        return anyio.current_time() >= self.deadline

    @property
    def is_of_this_loop(self) -> bool:
        return self._loop == current_token()


class Call:
    """One call of a function; a function that is not async runs in a thread of its own.

    The shared worker threads may be busy with requests, and the process waits for them at its end,
    which a check that hangs must not delay.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._thread: threading.Thread | None = None
        self._outcome: Future[Any] = Future()

    @property
    def blocking(self) -> bool:
        """Return True if a thread still runs it."""
        return self._thread is not None and not self._outcome.done()

    async def result(self) -> Any:
        """Return what the function returns."""
        if _is_async(self._function):
            return await self._function()
        done = anyio.Event()
        thread = threading.Thread(
            target=self._in_thread, args=(done, current_token()), daemon=True, name="health check"
        )
        thread.start()
        self._thread = thread
        await done.wait()
        result = self._outcome.result()
        return await result if inspect.isawaitable(result) else result

    def _in_thread(self, done: anyio.Event, loop: EventLoopToken) -> None:
        try:
            self._outcome.set_result(self._function())
        except BaseException as error:  # noqa: BLE001 - raised again in the event loop
            self._outcome.set_exception(error)
        with suppress(anyio.RunFinishedError):  # the event loop has ended
            anyio.from_thread.run_sync(done.set, token=loop)


def _begin(work: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Start `work` in the background; keep a reference to the returned task."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # installed if it runs

        return trio.lowlevel.spawn_system_task(work)
    return loop.create_task(work())


def _is_async(function: Callable[[], Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )

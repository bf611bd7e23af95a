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
    """Function that runs once at a time, with a cached result.

    The function runs in a background task, so that no caller waits longer than the deadline. Until
    a late run ends, all callers get the late result, and the function is not called again. A late
    run is not cancelled: a thread that it waits for would continue, and the next call would start
    another thread. It is cancelled when the event loop ends.

    Args:
        function: The function, async or not; a function that is not async runs in a thread.
        read: Converts the returned value to a result, in the event loop. If it raises, the function
            has failed.
        fail: Returns the result of a failure: for the error that the function has raised, including
            `SystemExit`, or for None if it is late.
        ttl: Returns the seconds for which a result is cached.
        timeout: Seconds that the function may take.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        function: Callable[[], Any],
        *,
        read: Callable[[Any], T],
        fail: Callable[[BaseException | None], T],
        ttl: Callable[[T], float],
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._function, self._read, self._fail, self._ttl = function, read, fail, ttl
        self._timeout, self._clock = timeout, clock
        self._run: _Run[T] | None = None
        self._cached: tuple[T, float] | None = None  # with its expiry time

    async def get(self) -> T:
        """Return the cached or a new result, within the deadline of its run."""
        if self._cached is not None and self._clock() < self._cached[1]:
            return self._cached[0]
        run = self._run
        if run is None or run.is_finished or not run.is_of_this_loop:
            run = self._run = _Run[T](self._function, timeout=self._timeout)
            run.task = _start(partial(self._execute, run))
        with anyio.CancelScope(deadline=run.deadline):
            await run.ended.wait()
        return self.late() if run.result is None else run.result[0]

    def clear(self) -> None:
        """Discard the cached result."""
        self._cached = None

    def late(self) -> T:
        """Return the result of a late run."""
        return self._fail(None)

    async def _execute(self, run: _Run[T]) -> None:
        try:
            result = await self._result(run)
            self._cached = result, self._clock() + self._ttl(result)
            run.result = (result,)
        finally:
            run.ended.set()

    async def _result(self, run: _Run[T]) -> T:
        try:
            value = await run.call.result()
            return self.late() if run.is_late else self._read(value)
        except BaseException as error:
            if isinstance(error, run.cancellations):
                raise
            return self._fail(error)


class _Run(Generic[T]):
    """One run of the function, shared by all callers on the same event loop.

    Attributes:
        deadline: Time on the event loop's clock from which the run is late.
        cancellations: Exceptions raised in the run when the event loop ends or is closed.
        ended: Set when the run has ended.
        result: The result in a tuple; None during the run, or if its event loop was closed.
        task: Reference to the task, so that it is not garbage collected.
    """

    def __init__(self, function: Callable[[], Any], *, timeout: float) -> None:
        self.call = Call(function)
        self.deadline = anyio.current_time() + timeout
        self.cancellations = (anyio.get_cancelled_exc_class(), GeneratorExit)
        self.ended = anyio.Event()
        self.result: tuple[T] | None = None
        self.task: object = None
        self._loop = current_token()

    @property
    def is_finished(self) -> bool:
        """Return True if another run may start."""
        return self.ended.is_set() and not self.call.is_blocking

    @property
    def is_late(self) -> bool:
        return anyio.current_time() >= self.deadline

    @property
    def is_of_this_loop(self) -> bool:
        return self._loop == current_token()


class Call:
    """One call of a function; a function that is not async runs in a new daemon thread.

    anyio's worker threads may be busy with requests, and the process waits for them when it exits,
    so a hanging check would block the exit.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._thread: threading.Thread | None = None
        self._outcome: Future[Any] = Future()

    @property
    def is_blocking(self) -> bool:
        """Return True if a thread still runs the function."""
        return self._thread is not None and not self._outcome.done()

    async def result(self) -> Any:
        """Return the value that the function returns."""
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


def _start(work: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Start a background task, and return it; the caller must keep a reference."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # not a dependency, but installed if it runs this code

        return trio.lowlevel.spawn_system_task(work)
    return loop.create_task(work())


def _is_async(function: Callable[[], Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )

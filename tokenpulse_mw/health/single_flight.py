"""One answer for all who ask at about the same time."""

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
    """A function that is called once at a time, and whose last answer is kept for a while.

    The function runs on its own, so that no one who asks waits for longer than its deadline,
    whatever it does: all are told that it is late until it is done, and it is not called again
    before. It is not cancelled for that, as what it waits for may go on, such as a thread, and the
    next call would begin another; it is cancelled when the event loop ends.

    Args:
        function: What to ask, async or not; one that is not runs in a worker thread.
        read: Makes the answer of what the function gives; called in the event loop. What it
            raises counts as raised by the function.
        fail: Makes the answer where the function raised, be it `SystemExit`, or (None) is late.
        keep: Seconds for which an answer is kept.
        timeout: Seconds that the function may take; what it gives later does not count.
        clock: Gives the time in seconds.
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
        """The answer, kept or new; within the deadline of the run that gives it."""
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
        """The answer where there is none in time."""
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
            return self._fail(error)  # whatever it is, it is the answer


class _Run(Generic[T]):
    """One call of the function, for everyone who waits for it on the same event loop.

    Attributes:
        deadline: When it is late, by the event loop's clock.
        endings: What is raised in it when the event loop ends, or was closed.
        ended: Nobody is to wait for it any longer.
        answer: In a tuple; None while it runs, and where its event loop was closed before.
        task: What keeps it going.
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
        """Another one may begin."""
        return self.ended.is_set() and not self.call.blocking

    @property
    def is_late(self) -> bool:
        return anyio.current_time() >= self.deadline

    @property
    def is_of_this_loop(self) -> bool:
        return self._loop == current_token()


class Call:
    """One call of a function that may be async or not; that is not, runs in a thread of its own.

    The threads that an application shares may be busy with its requests, and are waited for when
    the process ends; a check that hangs for ever is not worth either.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._thread: threading.Thread | None = None
        self._outcome: Future[Any] = Future()

    @property
    def blocking(self) -> bool:
        """A thread is busy with it."""
        return self._thread is not None and not self._outcome.done()

    async def result(self) -> Any:
        """What the function gives."""
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
        except BaseException as error:  # noqa: BLE001 - it is told in the event loop
            self._outcome.set_exception(error)
        with suppress(anyio.RunFinishedError):  # nobody is there any more
            anyio.from_thread.run_sync(done.set, token=loop)


def _begin(work: Callable[[], Coroutine[Any, Any, None]]) -> object:
    """Begin `work`, which ends whenever it likes; keep what is given until it has."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio  # whoever runs on trio has it

        return trio.lowlevel.spawn_system_task(work)
    return loop.create_task(work())


def _is_async(function: Callable[[], Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        type(function).__call__
    )

"""Checks that readiness depends on, each within its deadline and none in the way of another."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread
from anyio.lowlevel import current_token

logger = logging.getLogger("tokenpulse_mw.health")

Check = Callable[[], bool | Awaitable[bool]]


class Checks:
    """Named checks, run side by side.

    Whoever asks while a check is running waits for that run, each within the deadline. A check
    that is still blocking its thread after its deadline has failed, and is not started again
    before it is done: checks that hang take a thread each, and no more.

    Args:
        checks: Functions, async or not, that give a bool.
        timeout: Seconds that each may take.

    Raises:
        ValueError: `timeout` is not above 0, or a check cannot be called.
    """

    def __init__(self, checks: Mapping[str, Check], *, timeout: float) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout!r}")
        for name, check in checks.items():
            if not callable(check):
                raise ValueError(
                    f"check {name!r} must be a function that gives a bool, got {check!r}"
                )
        self._checks = dict(checks)
        self._timeout = timeout
        self._runs: dict[str, _Run] = {}

    async def run(self) -> dict[str, bool]:
        """Which checks hold; one that raises, or is not done in time, does not."""
        results = dict.fromkeys(self._checks, False)

        async def run(name: str) -> None:
            with anyio.move_on_after(self._timeout):
                results[name] = await self._run(name)

        async with anyio.create_task_group() as tasks:
            for name in self._checks:
                tasks.start_soon(run, name)
        return results

    async def _run(self, name: str) -> bool:
        while (run := self._runs.get(name)) is not None and run.busy and run.is_of_this_loop:
            await run.ended.wait()
            if run.holds is not None or run.call.blocking:
                return bool(run.holds)
        run = self._runs[name] = _Run(Call(self._checks[name]))
        try:
            run.holds = bool(await run.call.result())
        except Exception:
            logger.exception("health check %r raised", name)
            run.holds = False
        finally:
            run.ended.set()
        return run.holds


class _Run:
    """One run of a check, for everyone who waits for it on the same event loop.

    Attributes:
        holds: What came of it; None while it runs, and where whoever ran it was cancelled.
    """

    def __init__(self, call: Call) -> None:
        self.call = call
        self.holds: bool | None = None
        self.ended = anyio.Event()
        self._loop = current_token()

    @property
    def busy(self) -> bool:
        return self.call.blocking or not self.ended.is_set()

    @property
    def is_of_this_loop(self) -> bool:
        return self._loop == current_token()


class Call:
    """One call of a function that may be async or not.

    Attributes:
        blocking: A worker thread is busy with it.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.blocking = False
        self._function = function

    async def result(self) -> Any:
        """What the function gives; called in a worker thread unless it is async."""
        if inspect.iscoroutinefunction(self._function):
            return await self._function()
        # In a tuple, since trio refuses to be given an awaitable by a worker thread.
        (result,) = await anyio.to_thread.run_sync(self._in_thread, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result

    def _in_thread(self) -> tuple[Any]:
        self.blocking = True
        try:
            return (self._function(),)
        finally:
            self.blocking = False

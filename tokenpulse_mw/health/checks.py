"""Checks that readiness depends on, each within its deadline and none in the way of another."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio
import anyio.to_thread

logger = logging.getLogger("tokenpulse_mw.health")

Check = Callable[[], bool | Awaitable[bool]]


class Checks:
    """Named checks, run side by side.

    A check that is no coroutine function runs in a worker thread. One that is still blocking its
    thread after its deadline is not started again until it is done, so that checks which hang
    take a thread each, and no more.

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
        self._overdue: dict[str, Call] = {}

    async def run(self) -> dict[str, bool]:
        """Which checks hold; one that raises, or is not done in time, does not."""
        results = dict.fromkeys(self._checks, False)

        async def run(name: str, check: Check) -> None:
            results[name] = await self._run(name, check)

        async with anyio.create_task_group() as tasks:
            for name, check in self._checks.items():
                tasks.start_soon(run, name, check)
        return results

    async def _run(self, name: str, check: Check) -> bool:
        late = self._overdue.get(name)
        if late is not None and late.blocking:
            return False
        call = Call(check)
        try:
            with anyio.move_on_after(self._timeout):
                return bool(await call.result())
        except Exception:
            logger.exception("health check %r raised", name)
        self._overdue[name] = call
        return False


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
        self.blocking = True
        # In a tuple, since trio refuses to be given an awaitable by a worker thread.
        (result,) = await anyio.to_thread.run_sync(self._in_thread, abandon_on_cancel=True)
        return await result if inspect.isawaitable(result) else result

    def _in_thread(self) -> tuple[Any]:
        try:
            return (self._function(),)
        finally:
            self.blocking = False

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


async def run_checks(checks: Mapping[str, Check], *, timeout: float) -> dict[str, bool]:
    """Run all checks side by side; one that raises or takes longer than `timeout` s has failed."""
    results = dict.fromkeys(checks, False)

    async def run(name: str, check: Check) -> None:
        try:
            with anyio.move_on_after(timeout):
                results[name] = bool(await call(check))
        except Exception:
            logger.exception("health check %r raised", name)

    async with anyio.create_task_group() as tasks:
        for name, check in checks.items():
            tasks.start_soon(run, name, check)
    return results


async def call(function: Callable[[], Any]) -> Any:
    """The result of a function that may be async; one that is not runs in a worker thread."""
    if inspect.iscoroutinefunction(function):
        return await function()
    # In a tuple, since trio refuses to be given an awaitable by a worker thread.
    (result,) = await anyio.to_thread.run_sync(lambda: (function(),), abandon_on_cancel=True)
    return await result if inspect.isawaitable(result) else result

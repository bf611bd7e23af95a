"""Calls of user code with a timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import anyio

# Called with the name of a component and its error.
Report = Callable[[str, Exception], None]

# Called with the name of a component that has succeeded.
Recovered = Callable[[str], None]


def ignored(_: str) -> None:
    """Ignore that a component has succeeded."""


class CancelledByCalleeError(Exception):
    """The called function raised a cancellation, such as one of a closed pool."""


async def call_with_timeout(seconds: float, call: Callable[[], Any]) -> Any:
    """Return the result of `call`, which may be async or not.

    Raises:
        TimeoutError: The call takes longer than `seconds`.
        CancelledByCalleeError: The call raises a cancellation, but this task is not cancelled. A
            cancellation would end the tasks of the caller.
        Exception: Any other error of `call`.
    """
    try:
        with anyio.fail_after(seconds):
            result = call()
            return await result if isawaitable(result) else result
    except anyio.get_cancelled_exc_class():
        if _is_cancelled():
            raise
        raise CancelledByCalleeError("the called function raised a cancellation") from None


def _is_cancelled() -> bool:
    """Return True if this task is cancelled; on trio there is no other cancellation."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or task.cancelling() > 0

"""Calls of other people's code, whose failures end there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any

import anyio

# Told who has failed, and with what.
Report = Callable[[str, Exception], None]


# Called with the same name when it has not failed.
Recovered = Callable[[str], None]


def ignored(_: str) -> None:
    """Do nothing about a part that has not failed."""


class CancelledByCalleeError(Exception):
    """What was called has cancelled itself, as what waits for a closed pool does."""


async def call_with_timeout(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` gives, which may be async or not.

    Raises:
        TimeoutError: It takes longer than `seconds`.
        AbandonedError: It raises the exception of a cancellation, though nobody has cancelled us:
            let through, it would end whatever is being done beside.
        Exception: Whatever else it raises.
    """
    try:
        with anyio.fail_after(seconds):
            given = call()
            return await given if isawaitable(given) else given
    except anyio.get_cancelled_exc_class():
        if _are_cancelled():
            raise
        raise CancelledByCalleeError("it was cancelled by somebody else") from None


def _are_cancelled() -> bool:
    """Whether it is this task that has been cancelled; on trio nothing else can be."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return True
    return task is None or task.cancelling() > 0

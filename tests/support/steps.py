"""Longest step of an event loop, in function calls, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from types import FrameType

import anyio
from anyio.lowlevel import checkpoint


class Steps:
    """Number of calls of Python functions between two turns of another task.

    Attributes:
        longest: Maximum number of calls in one step.
        total: Number of calls in all steps.
    """

    def __init__(self) -> None:
        self.longest = self.total = self._calls = 0

    def turn(self) -> None:
        """End a step."""
        self.longest = max(self.longest, self._calls)
        self.total += self._calls
        self._calls = 0

    def count(self, frame: FrameType, event: str, argument: object) -> None:
        """Count a call, as `sys.setprofile` reports it."""
        self._calls += event == "call"


async def steps_of(work: Callable[[], Awaitable[object]]) -> Steps:
    """Return the steps of `work`, measured by a concurrent task that is always ready to run."""
    steps = Steps()

    async def take_turns() -> None:
        while True:
            await checkpoint()
            steps.turn()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take_turns)
        await checkpoint()
        previous = sys.getprofile()
        sys.setprofile(steps.count)
        try:
            await work()
        finally:
            sys.setprofile(previous)
            steps.turn()
        tasks.cancel_scope.cancel()
    return steps

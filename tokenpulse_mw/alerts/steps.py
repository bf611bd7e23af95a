"""Work in bounded steps, between which the event loop runs other tasks.

A function that does work over many items is a generator: it yields after at most `STEP` items and
returns its result. It stays free of I/O and of the event loop; `in_steps` and `finish` run it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from anyio.lowlevel import checkpoint

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

STEP = 50  # items; most cost 5 to 40 microseconds each

Steps = Generator[None, None, _Result]


async def in_steps(
    steps: Steps[_Result], *, may_pause: Callable[[], bool] = lambda: True
) -> _Result:
    """Run `steps` and return the result, with a checkpoint after each step.

    Args:
        steps: The work. If the task is cancelled at a checkpoint, it is closed.
        may_pause: Return False to run the next step without a checkpoint.
    """
    try:
        while True:
            next(steps)
            if may_pause():
                await checkpoint()
    except StopIteration as stop:
        result: _Result = stop.value
        return result
    finally:
        steps.close()


def finish(steps: Steps[_Result]) -> _Result:
    """Run `steps` at once and return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: _Result = stop.value
            return result


def batches(items: Iterable[_Item], size: int = STEP) -> Iterator[list[_Item]]:
    """Yield `items` in lists of at most `size`."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def mapped(function: Callable[[_Item], _Result], items: Iterable[_Item]) -> Steps[list[_Result]]:
    """Return the results of `function` for all items."""
    results = list[_Result]()
    for batch in batches(items):
        results += map(function, batch)
        if len(batch) == STEP:
            yield
    return results

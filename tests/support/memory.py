"""What is left behind, in bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable


def held_after(times: int, work: Callable[[], object]) -> int:
    """The bytes that are held when `work` was done so often, and were not before."""
    tracemalloc.start()
    try:
        for _ in range(times):
            work()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

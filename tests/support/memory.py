"""Memory held by a repeated call."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable


def held_after(times: int, work: Callable[[], object]) -> int:
    """Return the additional bytes that are held after `work` was called `times` times."""
    tracemalloc.start()
    try:
        for _ in range(times):
            work()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

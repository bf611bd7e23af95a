"""Cost of a call, as a number of function calls instead of a time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def calls(work: Callable[[], object]) -> int:
    """Return the number of functions that `work` calls, including those written in C."""
    count = 0

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    previous = sys.getprofile()
    gc.disable()  # finalizers would be counted, too
    sys.setprofile(count_call)
    try:
        work()
    finally:
        sys.setprofile(previous)
        gc.enable()
    return count

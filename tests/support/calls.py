"""What work costs, counted and not timed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable


def calls(work: Callable[[], object]) -> int:
    """How many functions `work` calls, those of C included."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    former = sys.getprofile()
    gc.disable()  # or what others have called when it runs would be counted, too
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(former)
        gc.enable()
    return count

"""Times as they are given: numbers of seconds."""

from __future__ import annotations

import math
from typing import Any


def check_seconds(
    name: str, seconds: Any, *, zero: bool = False, longest: float | None = None
) -> None:
    """Refuse what nobody could wait for.

    Args:
        name: What it is called where it was given.
        seconds: What was given.
        zero: 0 is a time too.
        longest: The longest that there may be; without one, any that ends.

    Raises:
        ValueError: `seconds` is no number above 0, or more than `longest`.
    """
    if type(seconds) in (int, float):  # a bool is no time
        above = seconds >= 0 if zero else seconds > 0
        if above and (seconds < math.inf if longest is None else seconds <= longest):
            return
    least = ", 0 or more" if zero else " above 0"
    most = "" if longest is None else f" and at most {longest:g}"
    raise ValueError(f"{name} must be a number of seconds{least}{most}, got {seconds!r}")

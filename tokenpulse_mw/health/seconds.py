"""Times as they are given: numbers of seconds."""

from __future__ import annotations

import math


def check_seconds(name: str, seconds: object, *, zero: bool = False) -> None:
    """Refuse what nobody could wait for.

    Raises:
        ValueError: `seconds` is no finite number above 0; 0 itself is one where `zero` says so.
    """
    finite = isinstance(seconds, int | float) and 0 <= seconds < math.inf
    if not finite or (seconds == 0 and not zero):
        least = ", 0 or more" if zero else " above 0"
        raise ValueError(f"{name} must be a number of seconds{least}, got {seconds!r}")

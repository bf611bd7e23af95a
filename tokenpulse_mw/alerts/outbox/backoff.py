"""How long to wait before a sink is asked again."""

from __future__ import annotations

_FIRST = 1.0  # seconds
_LONGEST = 60.0


def backoff(failures: int, jitter: float) -> float:
    """Seconds to wait after so many failures in a row: twice as long each time, up to a minute.

    Args:
        failures: At least 1.
        jitter: From 0 to 1; those that failed together must not all come back together.
    """
    longest = min(_LONGEST, _FIRST * 2.0 ** min(failures - 1, 16))
    return longest * (0.5 + jitter / 2)

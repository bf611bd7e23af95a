"""Usage of rate limits that a store keeps over a restart of the gateway."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class LimitWindow(NamedTuple):
    """Usage of one key of a limit in its present window.

    Attributes:
        key: Encoded key, at most 1,024 bytes.
        used: Usage in the unit of the limit, less than 2**63.
        ends: End of the window, in seconds since the epoch.
    """

    key: bytes
    used: int
    ends: float


class LimitWindows(NamedTuple):
    """Stored windows of one limit.

    Attributes:
        windows: One window of each key: the one with the largest usage of all processes.
        processes: Processes whose windows these are.
    """

    windows: tuple[LimitWindow, ...]
    processes: tuple[str, ...]


def most_used(rows: Iterable[tuple[str, LimitWindow]]) -> LimitWindows:
    """Return the most used window of each key, from the rows of processes.

    Processes that count alone have counts of their own, so these are not added up: after a restart
    each process has at least what it had, and no process counts a request twice.
    """
    windows: dict[bytes, LimitWindow] = {}
    processes: dict[str, None] = {}
    for process, window in rows:
        processes[process] = None
        known = windows.get(window.key)
        if known is None or (known.used, known.ends) < (window.used, window.ends):
            windows[window.key] = window
    return LimitWindows(tuple(windows.values()), tuple(processes))

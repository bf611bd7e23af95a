"""Searches for the nearest of several byte strings, in time linear in its distance."""

from __future__ import annotations

from collections.abc import Sequence

_WINDOW = 256  # bytes searched first; then four times as many, and so on


def find_any(data: bytes, needles: Sequence[bytes], start: int) -> int:
    """Return the first position from `start` on that has one of `needles`, or -1.

    A search for each needle alone would read all of `data` each time if one of them is absent.
    """
    overlap, size = max(map(len, needles)) - 1, _WINDOW
    while start < len(data):
        end = start + size
        hits = [hit for needle in needles if (hit := data.find(needle, start, end)) >= 0]
        if hits:
            return min(hits)
        start, size = max(end - overlap, start + 1), size * 4
    return -1


def rfind_any(data: bytes | bytearray, needles: Sequence[bytes], start: int, end: int) -> int:
    """Return the last position between `start` and `end` that has one of `needles`, or -1."""
    overlap, size = max(map(len, needles)) - 1, _WINDOW
    while True:
        low = max(start, end - size)
        last = max([data.rfind(needle, low, end) for needle in needles])
        if last >= 0 or low == start:
            return last
        end, size = low + overlap, size * 4

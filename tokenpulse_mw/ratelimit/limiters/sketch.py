"""A count-min sketch of the windows that a full table has evicted.

It may overestimate the usage of a key; except after `clear`, it never underestimates it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Hashable
from mmap import ACCESS_COPY, mmap

_ROWS = 4
_MARK_BITS = 16
_MARK_MASK = (1 << _MARK_BITS) - 1
_SHARED_MARK = 0  # mark of a cell that several keys have written
_MAX_USED = (1 << 64 - _MARK_BITS) - 1


class WindowSketch:
    """Usage of any number of windows in a fixed amount of memory.

    A cell also stores a mark of its key until a second key writes it. So a key that was never
    saved is mistaken for others only if several keys have written each of its cells.

    Args:
        width: Cells per row, a power of two. More cells cause fewer collisions.
    """

    __slots__ = ("_ends", "_mask", "_salt", "_width", "_words")

    def __init__(self, *, width: int) -> None:
        self._width = width
        self._mask = width - 1
        self._salt = secrets.randbits(64)  # so that clients cannot choose keys that collide
        # The system provides each page, filled with zeros, when it is first used. So the request
        # that fills the table does not wait for all pages.
        self._ends = memoryview(_allocate(8 * width * _ROWS)).cast("d")
        self._words = memoryview(_allocate(8 * width * _ROWS)).cast("Q")  # usage, then the mark

    def save(self, key: Hashable, used: int, ends: float, now: float) -> None:
        """Store the usage of `key` in a window that ends at `ends`."""
        if not used:
            return
        mark, cells = self._cells_of(key)
        used = min(used, _MAX_USED)
        word = used << _MARK_BITS | mark
        ends_of, words = self._ends, self._words
        for cell in cells:
            until = ends_of[cell]
            if until <= now:
                ends_of[cell], words[cell] = ends, word
                continue
            stored = words[cell]
            new_mark = mark if stored & _MARK_MASK == mark else _SHARED_MARK
            words[cell] = max(stored >> _MARK_BITS, used) << _MARK_BITS | new_mark
            if ends > until:
                ends_of[cell] = ends

    def load(self, key: Hashable, now: float) -> tuple[int, float]:
        """Return an upper bound of the usage of `key`, and of the end of its window.

        The usage may be that of keys that share its cells. The result is (0, `now`) if the key
        was certainly not saved, or its window has ended.
        """
        mark, cells = self._cells_of(key)
        used, until = _MAX_USED, math.inf
        for cell in cells:
            ends, word = self._ends[cell], self._words[cell]
            if ends <= now or word & _MARK_MASK not in (mark, _SHARED_MARK):
                return 0, now
            if word >> _MARK_BITS < used:
                used = word >> _MARK_BITS
            if ends < until:
                until = ends
        return used, until

    def clear(self, key: Hashable) -> None:
        """Remove `key`: clear one cell, if possible one that no other key has written."""
        mark, cells = self._cells_of(key)
        smallest = min(
            cells, key=lambda cell: (self._words[cell] & _MARK_MASK != mark, self._words[cell])
        )
        self._ends[smallest] = 0.0

    def _cells_of(self, key: Hashable) -> tuple[int, tuple[int, int, int, int]]:
        """Return the mark of `key`, and its cell in each row."""
        mixed = hash((self._salt, key)) & 0xFFFF_FFFF_FFFF_FFFF
        # Kirsch and Mitzenmacher: two halves of one good hash suffice for any number of rows.
        step, mask, width = (mixed >> 32) | 1, self._mask, self._width
        return (mixed >> 48) or 1, (
            mixed & mask,
            width + (mixed + step & mask),
            2 * width + (mixed + 2 * step & mask),
            3 * width + (mixed + 3 * step & mask),
        )


def _allocate(size: int) -> mmap:
    """Return anonymous memory that is private to this process, also after a fork."""
    return mmap(-1, size, access=ACCESS_COPY)

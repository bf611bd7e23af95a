"""A count-min sketch of windows: what a full table remembers of the clients it let go.

It may think a client has asked more often than it has; unless told to forget, never less often.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Hashable
from mmap import ACCESS_COPY, mmap

_ROWS = 4
_MARK_BITS = 16
_MARKS = (1 << _MARK_BITS) - 1
_SEVERAL = 0  # the mark of a cell that more than one key was written to
_MOST_USED = (1 << 64 - _MARK_BITS) - 1


class WindowSketch:
    """Remembers, in fixed memory, how much each of any number of windows has used.

    Each cell also knows whose it is, as long as it is one key's only. So a key that was never
    remembered is mistaken for others only where all of its cells have been written by several.

    Args:
        width: Cells in each of the four rows; a power of two. More cells, fewer false memories.
    """

    __slots__ = ("_ends", "_mask", "_salt", "_width", "_words")

    def __init__(self, *, width: int) -> None:
        self._width = width
        self._mask = width - 1
        self._salt = secrets.randbits(64)  # so that nobody can choose keys that collide
        # Memory of the system's, which gives each page as zeros when it is first touched: the
        # request that fills the table does not pay for all of it.
        self._ends = memoryview(_pages(8 * width * _ROWS)).cast("d")
        self._words = memoryview(_pages(8 * width * _ROWS)).cast("Q")  # used, and the mark below

    def save(self, key: Hashable, used: int, ends: float, now: float) -> None:
        """Keep that `key` has used `used` in a window that ends at `ends`."""
        if not used:
            return
        mark, cells = self._place(key)
        used = min(used, _MOST_USED)
        word = used << _MARK_BITS | mark
        ends_of, words = self._ends, self._words
        for cell in cells:
            until = ends_of[cell]
            if until <= now:
                ends_of[cell], words[cell] = ends, word
                continue
            there = words[cell]
            whose = mark if there & _MARKS == mark else _SEVERAL
            words[cell] = max(there >> _MARK_BITS, used) << _MARK_BITS | whose
            if ends > until:
                ends_of[cell] = ends

    def load(self, key: Hashable, now: float) -> tuple[int, float]:
        """At most this much was used by `key`, in a window that ends no later than this.

        It may be what others used that share its cells. Gives (0, `now`) for a key that was
        surely not remembered, or whose window is over.
        """
        mark, cells = self._place(key)
        used, until = _MOST_USED, math.inf
        for cell in cells:
            ends, word = self._ends[cell], self._words[cell]
            if ends <= now or word & _MARKS not in (mark, _SEVERAL):
                return 0, now
            if word >> _MARK_BITS < used:
                used = word >> _MARK_BITS
            if ends < until:
                until = ends
        return used, until

    def clear(self, key: Hashable) -> None:
        """Remember nothing of `key`; one cell is enough for that, at best one of its own."""
        mark, cells = self._place(key)
        least = min(cells, key=lambda cell: (self._words[cell] & _MARKS != mark, self._words[cell]))
        self._ends[least] = 0.0

    def _place(self, key: Hashable) -> tuple[int, tuple[int, int, int, int]]:
        """The mark of `key`, and its cell in each row."""
        mixed = hash((self._salt, key)) & 0xFFFF_FFFF_FFFF_FFFF
        # Kirsch and Mitzenmacher: two halves of one good hash do for any number of rows.
        step, mask, width = (mixed >> 32) | 1, self._mask, self._width
        return (mixed >> 48) or 1, (
            mixed & mask,
            width + (mixed + step & mask),
            2 * width + (mixed + 2 * step & mask),
            3 * width + (mixed + 3 * step & mask),
        )


def _pages(size: int) -> mmap:
    """Anonymous memory of this process alone, also after a fork."""
    return mmap(-1, size, access=ACCESS_COPY)

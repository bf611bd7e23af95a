"""A count-min sketch of windows: what a full table remembers of the clients it let go.

It may think a client has asked more often than it has; unless told to forget, never less often.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Iterator
from mmap import ACCESS_COPY, mmap

_ROWS = 4


class WindowSketch:
    """Remembers, in fixed memory, how much each of any number of windows has used.

    Args:
        width: Cells in each of the four rows; a power of two. More cells, fewer false memories.
    """

    __slots__ = ("_ends", "_mask", "_salt", "_used", "_width")

    def __init__(self, *, width: int) -> None:
        self._width = width
        self._mask = width - 1
        self._salt = secrets.randbits(64)  # so that nobody can choose keys that collide
        # Memory of the system's, which gives each page as zeros when it is first touched: the
        # request that fills the table does not pay for all of it.
        self._used = memoryview(_pages(8 * width * _ROWS)).cast("Q")
        self._ends = memoryview(_pages(8 * width * _ROWS)).cast("d")

    def remember(self, key: Hashable, used: int, ends: float, now: float) -> None:
        """Keep that `key` has used `used` in a window that ends at `ends`."""
        for cell in self._cells(key):
            if self._ends[cell] <= now:
                self._used[cell], self._ends[cell] = used, ends
            else:
                self._used[cell] = max(self._used[cell], used)
                self._ends[cell] = max(self._ends[cell], ends)

    def recall(self, key: Hashable, now: float) -> tuple[int, float]:
        """At most this much was used by `key`, in a window that ends no later than this.

        It may be what others used that share its cells. Gives (0, `now`) for a key that was
        surely not remembered, or whose window is over.
        """
        cells = list(self._cells(key))
        until = min(self._ends[cell] for cell in cells)
        if until <= now:
            return 0, now
        return min(self._used[cell] for cell in cells), until

    def forget(self, key: Hashable) -> None:
        """Remember nothing of `key`; one cell is enough for that, so few others lose by it."""
        self._ends[min(self._cells(key), key=self._used.__getitem__)] = 0.0

    def _cells(self, key: Hashable) -> Iterator[int]:
        mixed = hash((self._salt, key)) & 0xFFFF_FFFF_FFFF_FFFF
        # Kirsch and Mitzenmacher: two halves of one good hash do for any number of rows.
        step = (mixed >> 32) | 1
        for row in range(_ROWS):
            yield row * self._width + ((mixed + row * step) & self._mask)


def _pages(size: int) -> mmap:
    """Anonymous memory of this process alone, also after a fork."""
    return mmap(-1, size, access=ACCESS_COPY)

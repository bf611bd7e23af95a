"""Sketches of the windows that a full table has evicted.

They may overestimate the usage of a key; except after `clear`, they never underestimate it.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Hashable
from mmap import ACCESS_COPY, mmap

_ROWS = 2
_MARK_BITS = 16
_MARK_MASK = (1 << _MARK_BITS) - 1
_HASH_MASK = (1 << 64) - 1
_SHARED_MARK = 0  # mark of a cell that several keys have written
_MAX_USED = (1 << 64 - _MARK_BITS) - 1
_CELLS_PER_KEY = 32  # for single keys
_WORDS = 3  # of such a cell: the hash of the key, its usage, and the end of its window
_SHARED_CELLS_PER_KEY = 20  # in each row


class WindowSketch:
    """A count-min sketch: usage of any number of windows in a fixed amount of memory.

    A cell also stores a mark of its key until a second key writes it. So a key that was never
    saved is mistaken for others only if several keys have written each of its cells.

    Args:
        width: Cells in each of two rows. More cells cause fewer collisions.
    """

    __slots__ = ("_ends", "_salt", "_width", "_words")

    def __init__(self, *, width: int) -> None:
        self._width = width
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

    def _cells_of(self, key: Hashable) -> tuple[int, tuple[int, ...]]:
        """Return the mark of `key`, and its cell in each row."""
        mixed = hash((self._salt, key)) & _HASH_MASK
        # Kirsch and Mitzenmacher: two halves of one good hash suffice for any number of rows.
        # `mixed % width` is left out, since it depends on the cells of `EvictedWindows`.
        step, width = (mixed >> 32) | 1, self._width
        return (mixed >> 48) or 1, (
            (mixed + step) % width,
            width + (mixed + 2 * step) % width,
        )


class EvictedWindows(WindowSketch):
    """Windows that a full table has evicted, in a fixed amount of memory.

    A key has two cells, which store a window exactly until it ends; those of ordinary traffic
    need only one. If both cells have windows of other keys, a window is stored in the count-min
    sketch.

    Args:
        max_keys: Size of the table.
    """

    __slots__ = ("_cell_ends", "_cell_used", "_cells", "_hashes", "_overflow_ends")

    def __init__(self, max_keys: int) -> None:
        super().__init__(width=_SHARED_CELLS_PER_KEY * max_keys)
        self._cells = _CELLS_PER_KEY * max_keys
        memory = memoryview(_allocate(8 * _WORDS * self._cells))
        # Views of the same cells, so that a cell is nearly always in one line of the CPU's cache.
        self._hashes = memory.cast("q")[::_WORDS]
        self._cell_used = memory.cast("Q")[1::_WORDS]
        self._cell_ends = memory.cast("d")[2::_WORDS]
        self._overflow_ends = 0.0  # end of the last window in the count-min sketch

    def save(self, key: Hashable, used: int, ends: float, now: float) -> None:
        """Store the usage of `key` in a window that ends at `ends`."""
        if not used:
            return
        if used > _MAX_USED:
            used = _MAX_USED
        hashed = hash((self._salt, key))
        hashes, ends_of = self._hashes, self._cell_ends
        cell = hashed % self._cells
        until = ends_of[cell]
        if until > now and hashes[cell] != hashed:
            cell ^= 1
            until = ends_of[cell]
            if until > now and hashes[cell] != hashed:
                if ends > self._overflow_ends:
                    self._overflow_ends = ends
                super().save(key, used, ends, now)
                return
        if until > now:  # a client can choose integers with equal hashes, so keep the maximum
            stored = self._cell_used[cell]
            if stored > used:
                used = stored
            if until > ends:
                ends = until
        else:
            hashes[cell] = hashed
        self._cell_used[cell] = used
        ends_of[cell] = ends

    def load(self, key: Hashable, now: float) -> tuple[int, float]:
        """Return an upper bound of the usage of `key`, and of the end of its window.

        The result is (0, `now`) if the key was certainly not saved, or its window has ended.
        """
        hashed = hash((self._salt, key))
        cell, hashes = hashed % self._cells, self._hashes
        if hashes[cell] == hashed and (ends := self._cell_ends[cell]) > now:
            return self._cell_used[cell], ends
        cell ^= 1
        if hashes[cell] == hashed and (ends := self._cell_ends[cell]) > now:
            return self._cell_used[cell], ends
        return super().load(key, now) if self._overflow_ends > now else (0, now)

    def clear(self, key: Hashable) -> None:
        """Remove `key`; keys that share its cells in the count-min sketch may lose usage."""
        hashed = hash((self._salt, key))
        cell = hashed % self._cells
        for own in (cell, cell ^ 1):
            if self._hashes[own] == hashed:
                self._cell_ends[own] = 0.0
        if self._overflow_ends:
            super().clear(key)


def _allocate(size: int) -> mmap:
    """Return anonymous memory that is private to this process, also after a fork."""
    return mmap(-1, size, access=ACCESS_COPY)

"""Table of the keys of a limiter, in a file that several processes map.

The table has sets of 8 places, and a key may be in one place of one set. The lock of the set covers
its places, and its cells for the keys that a full set has evicted. A process that is killed while
it writes leaves its place free or complete.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from struct import Struct
from typing import Any, NamedTuple

from ..encoding import encode_key
from ..limiters.fixed_window import Window
from ..limiters.gcra import Bucket
from ..limiters.limiter import sample_keys
from ..limiters.sketch import WindowSketch
from ..limiters.strategy import Strategy
from .file import HEADER_BYTES, ZoneFile
from .locks import set_requests

WAYS = 8  # places of a set
_MAX_WINDOWS = 10.0  # no state lasts longer: GCRA limits the debt of a key to this
_MAX_USED = 2**63
_ROWS, _CELLS = 4, 64  # of a set
_CELL_MASK = _CELLS - 1
_HASHES = Struct("<QQ")


class Address(NamedTuple):
    """Set of a key, its mark in the set, and the requests to lock and release the set."""

    set: int
    tag: int
    lock: bytes
    unlock: bytes


class Addresses:
    """Addresses of the keys that this process has used last, which are readable only here.

    Args:
        file: File of the table.
        max_keys: Keys whose addresses are stored.
    """

    def __init__(self, file: ZoneFile, max_keys: int) -> None:
        self._secret = file.secret
        self._sets = sets_for(max_keys)
        self._max_keys = max_keys
        self._addresses: OrderedDict[Hashable, Address] = OrderedDict()
        self.get = self._addresses.get

    def keys(self) -> list[Hashable]:
        """Return the keys whose addresses are stored."""
        return list(self._addresses)

    def sample(self, most: int) -> list[Hashable]:
        """Return at most `most` of the keys whose addresses are stored."""
        return sample_keys(self._addresses, most)

    def add(self, key: Hashable) -> Address:
        """Return the address of `key`, and store it.

        Raises:
            ValueError: `key` is of a type that differs between processes.
        """
        hashed = blake2b(encode_key(key), digest_size=16, key=self._secret).digest()
        tag, mixed = _HASHES.unpack(hashed)
        number = mixed % self._sets
        address = self._addresses[key] = Address(number, tag or 1, *set_requests(number))
        if len(self._addresses) > self._max_keys:
            self._addresses.popitem(last=False)
        return address


def sets_for(max_keys: int) -> int:
    """Return the number of sets that are half full with `max_keys` keys."""
    return max(-(-2 * max_keys // WAYS), 1)


class WindowTable:
    """Table of the windows or buckets of keys.

    Args:
        file: File of the table.
        max_keys: Number of keys that the table is made for.
        strategy: Strategy of the limiter.
    """

    def __init__(self, file: ZoneFile, max_keys: int, strategy: Strategy) -> None:
        self.file = file
        self.addresses = Addresses(file, max_keys)
        self._strategy = strategy
        self._is_bucket = strategy.extends_expiry
        self._horizon = strategy.window * (_MAX_WINDOWS if self._is_bucket else 1.0) + 1.0
        places = WAYS * sets_for(max_keys)
        start, step = HEADER_BYTES, 8 * places
        self._tags = file.words(start, places)
        self._ends = file.doubles(start + step, places)
        numbers = file.doubles if self._is_bucket else file.words
        self._used: Any = numbers(start + 2 * step, places)
        self._at = file.doubles(start + 3 * step, places)
        cells = sets_for(max_keys) * _ROWS * _CELLS
        start += 4 * step
        self._cells = SetCells(file.doubles(start, cells), file.words(start + 8 * cells, cells))

    @staticmethod
    def size(max_keys: int) -> int:
        """Return the size of the file."""
        return HEADER_BYTES + sets_for(max_keys) * (WAYS * 32 + _ROWS * _CELLS * 16)

    def count(self, now: float) -> int:
        """Return the number of keys whose window has not ended."""
        return sum(map(now.__lt__, self._ends.tolist()))

    def find(self, address: Address, now: float) -> tuple[int, Any]:
        """Return the place of a key, or -1, and its state: None if that is unused or has ended."""
        first = address.set * WAYS
        tags = self._tags[first : first + WAYS].tolist()
        if address.tag not in tags:
            return -1, None
        place = first + tags.index(address.tag)
        ends = self._ends[place]
        return place, self._state(place, ends) if now < ends <= now + self._horizon else None

    def load(self, address: Address, now: float) -> Any:
        """Return the state of an evicted key, or None."""
        state = self._strategy.load(self._cells, address, now)
        return state if state is not None and state.ends <= now + self._horizon else None

    def create(self, address: Address, place: int, state: Any, now: float) -> tuple[int, bool]:
        """Store the state of a key.

        Args:
            address: Address of the key.
            place: Its present place, or -1.
            state: The state.
            now: Monotonic seconds.

        Returns:
            The place, and True if another key was evicted from it.
        """
        first, evicts = address.set * WAYS, False
        if place < 0:
            ends = self._ends[first : first + WAYS].tolist()
            place, evicts = self._place(first, ends, now)
            if evicts:
                victim = address._replace(tag=self._tags[place])
                self._strategy.save(self._cells, victim, self._state(place, min(ends)), now)
        self._ends[place] = 0.0  # until it is complete
        self._tags[place] = address.tag
        self.write(place, state)
        return place, evicts

    def write(self, place: int, state: Any) -> None:
        """Store a changed state."""
        if self._is_bucket:  # a process that is killed in between leaves no lower level
            self._at[place] = state.at
            self._used[place] = state.level
        else:
            self._used[place] = min(state.used, _MAX_USED)
        self._ends[place] = state.ends

    def remove(self, address: Address, now: float) -> None:
        """Remove a key."""
        place, _ = self.find(address, now)
        if place >= 0:
            self._ends[place] = 0.0
        self._strategy.clear(self._cells, address, now)

    def clear(self) -> None:
        """Remove all keys."""
        for ends in (self._ends, self._cells.ends):
            ends[:] = memoryview(bytes(8 * len(ends))).cast("d")

    def _place(self, first: int, ends: Sequence[float], now: float) -> tuple[int, bool]:
        """Return the place for a new key, and True if the key there must be evicted."""
        latest = now + self._horizon
        for index, end in enumerate(ends):
            if not now < end <= latest:
                return first + index, False
        return first + ends.index(min(ends)), True

    def _state(self, place: int, ends: float) -> Any:
        if not self._is_bucket:
            return Window(ends, self._used[place], self._strategy.window)
        return Bucket(self._at[place], self._used[place], ends)


class SetCells(WindowSketch):
    """Sketches of the windows that full sets have evicted, with 4 rows of 64 cells for each set.

    Keys are addresses.

    Args:
        ends: Ends of the windows in the cells.
        words: Usage in the cells, and the mark of the key.
    """

    __slots__ = ("ends",)

    def __init__(self, ends: memoryview[float], words: memoryview[int]) -> None:
        self.ends = self._ends = ends
        self._words = words

    def _cells_of(self, key: Any) -> tuple[int, tuple[int, int, int, int]]:
        tag, first = key.tag, key.set * _ROWS * _CELLS
        step = (tag >> 32) | 1
        return (tag >> 48) or 1, (
            first + (tag & _CELL_MASK),
            first + _CELLS + (tag + step & _CELL_MASK),
            first + 2 * _CELLS + (tag + 2 * step & _CELL_MASK),
            first + 3 * _CELLS + (tag + 3 * step & _CELL_MASK),
        )

"""One file of rows, mapped into memory: what is added to a row is in the file at once."""

from __future__ import annotations

import errno
import mmap
import os
import weakref
from collections import Counter
from pathlib import Path
from typing import IO

from ..families import Family
from .contents import HEAD, contents, read_used
from .entries import INTEGER, Kind, Labels, packed, place, width

SMALLEST = 1 << 16  # bytes, prometheus_client's own
LARGEST = 1 << 30  # bytes; what is used must fit a 4-byte integer


class RowFile:
    """The rows of one kind of one worker; nobody else writes there.

    Rows that the file has already are kept, and handed out again when they are asked for. What is
    damaged in it is dropped, the whole rows before the damage are not.

    Args:
        path: Made when it is not there.
        kind: Of the families.

    Attributes:
        damage: What was wrong with the file that was found, or None.

    Raises:
        OSError: It cannot be opened, made or mapped.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        if not path.exists():
            _create(path)
        used = read_used(path)
        found, self._used, self.damage = contents(used, kind)
        self._places: dict[tuple[Family, Labels], slice] = {
            (row.family, row.labels): row.place for row in found
        }
        self._rows = Counter(row.family.name for row in found)
        self._path = path
        self._file = path.open("r+b", buffering=0)
        self.close = weakref.finalize(self, self._file.close)
        size = os.fstat(self._file.fileno()).st_size
        self._map(max(SMALLEST, -(-size // SMALLEST) * SMALLEST))
        if self.damage is not None:
            self._set_used(self._used)
            self._memory[INTEGER.size : HEAD] = _new_stamp()

    def row(self, family: Family, labels: Labels) -> memoryview[float] | None:
        """The row of `labels`, or None where there is none yet."""
        place = self._places.get((family, labels))
        return None if place is None else self._doubles[place]

    def rows(self, family: str) -> int:
        """How many rows there are of the family of this name."""
        return self._rows[family]

    def new_row(self, family: Family, labels: Labels) -> memoryview[float]:
        """Add a row of zeros.

        Rows that were handed out before stay what they are also when the file has to grow.

        Raises:
            OSError: The disk is full, or the file as large as it may be.
        """
        entries = packed(family, labels)
        start, end = self._used, self._used + len(entries)
        if end > LARGEST:
            raise OSError(errno.EFBIG, "a file of rows is full", self._file.name)
        if end > len(self._memory):
            self._map(-(-max(end, 2 * len(self._memory)) // SMALLEST) * SMALLEST)
        self._memory[start:end] = entries
        # Last: whoever reads the file, or finds it after a crash, sees whole rows only.
        self._set_used(end)
        count = width(family)
        where = place(start, len(entries) // count, count)
        self._places[(family, labels)] = where
        self._rows[family.name] += 1
        return self._doubles[where]

    def all(self) -> list[tuple[Family, Labels, memoryview[float]]]:
        """Return every row with its family and labels."""
        return [
            (family, labels, self._doubles[place])
            for (family, labels), place in self._places.items()
        ]

    def is_gone(self) -> bool:
        """Return True if the file was deleted, or replaced by another."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True
        except OSError:  # it may be there all the same
            return False

    def _map(self, size: int) -> None:
        _allocate(self._file, size)
        self._memory = mmap.mmap(self._file.fileno(), size)
        self._doubles = memoryview(self._memory).cast("d")

    def _set_used(self, end: int) -> None:
        self._used = end
        self._memory[: INTEGER.size] = INTEGER.pack(end)


def _create(path: Path) -> None:
    """Make an empty file of rows; it comes under its name only when it can be read."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb", buffering=0) as file:
            file.write(INTEGER.pack(HEAD) + _new_stamp())
            _allocate(file, SMALLEST)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _allocate(file: IO[bytes], size: int) -> None:
    """Grow `file` to `size` bytes, and reserve disk space for all of them.

    On a full disk, writing to memory that is mapped to a hole kills the process (SIGBUS). This
    raises OSError instead, and leaves the file as long as it was.
    """
    before = os.fstat(file.fileno()).st_size
    try:
        while (missing := size - file.seek(0, os.SEEK_END)) > 0:
            file.write(bytes(min(missing, SMALLEST)))
        _fill_holes(file, size)
    except OSError:
        file.truncate(before)
        raise


def _fill_holes(file: IO[bytes], size: int) -> None:
    """Reserve disk space for holes, which a file has that was copied as sparse."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
            raise


def _new_stamp() -> bytes:
    return os.urandom(HEAD - INTEGER.size)

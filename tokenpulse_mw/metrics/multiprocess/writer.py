"""What one worker process counts, in files that all workers of the folder can read."""

from __future__ import annotations

import errno
import logging
import mmap
import os
import tempfile
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from ...outages import Outage
from ..families import Family
from ..rows import OVERFLOW_VALUE, Labels, Row
from .entries import (
    HEAD,
    INTEGER,
    Kind,
    LabelPairs,
    as_text,
    contents,
    kind_of,
    packed,
    place,
    read_used,
    width,
)
from .slots import Slot, check_locks, take

_log = logging.getLogger("tokenpulse_mw.metrics")


class WorkerFiles:
    """Hands out rows that other processes see, one set of files for each process.

    Nothing is written before the first row is asked for. What a row holds then may have been
    counted by a worker that is dead.

    If the disk is full, new rows are lists of this process, which no scrape shows. `recover`
    writes them to the files when there is room. It also replaces files that were deleted.

    A forked child has files of its own. The rows that it inherited are its parent's, and must be
    asked for again.

    Args:
        folder: That of all workers together, PROMETHEUS_MULTIPROC_DIR.
        most: Rows that a family has in one worker's files; what exceeds them is folded into one.
        on_overflow: Told the family for each row that is asked for and folded. It may ask for rows.
        on_fork: Called in each forked child, to forget all rows there.

    Raises:
        ValueError: The folder is missing or cannot be written to, or files cannot be locked here.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        most: int = 2000,
        on_overflow: Callable[[Family], object] = lambda _: None,
        on_fork: Callable[[], object] = lambda: None,
    ) -> None:
        check_locks()
        self._folder = _checked(Path(folder))
        self._most = most
        self._on_overflow = on_overflow
        self._on_fork = on_fork
        self._outage = Outage(_log)
        self._unwritten: dict[tuple[Family, Labels], Row] = {}
        self._closed = False
        self._telling = False
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._files: dict[Kind, RowFile] = {}
        # A hook cannot be taken back, so it must not keep this object alive.
        os.register_at_fork(after_in_child=partial(in_child, weakref.ref(self)))

    def new_row(self, family: Family, labels: Labels) -> Row:
        """The row of `labels` in this worker's files, made of zeros when it is not there."""
        with self._lock:
            row, folded = self._row(family, as_text(labels))
        if folded and not self._telling:  # what tells of it, counts it in a row that may be folded
            self._telling = True
            try:
                self._on_overflow(family)
            finally:
                self._telling = False
        return row

    def recover(self) -> bool:
        """Write the rows that are only in memory, and replace files that were deleted.

        Call it where rows are counted, so that no count comes between.

        Returns:
            True if rows have moved: those handed out before must be asked for again.
        """
        with self._lock:
            lost = self._keep_deleted()
            written = self._write()
        return lost or written

    def close(self) -> None:
        """Give the files up, to be taken over by a worker that starts later.

        What was counted stays in them; gauges end. Rows handed out must not be used any more.
        """
        with self._lock:
            self._write()
            self._closed = True
            if self._slot is not None:
                with suppress(OSError):  # then whoever scrapes next removes it
                    self._slot.end_gauges()
            self._forget()

    def forked(self) -> None:
        """Let go of the parent's files, in a child that was forked just now."""
        # Another thread of the parent may have held the lock, and is not here to give it back.
        self._lock = threading.Lock()
        self._forget()
        self._on_fork()

    def _row(self, family: Family, labels: Labels) -> tuple[Row, bool]:
        """The row of `labels`, or the one that takes what there is no room for, and which it is."""
        unwritten = self._unwritten.get((family, labels))
        if unwritten is not None:
            return unwritten, False
        if self._closed:
            return [0.0] * width(family), False
        try:
            return self._written(family, labels)
        except OSError as error:
            self._failed(error)
            row = self._unwritten[family, labels] = [0.0] * width(family)
            return row, False

    def _written(self, family: Family, labels: Labels) -> tuple[Row, bool]:
        """Return the row of a file, and True if it is the one that takes the rest.

        Raises:
            OSError: The disk is full, or something else is wrong with it.
        """
        file = self._file(kind_of(family))
        row = file.row(family, labels)
        rest = (OVERFLOW_VALUE,) * len(labels)
        if row is not None or labels == rest or file.rows(family.name) < self._most:
            return row or file.new_row(family, labels), False
        return file.row(family, rest) or file.new_row(family, rest), True

    def _write(self) -> bool:
        """Add the rows that are only in memory to those of the files, as far as there is room."""
        moved = False
        for (family, labels), counted in list(self._unwritten.items()):
            try:
                row, _ = self._written(family, labels)
            except OSError as error:
                self._failed(error)
                return moved
            for index, amount in enumerate(counted):
                row[index] += amount
            del self._unwritten[family, labels]
            moved = True
        self._outage.recovered("all that this process counts is in the scrapes again")
        return moved

    def _keep_deleted(self) -> bool:
        """Take what deleted files held back into memory."""
        gone = [kind for kind, file in self._files.items() if file.is_gone()]
        for kind in gone:
            file = self._files.pop(kind)
            self._unwritten |= {(family, labels): list(row) for family, labels, row in file.all()}
            for _, _, row in file.all():  # a file that comes back must not count them again
                row[:] = memoryview(bytes(8 * len(row))).cast("d")
            file.close()
        if gone and not self._files and self._slot is not None:
            self._slot.close()
            self._slot = None
        if gone:
            self._failed(FileNotFoundError(errno.ENOENT, "deleted while in use", str(self._folder)))
        return bool(gone)

    def _file(self, kind: Kind) -> RowFile:
        file = self._files.get(kind)
        if file is None:
            if self._slot is None:
                self._folder.mkdir(exist_ok=True)
                self._slot = take(self._folder)
            path = self._slot.path(kind)
            file = self._files[kind] = RowFile(path, kind)
            if file.damage is not None:
                _log.warning("the end of %s is damaged and dropped: %s", path, file.damage)
        return file

    def _failed(self, error: OSError) -> None:
        self._outage.failed("a part of what this process counts is in no scrape: %s", error)

    def _forget(self) -> None:
        for file in self._files.values():
            file.close()
        self._files, self._unwritten = {}, {}
        if self._slot is not None:
            self._slot.close()
        self._slot = None


def in_child(files: weakref.ref[WorkerFiles]) -> None:
    """What each forked child does with the files it inherited, if they are still in use."""
    mine = files()
    if mine is not None:
        mine.forked()


def _checked(folder: Path) -> Path:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder.absolute()
    except OSError as error:
        raise ValueError(
            f"the metrics folder of several workers must be a folder that exists and can be "
            f"written to, got {str(folder)!r} ({error}): make it before the workers start, and "
            "name it in PROMETHEUS_MULTIPROC_DIR"
        ) from None


MIN_FILE_BYTES = 1 << 16  # bytes, prometheus_client's own


MAX_FILE_BYTES = 1 << 30  # bytes; what is used must fit a 4-byte integer


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
        self._places: dict[tuple[Family, LabelPairs], slice] = {
            (row.family, row.labels): row.place for row in found
        }
        self._rows = Counter(row.family.name for row in found)
        self._path = path
        self._file = path.open("r+b", buffering=0)
        self.close = weakref.finalize(self, self._file.close)
        size = os.fstat(self._file.fileno()).st_size
        self._map(max(MIN_FILE_BYTES, -(-size // MIN_FILE_BYTES) * MIN_FILE_BYTES))
        if self.damage is not None:
            self._set_used(self._used)
            self._memory[INTEGER.size : HEAD] = _new_stamp()

    def row(self, family: Family, labels: LabelPairs) -> memoryview[float] | None:
        """The row of `labels`, or None where there is none yet."""
        place = self._places.get((family, labels))
        return None if place is None else self._doubles[place]

    def rows(self, family: str) -> int:
        """How many rows there are of the family of this name."""
        return self._rows[family]

    def new_row(self, family: Family, labels: LabelPairs) -> memoryview[float]:
        """Add a row of zeros.

        Rows that were handed out before stay what they are also when the file has to grow.

        Raises:
            OSError: The disk is full, or the file as large as it may be.
        """
        entries = packed(family, labels)
        start, end = self._used, self._used + len(entries)
        if end > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, "a file of rows is full", self._file.name)
        if end > len(self._memory):
            self._map(-(-max(end, 2 * len(self._memory)) // MIN_FILE_BYTES) * MIN_FILE_BYTES)
        self._memory[start:end] = entries
        # Last: whoever reads the file, or finds it after a crash, sees whole rows only.
        self._set_used(end)
        count = width(family)
        where = place(start, len(entries) // count, count)
        self._places[(family, labels)] = where
        self._rows[family.name] += 1
        return self._doubles[where]

    def all(self) -> list[tuple[Family, LabelPairs, memoryview[float]]]:
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
            _allocate(file, MIN_FILE_BYTES)
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
            file.write(bytes(min(missing, MIN_FILE_BYTES)))
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

"""Rows of one worker process in files that all workers can read."""

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
    HEAD_BYTES,
    INTEGER,
    Kind,
    LabelValues,
    as_text,
    file_kind,
    pack_row,
    parse_rows,
    read_used,
    value_slice,
)
from .slots import Slot, acquire_slot, check_locks, folder_variable

_log = logging.getLogger("tokenpulse_mw.metrics")

_KINDS: tuple[Kind, ...] = ("counter", "histogram", "gauge")
MIN_FILE_BYTES = 1 << 16  # as in prometheus_client
MAX_FILE_BYTES = 1 << 30  # the header states the used bytes as a 4-byte integer


class WorkerFiles:
    """Files of this worker process, which hold its rows.

    Nothing is written before the first row is requested. A row may contain the counts of an earlier
    worker with the same slot.

    If the disk is full, new rows are kept in memory and are missing from scrapes. `recover` writes
    them to the files when there is space, and replaces deleted files.

    A forked child uses other files than its parent, and must request its rows again.

    Args:
        folder: Folder shared by all workers, PROMETHEUS_MULTIPROC_DIR.
        max_series: Maximum number of rows per family; further label sets share one row.
        on_overflow: Called with the family for each request of a row that is not available. It may
            request rows itself.
        on_fork: Called in each forked child to remove the inherited rows.

    Raises:
        ValueError: The folder is missing or not writable, or the system does not support `flock`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        max_series: int = 2000,
        on_overflow: Callable[[Family], object] = lambda _: None,
        on_fork: Callable[[], object] = lambda: None,
    ) -> None:
        check_locks()
        self._folder = _check_folder(Path(folder))
        self._max_series = max_series
        self._on_overflow = on_overflow
        self._on_fork = on_fork
        self._outage = Outage(_log)
        self._unwritten: dict[tuple[Family, Labels], Row] = {}
        self._closed = False
        self._reports_overflow = False
        self._lock = threading.Lock()
        self._slot: Slot | None = None
        self._files: dict[Kind, RowFile] = {}
        # A hook cannot be unregistered, so it must not keep this object alive.
        os.register_at_fork(after_in_child=partial(after_fork_in_child, weakref.ref(self)))

    def new_row(self, family: Family, labels: Labels) -> Row:
        """Return the row of `labels`; create it with zeros if it does not exist."""
        with self._lock:
            row, is_overflow = self._row(family, as_text(labels))
        # The callback requests the row of the overflow counter, which may overflow as well.
        if is_overflow and not self._reports_overflow:
            self._reports_overflow = True
            try:
                self._on_overflow(family)
            finally:
                self._reports_overflow = False
        return row

    def rows(self) -> dict[Family, dict[LabelValues, Row]]:
        """Return the rows of the files of this worker, which are created if they are missing.

        Rows that are only in memory are included. A file that cannot be created has no rows.
        """
        with self._lock:
            rows: dict[Family, dict[LabelValues, Row]] = {}
            for kind in _KINDS:
                with suppress(OSError):
                    for family, labels, row in self._file(kind).rows():
                        rows.setdefault(family, {})[labels] = row
            for (family, labels), unwritten in self._unwritten.items():
                rows.setdefault(family, {})[labels] = unwritten
        return rows

    def recover(self) -> bool:
        """Write the rows that are only in memory, and replace deleted files.

        Call it in the thread that counts, so that no count is lost in between.

        Returns:
            True if rows have moved: rows returned before must be requested again.
        """
        with self._lock:
            rescued = self._rescue_deleted()
            written = self._write()
        return rescued or written

    def close(self) -> None:
        """Close the files and release the slot to the next worker.

        Counters and histograms stay in the files, gauges are removed. Rows returned before must not
        be used again.
        """
        with self._lock:
            self._write()
            self._closed = True
            if self._slot is not None:
                with suppress(OSError):  # the next scrape removes them
                    self._slot.end_gauges()
            self._drop_files()

    def reset_after_fork(self) -> None:
        """Drop the files of the parent in a forked child."""
        # A thread of the parent, which does not exist here, may have held the lock.
        self._lock = threading.Lock()
        self._drop_files()
        self._on_fork()

    def _row(self, family: Family, labels: Labels) -> tuple[Row, bool]:
        """Return the row of `labels` or the overflow row, and True if it is the overflow row."""
        unwritten = self._unwritten.get((family, labels))
        if unwritten is not None:
            return unwritten, False
        if self._closed:
            return [0.0] * family.width, False
        try:
            return self._row_in_file(family, labels)
        except OSError as error:
            self._failed(error)
            row = self._unwritten[family, labels] = [0.0] * family.width
            return row, False

    def _row_in_file(self, family: Family, labels: Labels) -> tuple[Row, bool]:
        """Return the row of a file, and True if it is the overflow row.

        Raises:
            OSError: The file cannot be written, for example because the disk is full.
        """
        file = self._file(file_kind(family))
        row = file.row(family, labels)
        overflow = (OVERFLOW_VALUE,) * len(labels)
        if row is not None or labels == overflow or file.count(family.name) < self._max_series:
            return row or file.new_row(family, labels), False
        return file.row(family, overflow) or file.new_row(family, overflow), True

    def _write(self) -> bool:
        """Add the rows that are only in memory to the files until the disk is full."""
        moved = False
        for (family, labels), amounts in list(self._unwritten.items()):
            try:
                row, _ = self._row_in_file(family, labels)
            except OSError as error:
                self._failed(error)
                return moved
            for index, amount in enumerate(amounts):
                row[index] += amount
            del self._unwritten[family, labels]
            moved = True
        self._outage.recovered("metrics of this process are complete in scrapes again")
        return moved

    def _rescue_deleted(self) -> bool:
        """Copy the rows of deleted files, which are still mapped, to memory."""
        deleted = [kind for kind, file in self._files.items() if file.is_deleted()]
        for kind in deleted:
            file = self._files.pop(kind)
            self._unwritten |= {(family, labels): list(row) for family, labels, row in file.rows()}
            for _, _, row in file.rows():  # a file that is restored must not count them twice
                row[:] = memoryview(bytes(8 * len(row))).cast("d")
            file.close()
        if deleted and not self._files and self._slot is not None:
            self._slot.close()
            self._slot = None
        if deleted:
            self._failed(FileNotFoundError(errno.ENOENT, "deleted while in use", str(self._folder)))
        return bool(deleted)

    def _file(self, kind: Kind) -> RowFile:
        file = self._files.get(kind)
        if file is None:
            if self._slot is None:
                self._folder.mkdir(exist_ok=True)
                self._slot = acquire_slot(self._folder)
            path = self._slot.path(kind)
            file = self._files[kind] = RowFile(path, kind)
            if file.damage is not None:
                _log.warning("dropped damaged rows: file=%s error=%s", path, file.damage)
        return file

    def _failed(self, error: OSError) -> None:
        self._outage.failed("metrics of this process are incomplete in scrapes: error=%s", error)

    def _drop_files(self) -> None:
        for file in self._files.values():
            file.close()
        self._files, self._unwritten = {}, {}
        if self._slot is not None:
            self._slot.close()
        self._slot = None


def after_fork_in_child(reference: weakref.ref[WorkerFiles]) -> None:
    """Drop the inherited files, if they are still in use."""
    files = reference()
    if files is not None:
        files.reset_after_fork()


def _check_folder(folder: Path) -> Path:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder.absolute()
    except OSError as error:
        raise ValueError(
            f"{folder_variable()} must be a writable folder, got {str(folder)!r} ({error}); "
            "create it before the workers start"
        ) from None


class RowFile:
    """File with the rows of one kind of one worker, its only writer.

    Existing rows are kept up to the first damage; the rest is dropped.

    Args:
        path: Path of the file; created if missing.
        kind: Kind of the families.

    Attributes:
        damage: Damage of the existing file, or None.

    Raises:
        OSError: The file cannot be opened, created or mapped.
    """

    def __init__(self, path: Path, kind: Kind) -> None:
        if not path.exists():
            _create(path)
        used = read_used(path)
        rows, self._used, self.damage = parse_rows(used, kind)
        self._slices: dict[tuple[Family, LabelValues], slice] = {
            (row.family, row.labels): row.values for row in rows
        }
        self._counts = Counter(row.family.name for row in rows)
        self._path = path
        self._file = path.open("r+b", buffering=0)
        self.close = weakref.finalize(self, self._file.close)
        size = os.fstat(self._file.fileno()).st_size
        self._map(max(MIN_FILE_BYTES, -(-size // MIN_FILE_BYTES) * MIN_FILE_BYTES))
        if self.damage is not None:
            self._set_used(self._used)
            self._memory[INTEGER.size : HEAD_BYTES] = _new_stamp()

    def row(self, family: Family, labels: LabelValues) -> memoryview[float] | None:
        """Return the row of `labels`, or None if it does not exist."""
        values = self._slices.get((family, labels))
        return None if values is None else self._doubles[values]

    def count(self, family: str) -> int:
        """Return the number of rows of the family with this name."""
        return self._counts[family]

    def new_row(self, family: Family, labels: LabelValues) -> memoryview[float]:
        """Add a row of zeros; rows returned before stay valid if the file grows.

        Raises:
            OSError: The disk is full, or the file has reached its maximum size.
        """
        entries = pack_row(family, labels)
        start, end = self._used, self._used + len(entries)
        if end > MAX_FILE_BYTES:
            raise OSError(errno.EFBIG, "metrics file has reached its maximum size", self._file.name)
        if end > len(self._memory):
            self._map(-(-max(end, 2 * len(self._memory)) // MIN_FILE_BYTES) * MIN_FILE_BYTES)
        self._memory[start:end] = entries
        # Written last: a reader, also after a crash, finds only complete rows.
        self._set_used(end)
        values = value_slice(start, len(entries) // family.width, family.width)
        self._slices[family, labels] = values
        self._counts[family.name] += 1
        return self._doubles[values]

    def rows(self) -> list[tuple[Family, LabelValues, memoryview[float]]]:
        """Return every row with its family and labels."""
        return [
            (family, labels, self._doubles[values])
            for (family, labels), values in self._slices.items()
        ]

    def is_deleted(self) -> bool:
        """Return True if the file was deleted or replaced by another."""
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True
        except OSError:  # unknown, so continue to use it
            return False

    def _map(self, size: int) -> None:
        _allocate(self._file, size)
        self._memory = mmap.mmap(self._file.fileno(), size)
        self._doubles = memoryview(self._memory).cast("d")

    def _set_used(self, end: int) -> None:
        self._used = end
        self._memory[: INTEGER.size] = INTEGER.pack(end)


def _create(path: Path) -> None:
    """Create an empty file; rename it to `path` only when it is complete."""
    new = path.with_suffix(".new")
    try:
        with new.open("wb", buffering=0) as file:
            file.write(INTEGER.pack(HEAD_BYTES) + _new_stamp())
            _allocate(file, MIN_FILE_BYTES)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _allocate(file: IO[bytes], size: int) -> None:
    """Grow `file` to `size` bytes, and reserve disk space for all of them.

    On a full disk, a write to a mapped hole kills the process with SIGBUS.

    Raises:
        OSError: The disk is full; the file keeps its previous size.
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
    """Reserve disk space for the holes of a sparse file."""
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # unsupported by the file system
            raise


def _new_stamp() -> bytes:
    return os.urandom(HEAD_BYTES - INTEGER.size)

"""What one worker process counts, in files that all workers of the folder can read."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from ...outages import Outage
from ..families import Family
from ..rows import OVERFLOW_VALUE, Labels, Row
from .entries import Kind, as_text, kind_of, width
from .row_file import RowFile
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

"""Connection of a limiter to its file, which is reopened after a failure."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from ...outages import Outage
from .file import Shape, ZoneFile, check_path, open_file

_log = logging.getLogger("tokenpulse_mw.ratelimit")

_CHECK_SECONDS = 1.0  # between two checks that the file is at its path, or tries to open it
_START_WAIT = 5.0  # seconds to wait for other workers that create their files
_WAIT = 0.01  # while requests are served


class _Table(Protocol):
    @property
    def file(self) -> ZoneFile: ...


_T = TypeVar("_T", bound=_Table)


class Connection(Generic[_T]):
    """Table in a file; None while the file cannot be used.

    Args:
        path: Path of the file.
        shape: Settings of the limiter.
        size: Size of the file in bytes.
        new_table: Returns the table in an opened file.
        on_change: Called after the table was replaced or lost.
        on_fork: Called in each forked child, whose table is lost.

    Attributes:
        path: Absolute path of the file.

    Raises:
        ValueError: The file cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        shape: Shape,
        size: int,
        *,
        new_table: Callable[[ZoneFile], _T],
        on_change: Callable[[], object],
        on_fork: Callable[[], object],
    ) -> None:
        self.path = check_path(path)
        self._shape = shape
        self._size = size
        self._new_table = new_table
        self._on_change = on_change
        self._on_fork = on_fork
        self._outage = Outage(_log)
        self._check_at = -math.inf
        self._table: _T | None = None
        try:
            self._table = self._open(wait=_START_WAIT)
        except OSError as error:
            raise ValueError(
                f"path must be a file that can be created and locked, got {str(self.path)!r}: "
                f"{error.strerror}"
            ) from None
        os.register_at_fork(after_in_child=partial(_after_fork, weakref.ref(self)))

    def table(self, now: float) -> _T | None:
        """Return the table, or None if the file cannot be used.

        Args:
            now: Monotonic seconds. About once a second, the file is compared with that at its path.
        """
        table = self._table
        if now >= self._check_at or (table is not None and not table.file.is_whole()):
            return self._check(now)
        return table

    def failed(self, error: OSError | ValueError) -> None:
        """Stop to use the file until the next check, and log a line if it is due."""
        self._close()
        self._outage.failed(
            "limit is not shared with other workers: path=%s error=%s", self.path, error
        )

    def reset_after_fork(self) -> None:
        """Close the file of the parent in a forked child, which then opens it again."""
        self._close()
        self._check_at = -math.inf
        self._on_fork()

    def _check(self, now: float) -> _T | None:
        self._check_at = now + _CHECK_SECONDS
        table = self._table
        try:
            if table is not None and not table.file.is_current():
                self.failed(OSError("the file was deleted or replaced"))
            elif table is not None and not table.file.is_whole():
                self.failed(OSError("the file was truncated"))
            if self._table is None:
                self._table = self._open()
                self._on_change()
                self._outage.recovered(
                    "limit is shared with other workers again: path=%s", self.path
                )
        except (OSError, ValueError) as error:
            self.failed(error)
        return self._table

    def _open(self, *, wait: float = _WAIT) -> _T:
        return self._new_table(open_file(self.path, self._shape, self._size, wait=wait))

    def _close(self) -> None:
        if self._table is not None:
            self._table.file.close()
            self._table = None
            self._on_change()


def _after_fork(reference: weakref.ref[Connection[_T]]) -> None:
    connection = reference()
    if connection is not None:
        connection.reset_after_fork()

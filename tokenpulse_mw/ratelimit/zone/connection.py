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


class Forkable(Protocol):
    """Limiter that a forked child inherits."""

    def reset_after_fork(self) -> None:
        """Forget the state of the parent."""
        ...


_T = TypeVar("_T", bound=_Table)


class Connection(Generic[_T]):
    """Table in a file; None while the file cannot be used.

    Args:
        path: Path of the file.
        shape: Settings of the limiter.
        size: Size of the file in bytes.
        new_table: Returns the table in an opened file.

    Attributes:
        path: Absolute path of the file.
        opened: Table that was opened last, or None.

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
    ) -> None:
        self.path = check_path(path)
        self._shape = shape
        self._size = size
        self._new_table = new_table
        self._outage = Outage(_log)
        self._check_at = -math.inf
        try:
            self.opened: _T | None = self._open(wait=_START_WAIT)
        except OSError as error:
            raise ValueError(
                f"path must be a file that can be created and locked, got {str(self.path)!r}: "
                f"{error.strerror}"
            ) from None

    def table(self, now: float) -> _T | None:
        """Return the table, or None if the file cannot be used.

        Args:
            now: Monotonic seconds. About once a second, the file is compared with that at its path.
        """
        table = self.opened
        if now >= self._check_at or (table is not None and not table.file.is_whole()):
            return self._check(now)
        return table

    def failed(self, error: OSError | ValueError) -> None:
        """Stop to use the file until the next check, and log a line if it is due."""
        self._close()
        self._outage.failed(
            "limit is not shared with other workers: path=%s error=%s", self.path, error
        )

    def reset(self) -> None:
        """Close the file of the parent in a forked child, which then opens it again."""
        self._close()
        self._check_at = -math.inf

    def _check(self, now: float) -> _T | None:
        self._check_at = now + _CHECK_SECONDS
        table = self.opened
        try:
            if table is not None and not table.file.is_current():
                self.failed(OSError("the file was deleted or replaced"))
            elif table is not None and not table.file.is_whole():
                self.failed(OSError("the file was truncated"))
            if self.opened is None:
                self.opened = self._open()
                self._outage.recovered(
                    "limit is shared with other workers again: path=%s", self.path
                )
        except (OSError, ValueError) as error:
            self.failed(error)
        return self.opened

    def _open(self, *, wait: float = _WAIT) -> _T:
        return self._new_table(open_file(self.path, self._shape, self._size, wait=wait))

    def _close(self) -> None:
        if self.opened is not None:
            self.opened.file.close()
            self.opened = None


def reset_in_children(limiter: Forkable) -> None:
    """Call `reset_after_fork` of a limiter in each forked child, without keeping it alive."""
    os.register_at_fork(after_in_child=partial(_reset, weakref.ref(limiter)))


def _reset(reference: weakref.ref[Forkable]) -> None:
    limiter = reference()
    if limiter is not None:
        limiter.reset_after_fork()

"""Slots of worker processes in a folder; a slot is locked while its worker is alive.

A slot outlives its worker. The next worker acquires the lowest free slot and continues to count in
its files. So counts are never moved or copied, which a crash could lose or duplicate, and there are
never more files than concurrent workers.

The kernel releases the lock when the process ends. Process ids are not used, since they are reused
and not unique across containers.
"""

from __future__ import annotations

import errno
import os
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from .entries import Kind

MAX_SLOTS = 4096

_PREFIXES: dict[Kind, str] = {
    "counter": "counter",
    "histogram": "histogram",
    # The modes of prometheus_client for gauges of live processes.
    "gauge": "gauge_livesum",
    "max": "gauge_livemax",
}
_GAUGES: tuple[Kind, ...] = ("gauge", "max")
_KINDS = {prefix: kind for kind, prefix in _PREFIXES.items()}
_FILE = re.compile(r"(counter|histogram|gauge_live(?:sum|max))_([0-9]{1,4})-tokenpulse\.db")


class Slot:
    """Slot of a worker, locked until it is closed or the process ends.

    Attributes:
        close: Releases the slot; in a forked child, only closes its copy of the lock.
    """

    def __init__(self, folder: Path, number: int, lock: IO[bytes]) -> None:
        self._folder = folder
        self._number = number
        self.close = weakref.finalize(self, lock.close)

    def path(self, kind: Kind) -> Path:
        """Return the path of the file for rows of `kind`."""
        return self._folder / f"{_PREFIXES[kind]}_{self._number}-tokenpulse.db"

    def end_gauges(self) -> None:
        """Remove the gauge files of this slot.

        Raises:
            OSError: A file cannot be removed.
        """
        for kind in _GAUGES:
            self.path(kind).unlink(missing_ok=True)


class SlotFile(NamedTuple):
    """File of any slot."""

    slot: int
    kind: Kind
    path: Path


def folder_variable() -> str:
    """Return the name of the variable of the folder.

    As in prometheus_client, the lower case is used if the upper case is not set.
    """
    name = "PROMETHEUS_MULTIPROC_DIR"
    return name.lower() if name not in os.environ and name.lower() in os.environ else name


def check_locks() -> None:
    """Check that the system supports `flock`.

    Raises:
        ValueError: The system does not support it.
    """
    try:
        import fcntl  # noqa: F401 - not on Windows
    except ImportError:
        raise ValueError(
            f"{folder_variable()} must not be set on a system without fcntl: multiprocess mode "
            "needs flock; unset it and run one worker"
        ) from None


def acquire_slot(folder: Path) -> Slot:
    """Lock the lowest free slot of `folder` and return it.

    Raises:
        OSError: The folder is not writable, or all slots are locked.
    """
    for number in range(MAX_SLOTS):
        lock = _lock_path(folder, number).open("ab")
        slot = Slot(folder, number, lock)
        if _try_lock(lock, shared=False):
            # Gauges of the previous worker ended with it.
            slot.end_gauges()
            return slot
        slot.close()
    raise OSError(errno.EMFILE, f"all {MAX_SLOTS} worker slots are in use", str(folder))


def is_live(folder: Path, file: SlotFile) -> bool:
    """Return True if the rows of `file` count; remove the gauges of a worker that has ended.

    Raises:
        OSError: The lock cannot be read, or the file cannot be removed.
    """
    if file.kind not in _GAUGES:
        return True
    try:
        with _lock_path(folder, file.slot).open("rb") as lock:
            # A shared lock, so that a concurrent scrape is not mistaken for the worker.
            if not _try_lock(lock, shared=True):
                return True
            # The lock is held, so no new worker can own this file.
            file.path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return False


def slot_files(folder: Path) -> Iterator[SlotFile]:
    """Yield the files of all slots, without the other files of prometheus_client.

    Raises:
        OSError: The folder cannot be listed.
    """
    for path in folder.iterdir():
        match = _FILE.fullmatch(path.name)
        if match and path.is_file():
            yield SlotFile(int(match[2]), _KINDS[match[1]], path)


def _lock_path(folder: Path, number: int) -> Path:
    return folder / f"worker_{number}-tokenpulse.lock"


def _try_lock(file: IO[bytes], *, shared: bool) -> bool:
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""The places of workers in a folder: whoever holds a place's lock is alive, and owns its files.

A place outlives its worker. The next worker that starts takes the lowest that is free, and goes on
counting in the files that it finds there. So nothing that was counted is ever moved or copied,
which a crash could lose or double; and there are never more files than workers at one time.

The lock is the kernel's: it goes with its process however that ends, and knows nothing of process
ids, which other processes and other containers have too.
"""

from __future__ import annotations

import errno
import re
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from .entries import Kind

MAX_SLOTS = 4096  # processes of one machine that count at the same time


_PREFIXES: dict[Kind, str] = {
    "counter": "counter",
    "histogram": "histogram",
    # prometheus_client's names for what those who are alive have together
    "gauge": "gauge_livesum",
    "least": "gauge_livemin",
}


_GAUGES: tuple[Kind, ...] = ("gauge", "least")


_KINDS = {prefix: kind for kind, prefix in _PREFIXES.items()}


_FILE = re.compile(r"(counter|histogram|gauge_live(?:sum|min))_([0-9]{1,4})-tokenpulse\.db")


class Slot:
    """A worker's place, which is its own until it is closed or the process ends.

    Attributes:
        close: Gives the place up; in a forked child, only forgets it.
    """

    def __init__(self, folder: Path, number: int, lock: IO[bytes]) -> None:
        self._folder = folder
        self._number = number
        self.close = weakref.finalize(self, lock.close)

    def path(self, kind: Kind) -> Path:
        """Where this worker keeps its rows of `kind`."""
        return self._folder / f"{_PREFIXES[kind]}_{self._number}-tokenpulse.db"

    def end_gauges(self) -> None:
        """Remove the gauges of whoever has, or last had, this place.

        Raises:
            OSError: They cannot be removed.
        """
        for kind in _GAUGES:
            self.path(kind).unlink(missing_ok=True)


class SlotFile(NamedTuple):
    """A file of a place, whoever's it is."""

    slot: int
    kind: Kind
    path: Path


def check_locks() -> None:
    """See that this system can lock files as we need it.

    Raises:
        ValueError: It cannot.
    """
    try:
        import fcntl  # noqa: F401 - not on Windows
    except ImportError:
        raise ValueError(
            "several workers can be counted together only where files can be locked with flock, "
            "and this system has no fcntl: unset PROMETHEUS_MULTIPROC_DIR and run one worker"
        ) from None


def take(folder: Path) -> Slot:
    """The lowest place in `folder` that nobody holds, with whatever rows it has.

    Raises:
        OSError: The folder cannot be written, or there are too many workers.
    """
    for number in range(MAX_SLOTS):
        lock = _lock_path(folder, number).open("ab")
        slot = Slot(folder, number, lock)
        if _try_lock(lock, shared=False):
            # What its last worker was doing when it died goes on no more.
            slot.end_gauges()
            return slot
        slot.close()
    raise OSError(errno.EMFILE, f"{MAX_SLOTS} workers are counting there already", str(folder))


def counts(folder: Path, file: SlotFile) -> bool:
    """Whether the rows of `file` still count; the gauges of the dead do not, and are removed.

    Raises:
        OSError: It cannot be told.
    """
    if file.kind not in _GAUGES:
        return True
    try:
        with _lock_path(folder, file.slot).open("rb") as lock:
            # Shared, so that two who ask at the same time do not take each other for the worker.
            if not _try_lock(lock, shared=True):
                return True
            # Still locked, so that this is not the file of a worker that starts just now.
            file.path.unlink(missing_ok=True)
    except FileNotFoundError:
        pass
    return False


def slot_files(folder: Path) -> Iterator[SlotFile]:
    """Our files in `folder`, those of prometheus_client's own metrics left out.

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

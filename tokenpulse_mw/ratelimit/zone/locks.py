"""Locks of byte ranges of a file, which the kernel releases when their process ends.

Open file description locks are used: traditional ones would not exclude two limiters of one
process, and would be released when any descriptor of the file is closed. A lock needs no byte of
the file: the first bytes stand for the slots of workers, and the following bytes for the sets.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None  # None on Windows

MAX_SLOTS = 64
PAUSE = 0.1  # seconds without waiting for a set whose lock was not released in time

_PATIENCE = 0.005  # seconds to wait for the lock of a set
_MAX_PAUSED = 1000
_FLOCK = struct.Struct("@hhqqi4x")  # struct flock: type, whence, start, length, process


class FileLocks:
    """Locks of one opened file: of a slot for each worker, and of sets for short times.

    Args:
        fd: Descriptor that is used for nothing else. Closing it releases all locks.

    Attributes:
        fd: The descriptor.
        slot: Number of the slot of this process.

    Raises:
        OSError: All slots are in use, or the file system does not support locks.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._paused: dict[int, float] = {}
        for slot in range(MAX_SLOTS):
            if self._try(_request(fcntl.F_WRLCK, slot)):
                self.slot = slot
                return
        raise OSError(errno.EMFILE, f"all {MAX_SLOTS} worker slots are in use")

    def acquire(self, number: int, request: bytes) -> bool:
        """Lock a set and return True; return False if it is not released in time.

        After that, the set is not waited for during `PAUSE`.

        Args:
            number: Number of the set.
            request: First item of `set_requests(number)`.

        Raises:
            OSError: The file system does not support locks.
        """
        return self._try(request) or self._wait(number, request)

    def release(self, request: bytes) -> None:
        """Release a set, by the second item of `set_requests`."""
        fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, request)

    def is_live(self, slot: int) -> bool:
        """Return True if a process has locked `slot`."""
        if slot == self.slot:  # locks of the own descriptor are not reported
            return True
        reply = fcntl.fcntl(self.fd, fcntl.F_OFD_GETLK, _request(fcntl.F_WRLCK, slot))
        return bool(_FLOCK.unpack(reply)[0] != fcntl.F_UNLCK)

    def live_slots(self) -> int:
        """Return the number of processes that have opened the file."""
        return sum(map(self.is_live, range(MAX_SLOTS)))

    def _try(self, request: bytes) -> bool:
        try:
            fcntl.fcntl(self.fd, fcntl.F_OFD_SETLK, request)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES: locked
            return False
        return True

    def _wait(self, number: int, request: bytes) -> bool:
        now = time.monotonic()
        if self._paused.get(number, 0.0) > now:
            return False
        ends = now + _PATIENCE
        while time.monotonic() < ends:
            os.sched_yield()
            if self._try(request):
                return True
        if len(self._paused) >= _MAX_PAUSED:
            self._paused.clear()
        self._paused[number] = ends + PAUSE
        return False


def has_locks() -> bool:
    """Return True if the system has open file description locks, as Linux does."""
    return hasattr(fcntl, "F_OFD_SETLK")


def lock_folder(fd: int) -> bool:
    """Lock an opened folder until it is closed; return False if another process has the lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def set_requests(number: int, count: int = 1) -> tuple[bytes, bytes]:
    """Return the requests to lock and to release `count` sets."""
    start = MAX_SLOTS + number
    return _request(fcntl.F_WRLCK, start, count), _request(fcntl.F_UNLCK, start, count)


def _request(kind: int, start: int, count: int = 1) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, start, count, 0)

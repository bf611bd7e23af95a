"""File that the workers of one machine map: its header, creation and checks."""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
import weakref
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from ...filesystem import network_file_system
from .locks import FileLocks, has_locks, lock_folder

HEADER_BYTES = 4096
SECRET_BYTES = 16

_MAGIC = b"tokenpulse zone\n"
_LAYOUT = 1
_HEADER = struct.Struct("<16sQ16sQQQ16s36s")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RETRY_SECONDS = 0.002


class Shape(NamedTuple):
    """Settings of a limiter, which all workers with the same file must share.

    Attributes:
        strategy: Name of the strategy; "in-flight" for requests in progress.
        limit: Limit.
        window: Seconds; 0 for requests in progress.
        max_keys: Keys that the file is made for.
    """

    strategy: str
    limit: int
    window: int
    max_keys: int

    def __str__(self) -> str:
        return (
            f"layout={_LAYOUT} strategy={self.strategy} limit={self.limit} window={self.window} "
            f"max_keys={self.max_keys}"
        )


class ZoneFile:
    """Opened file, with a slot of this process.

    Args:
        path: Path of the file.
        fd: Descriptor of the file, which the caller closes.
        size: Size in bytes.
        secret: Key of the hash of keys.

    Attributes:
        close: Releases all locks; in a forked child, only closes its copy of them.
        locks: Locks of the file.
        memory: Content of the file.
        secret: Key of the hash of keys.

    Raises:
        OSError: The file cannot be mapped or locked.
    """

    def __init__(self, path: Path, fd: int, size: int, secret: bytes) -> None:
        self.secret = secret
        self._path = path
        self._size = size
        # A map duplicates its descriptor. The locks need one of their own, so that closing it
        # releases them.
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        self.locks = FileLocks(self._fd)
        self.memory = mmap(fd, size)

    def words(self, start: int, count: int) -> memoryview[int]:
        """Return `count` unsigned integers of 8 bytes from byte `start`."""
        return memoryview(self.memory)[start : start + 8 * count].cast("Q")

    def doubles(self, start: int, count: int) -> memoryview[float]:
        """Return `count` floats of 8 bytes from byte `start`."""
        return memoryview(self.memory)[start : start + 8 * count].cast("d")

    def counts(self, start: int, count: int) -> memoryview[int]:
        """Return `count` unsigned integers of 4 bytes from byte `start`."""
        return memoryview(self.memory)[start : start + 4 * count].cast("I")

    def is_whole(self) -> bool:
        """Return False if the file was truncated: then an access would kill the process."""
        return os.lseek(self._fd, 0, os.SEEK_END) == self._size

    def is_current(self) -> bool:
        """Return True if the file is still at its path."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return False
        own = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


def check_path(path: str | Path) -> Path:
    """Return the absolute path of a file that can be shared.

    Raises:
        ValueError: The system has no suitable locks, or the folder is missing, may be written by
            other users, or is on a network file system.
    """
    if not has_locks():
        raise ValueError(
            "path must not be given on a system without open file description locks: a file shared "
            "by workers needs Linux; use Limiter, or SharedLimiter for several processes"
        )
    if not isinstance(path, str | Path) or not Path(path).name or "\0" in str(path):
        raise ValueError(
            f"path must be the path of a file such as '/run/gateway/limit', got {path!r}"
        )
    path = Path(path).absolute()
    try:
        folder = path.parent.stat()
    except OSError as error:
        raise ValueError(
            f"path must be in an existing folder, got {str(path)!r}: {error}"
        ) from None
    if not stat.S_ISDIR(folder.st_mode):
        raise ValueError(f"path must be in a folder, got {str(path)!r}")
    if folder.st_mode & 0o022 or folder.st_uid not in (0, os.geteuid()):
        raise ValueError(
            f"path must be in a folder that other users cannot write to, got {str(path)!r} in a "
            f"folder of user {folder.st_uid} with mode {stat.S_IMODE(folder.st_mode):03o}: use a "
            "folder of this user with mode 700"
        )
    kind = network_file_system(path)
    if kind is not None:
        raise ValueError(
            f"path must be on a local file system, got {str(path)!r} on {kind!r}: use a folder in "
            "/run, or SharedLimiter for several machines"
        )
    return path


def open_file(path: Path, shape: Shape, size: int, *, wait: float = 0.0) -> ZoneFile:
    """Open the file at `path`, or create it if it is missing or of an earlier boot.

    Args:
        path: Path that `check_path` returned.
        shape: Settings that the header must have.
        size: Size in bytes.
        wait: Seconds to wait for another worker that creates a file in the folder.

    Raises:
        ValueError: The file has another shape or is not a file of a limiter.
        OSError: The file cannot be opened or created.
    """
    boot = _BOOT_ID.read_bytes().strip()
    ends = time.monotonic() + wait
    while (file := _open_existing(path, shape, size, boot)) is None:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if lock_folder(folder):  # another worker may have created it just now
                file = _open_existing(path, shape, size, boot)
                return _create(path, shape, size, boot) if file is None else file
        finally:
            os.close(folder)
        if time.monotonic() >= ends:
            raise OSError(errno.EAGAIN, "another worker is creating a file", str(path.parent))
        time.sleep(_RETRY_SECONDS)
    return file


def _open_existing(path: Path, shape: Shape, size: int, boot: bytes) -> ZoneFile | None:
    """Return the file at `path`, or None if it is missing or of an earlier boot."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(f"path must not be a symbolic link, got {str(path)!r}") from None
        raise
    try:
        secret, found_boot = _read_header(path, fd, shape, size)
        # The times in a file of an earlier boot are of another clock.
        return ZoneFile(path, fd, size, secret) if found_boot == boot else None
    finally:
        os.close(fd)


def _read_header(path: Path, fd: int, shape: Shape, size: int) -> tuple[bytes, bytes]:
    """Return the secret and the id of the boot."""
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise ValueError(f"path must be a regular file of this user, got {str(path)!r}")
    header = os.pread(fd, _HEADER.size, 0)
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise _refused(path, shape, "a file of something else")
    _, layout, strategy, limit, window, max_keys, secret, boot = _HEADER.unpack(header)
    if layout != _LAYOUT:
        raise _refused(path, shape, f"layout={layout}")
    found = Shape(strategy.rstrip(b"\0").decode("ascii", "replace"), limit, window, max_keys)
    if found != shape:
        raise _refused(path, shape, str(found))
    if status.st_size != size:
        raise _refused(path, shape, f"{status.st_size} bytes instead of {size}")
    return secret, boot


def _refused(path: Path, shape: Shape, found: str) -> ValueError:
    return ValueError(
        f"path must be a file with {shape}, got {str(path)!r} with {found}: delete the file, or "
        "use another path"
    )


def _create(path: Path, shape: Shape, size: int, boot: bytes) -> ZoneFile:
    """Create the file, which appears at `path` when it is complete."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)  # of a worker that was killed
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # On a full disk, a write to a mapped hole would kill the process.
        os.posix_fallocate(fd, 0, size)
        strategy, *numbers = shape
        secret = os.urandom(SECRET_BYTES)
        os.pwrite(fd, _HEADER.pack(_MAGIC, _LAYOUT, strategy.encode(), *numbers, secret, boot), 0)
        file = ZoneFile(path, fd, size, secret)
        new.replace(path)
        return file
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)

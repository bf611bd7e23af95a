"""Folder in which the workers of one machine share limits, metrics and alerts."""

from __future__ import annotations

import os
import re
import stat
import tempfile
from hashlib import blake2b
from pathlib import Path

from ..filesystem import network_file_system

_MODE = 0o700
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH


class SharedDir:
    """Files of the workers of one gateway in a folder of one machine.

    The folder is created if its parent exists.

    Args:
        folder: Path of the folder.

    Attributes:
        path: Absolute path of the folder.
        metrics: Folder of the metrics.
        alerts: URL of the alert store.

    Raises:
        ValueError: The folder is not safe or not usable, or the system has no file locks.
    """

    def __init__(self, folder: str) -> None:
        self.path = check_folder(folder)
        try:
            self.path.mkdir(mode=_MODE, exist_ok=True)  # another worker may have created it
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise _not_usable(folder, f"{error.strerror}; {_FIX}") from None
        check_folder(folder)

        self.metrics = self.path / "metrics"
        self.alerts = f"sqlite+aiosqlite:///{self.path}/alerts.db"

    def limit(self, name: str, *options: object) -> Path:
        """Return the path of the file of a limit.

        Limits with another name or other options have other files, also on file systems that ignore
        case. So a changed limit begins with a new file.
        """
        digest = blake2b(repr((name, *options)).encode(), digest_size=8).hexdigest()
        readable = re.sub(r"[^a-z0-9_-]", "-", name.lower())
        return self.path / f"limit-{readable}-{digest}.zone"


_FIX = (
    "create it for the user of this process with `install -d -m 700`, or let its parent be "
    "writable for that user"
)


def check_folder(folder: str) -> Path:
    """Return the absolute path of a folder that exists or can be created, without creating it.

    Raises:
        ValueError: The folder is not safe or not usable, or the system has no file locks.
    """
    try:
        import fcntl  # noqa: F401 - not on Windows
    except ImportError:
        raise ValueError(
            "shared_dir must not be set on a system without fcntl, such as Windows, "
            f"got {folder!r}: leave it out, and run one worker"
        ) from None
    if not folder.strip() or "?" in folder:  # a URL of SQLite cannot have it
        raise ValueError(
            "shared_dir must be the path of a folder without '?', such as "
            f"/run/tokenpulse, got {folder!r}"
        )
    path = Path(folder).absolute()
    kind = network_file_system(path)
    if kind is not None:
        raise _not_usable(
            folder,
            f"on the network file system {kind!r}: use a local one, such as a tmpfs; several "
            "machines share limits in Redis and alerts in PostgreSQL",
        )
    if not path.exists():
        if not (path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK)):
            raise _not_usable(folder, f"which cannot be created; {_FIX}")
        return path
    if not path.is_dir():
        raise _not_usable(folder, "which is not a directory")
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise _not_usable(folder, f"which belongs to user {status.st_uid}; {_FIX}")
    if status.st_mode & _OTHERS_CAN_WRITE:
        mode = oct(stat.S_IMODE(status.st_mode))[2:]
        raise _not_usable(folder, f"with mode {mode}: use `chmod go-w`, or a new folder below it")
    if not os.access(path, os.W_OK | os.X_OK):
        raise _not_usable(folder, f"which is not writable; {_FIX}")
    return path


def _not_usable(folder: str, reason: str) -> ValueError:
    return ValueError(
        "shared_dir must be a local folder that this process, and no other user, can write to, "
        f"got {folder!r}, {reason}"
    )

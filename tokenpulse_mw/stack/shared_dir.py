"""Folder in which the workers of one machine share limits, metrics and alerts."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from secrets import token_bytes
from tempfile import NamedTemporaryFile, TemporaryFile

from ..filesystem import network_file_system

_MODE = 0o700
_SECRET_BYTES = 32
_OTHERS_CAN_WRITE = stat.S_IWGRP | stat.S_IWOTH
_UNSUPPORTED = {"?", "\0"}  # "?" in a URL of SQLite
_FIX = "create it with mode 700 for the user of this process, or let this process create it"


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
            self.path.mkdir(mode=_MODE, exist_ok=True)  # another worker may create it now
            with TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise _not_usable(folder, f"which cannot be written to ({error.strerror})") from None
        check_folder(folder)
        self.metrics = self.path / "metrics"
        self.alerts = f"sqlite+aiosqlite:///{self.path}/alerts.db"

    def secret(self) -> bytes:
        """Return a secret of all workers, which the first one creates."""
        path = self.path / "secret"
        with suppress(FileNotFoundError):
            return path.read_bytes()
        with NamedTemporaryFile(dir=self.path) as file:
            file.write(token_bytes(_SECRET_BYTES))
            file.flush()
            with suppress(FileExistsError):  # another worker has created it
                path.hardlink_to(file.name)
        return path.read_bytes()

    def limit(self, name: str, shape: str) -> Path:
        """Return the path of the file of a limit.

        Limits with another name or shape have other files, also on file systems that ignore case.
        So a changed limit begins with a new file.

        Args:
            name: Name of the policy.
            shape: Everything that the workers with the same file must have in common.
        """
        digest = blake2b(f"{name} {shape}".encode(), digest_size=8).hexdigest()
        readable = re.sub(r"[^a-z0-9_-]", "-", name.lower())
        return self.path / f"limit-{readable}-{digest}.zone"


def check_folder(folder: str) -> Path:
    """Return the absolute path of a folder that exists or can be created, without creating it.

    Raises:
        ValueError: The folder is not safe or not usable, or the system has no file locks.
    """
    try:
        import fcntl  # noqa: F401 - not on Windows
    except ImportError:
        raise ValueError(
            "shared_dir must not be set on a system without fcntl, such as Windows, got "
            f"{folder!r}: leave it out, and run one worker"
        ) from None
    if not folder.strip() or not _UNSUPPORTED.isdisjoint(folder):
        raise ValueError(
            f"shared_dir must be the path of a folder, such as '/run/tokenpulse', got {folder!r}"
        )
    path = Path(os.path.realpath(folder))
    problem = _problem(path)
    if problem is not None:
        raise _not_usable(folder, problem)
    return path


def _problem(path: Path) -> str | None:
    """Return why a folder cannot be used, and how to fix it; None if it can."""
    try:
        exists = os.path.lexists(path)
        status = (path if exists else path.parent).stat()
    except OSError as error:
        return f"which cannot be reached ({error.strerror}): {_FIX}"
    kind = network_file_system(path)
    if kind is not None:
        return (
            f"which is on {kind!r}: use a local file system, such as a tmpfs; several machines "
            "share limits in Redis, and alerts in PostgreSQL"
        )
    if not stat.S_ISDIR(status.st_mode):
        return "which is not a folder"
    if not exists:
        is_allowed = os.access(path.parent, os.W_OK | os.X_OK)
        return None if is_allowed else f"which cannot be created: {_FIX}"
    if status.st_uid not in (0, os.geteuid()):
        return f"which belongs to user {status.st_uid}: {_FIX}"
    if status.st_mode & _OTHERS_CAN_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        return f"with mode {mode:o}: use a new folder in it, such as {str(path / 'gateway')!r}"
    if not os.access(path, os.W_OK | os.X_OK):
        return f"which cannot be written to: {_FIX}"
    return None


def _not_usable(folder: str, problem: str) -> ValueError:
    return ValueError(
        "shared_dir must be a local folder that only the user of this process can write to, got "
        f"{folder!r}, {problem}"
    )

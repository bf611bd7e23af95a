"""Detection of network file systems, on which locks and mapped memory are not reliable."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")  # of Linux
_NETWORK = re.compile(
    r"nfs4?|cifs|smb3|smbfs|9p|afs|ncpfs|fuse\.(sshfs|s3fs|rclone|gcsfuse|glusterfs|mount\.cifs)"
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_file_system(path: Path) -> str | None:
    """Return the type of the network file system of `path`; None if it is local or unknown."""
    with suppress(OSError):
        kind = file_system(path.resolve(), _MOUNTS.read_text(errors="replace"))
        if kind is not None and _NETWORK.fullmatch(kind):
            return kind
    return None


def file_system(path: Path, mounts: str) -> str | None:
    """Return the type of the file system of an absolute path, such as "ext4"; None if unknown.

    Args:
        path: The path, without symbolic links.
        mounts: Text of `/proc/self/mountinfo`.
    """
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        mount, _, device = line.partition(" - ")
        fields, types = mount.split(" "), device.split(" ")
        if len(fields) > 4 and types[0]:
            point = Path(_ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[4]))
            # Of several mounts on one point, the last one is visible.
            if path.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
                found = len(point.parts), types[0]
    return found and found[1]

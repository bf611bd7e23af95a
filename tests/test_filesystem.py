"""Detection of network file systems."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenpulse_mw import filesystem
from tokenpulse_mw.filesystem import file_system, network_file_system

MOUNTS = r"""
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
25 22 0:22 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1617392k
41 22 0:45 / /srv rw,relatime shared:9 master:2 - nfs4 10.0.0.2:/srv rw,vers=4.2
42 41 0:46 / /srv/fast rw,relatime - xfs /dev/nvme1n1 rw
43 22 0:47 / /mnt/two\040words rw - cifs //nas/two\040words rw,vers=3.1.1
44 22 0:48 / /mnt/twice rw - nfs nas:/old rw
45 22 0:49 / /mnt/twice rw - btrfs /dev/sdb1 rw
46 22 0:50 / /home/ada/remote rw,nosuid - fuse.sshfs ada@host:/ rw,user_id=1000
47 22 0:51 / /mnt/c rw - 9p C:\134 rw
48 22 0:52 / /mnt/s rw - smb3 //nas/s rw
a line that is not a mount
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/alerts.db", "ext4"),
        ("/run/alerts.db", "tmpfs"),
        ("/runner/alerts.db", "ext4"),
        ("/srv/alerts.db", "nfs4"),
        ("/srv/fast/alerts.db", "xfs"),
        ("/mnt/two words/alerts.db", "cifs"),
        ("/mnt/twice/alerts.db", "btrfs"),
    ],
)
def test_file_system_of_a_path_is_that_of_its_last_and_deepest_mount(path: str, kind: str) -> None:
    """The mount that is visible at the path decides."""
    assert file_system(Path(path), MOUNTS) == kind


@pytest.mark.parametrize("mounts", ["", "x", "22 1 259:2 / /srv rw - ext4 /dev/sda rw"])
def test_file_system_without_a_known_mount_is_unknown(mounts: str) -> None:
    """A path below none of the mounts has an unknown file system."""
    assert file_system(Path("/var/alerts.db"), mounts) is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/srv/a", "nfs4"), ("/mnt/c/a", "9p"), ("/srv/fast/a", None), ("/run/a", None)],
)
def test_only_network_file_systems_are_reported(
    path: str, kind: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path on a local file system has no network file system."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "mountinfo")

    assert network_file_system(Path(path)) == kind


def test_file_system_on_a_system_without_mounts_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systems without a list of mounts are not checked."""
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "missing")

    assert network_file_system(tmp_path / "alerts.db") is None

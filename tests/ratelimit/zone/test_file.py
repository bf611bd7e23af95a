"""Files of shared limits: creation, and every kind of file and folder that is rejected."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw import ZoneInFlight, ZoneLimiter, filesystem
from tokenpulse_mw.ratelimit.zone import connection, locks
from tokenpulse_mw.ratelimit.zone.file import Shape, ZoneFile, open_file

from ...support.full_disk import largest_file


def limiter_of(path: object) -> ZoneLimiter:
    """Return a small limiter."""
    return ZoneLimiter("5/minute", path=path, max_keys=8)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file in a folder of this user."""
    return tmp_path / "limit"


def test_file_is_private_and_has_its_full_size(path: Path) -> None:
    """Other users cannot read the keyed hashes, and a full disk cannot kill a worker later."""
    limiter_of(path)

    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert status.st_blocks * 512 >= status.st_size > 4096
    assert [file.name for file in path.parent.iterdir()] == ["limit"]


def test_relative_path_is_that_of_the_working_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later change of the working folder has no effect."""
    monkeypatch.chdir(path.parent)

    assert limiter_of("limit").path == path


def test_keys_are_not_in_the_file(path: Path) -> None:
    """The file has keyed hashes, whose secret differs between files."""
    other = path.with_name("other")
    limiter_of(path).hit("sk-secret")
    limiter_of(other).hit("sk-secret")

    assert b"sk-secret" not in path.read_bytes()
    assert path.read_bytes()[4096:] != other.read_bytes()[4096:]


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (lambda path: ZoneLimiter("6/minute", path=path, max_keys=8), "limit=6 window=60"),
        (lambda path: ZoneLimiter("5/hour", path=path, max_keys=8), "limit=5 window=3600"),
        (lambda path: ZoneLimiter("5/minute", path=path, max_keys=9), "max_keys=9"),
        (
            lambda path: ZoneLimiter("5/minute", path=path, max_keys=8, strategy="gcra"),
            "strategy=gcra",
        ),
        (lambda path: ZoneInFlight(5, path=path, max_keys=8), "strategy=in-flight limit=5"),
    ],
)
def test_file_of_another_limit_is_rejected(
    other: Callable[[Path], object], found: str, path: Path
) -> None:
    """The error has both limits, and how to fix it."""
    other(path)

    with pytest.raises(
        ValueError,
        match=r"strategy=fixed-window limit=5 window=60 max_keys=8, got .* with .*"
        rf"{found}.*: delete the file, or use another path$",
    ):
        limiter_of(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (lambda header: b"", "a file of something else"),
        (lambda header: b"SQLite format 3\0" + bytes(8192), "a file of something else"),
        (lambda header: header[:100], "a file of something else"),
        (lambda header: header[:16] + struct.pack("<Q", 9) + header[24:], "layout=9"),
        (lambda header: header[:4096], "4096 bytes instead of"),
        (lambda header: header + b"\0", "bytes instead of"),
    ],
    ids=["empty", "foreign", "short", "layout", "truncated", "long"],
)
def test_damaged_or_foreign_file_is_rejected(
    content: Callable[[bytes], bytes], found: str, path: Path
) -> None:
    """The file of another program is not overwritten."""
    limiter_of(path)
    written = content(path.read_bytes())
    path.write_bytes(written)

    with pytest.raises(ValueError, match=rf"path must be a file with layout=1 .*{found}"):
        limiter_of(path)
    assert path.read_bytes() == written


def test_file_of_an_earlier_boot_is_replaced(path: Path) -> None:
    """Its times are of another monotonic clock, so its counts have no meaning."""
    limiter_of(path).hit("a")
    header = path.read_bytes()
    boot = header.index(Path("/proc/sys/kernel/random/boot_id").read_bytes().strip())
    path.write_bytes(header[:boot] + b"0" * 36 + header[boot + 36 :])

    assert limiter_of(path).hit("a").remaining == 4


@pytest.mark.parametrize("value", ["", "/", ".", 5, None, b"limit", "a\0b"])
def test_path_that_names_no_file_is_rejected(value: Any) -> None:
    """A path is text or a `Path`."""
    with pytest.raises(ValueError, match=r"path must be the path of a file such as '/run/"):
        limiter_of(value)


def test_folder_must_exist(path: Path) -> None:
    """A missing folder is not created, since its owner and mode matter."""
    with pytest.raises(ValueError, match=r"path must be in an existing folder, got .*No such file"):
        limiter_of(path / "missing")


def test_file_as_folder_is_rejected(path: Path) -> None:
    """The parent of the path is a folder."""
    path.touch()

    with pytest.raises(ValueError, match="path must be in "):
        limiter_of(path / "limit")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_folder_that_other_users_can_write_to_is_rejected(mode: int, path: Path) -> None:
    """Another user could replace the file, even in a folder with the sticky bit."""
    path.parent.chmod(mode)

    with pytest.raises(ValueError, match=rf"cannot write to, got .* mode {mode:03o}: use a folder"):
        limiter_of(path)


def test_symbolic_link_is_rejected(path: Path) -> None:
    """The file that a link points to is not opened."""
    path.symlink_to(path.with_name("other"))

    with pytest.raises(ValueError, match="path must not be a symbolic link, got"):
        limiter_of(path)


def test_fifo_is_rejected(path: Path) -> None:
    """Only a regular file can be mapped."""
    os.mkfifo(path)

    with pytest.raises(ValueError, match="path must be a regular file of this user, got"):
        limiter_of(path)


def test_folder_as_file_is_rejected(path: Path) -> None:
    """The error has the reason of the system."""
    path.mkdir()

    with pytest.raises(ValueError, match=r"created and locked, got .*: Is a directory"):
        limiter_of(path)


def test_network_file_system_is_rejected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks and mapped memory do not work between machines."""
    mounts = path.with_name("mounts")
    mounts.write_text(f"41 22 0:45 / {path.parent} rw - nfs4 10.0.0.2:/srv rw\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", mounts)

    with pytest.raises(ValueError, match=r"path must be on a local file system, got .* on 'nfs4'"):
        limiter_of(path)


def test_system_without_locks_is_rejected(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no fcntl."""
    monkeypatch.setattr(locks, "fcntl", None)

    with pytest.raises(ValueError, match="path must not be given on a system without open file"):
        limiter_of(path)


def test_full_disk_is_rejected_without_a_partial_file(path: Path) -> None:
    """The file is created in full, or not at all."""
    with largest_file(8192), pytest.raises(ValueError, match="created and locked, got"):
        limiter_of(path)

    assert list(path.parent.iterdir()) == []


def test_remains_of_a_killed_worker_are_replaced(path: Path) -> None:
    """A worker that was killed while it created the file does not prevent its creation."""
    path.with_name(".limit.new").write_bytes(b"partial")

    assert limiter_of(path).hit("a").allowed
    assert [file.name for file in path.parent.iterdir()] == ["limit"]


def test_worker_waits_for_another_that_creates_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start it waits for five seconds, and then fails with the reason."""
    monkeypatch.setattr(connection, "_START_WAIT", 0.01)
    folder = os.open(path.parent, os.O_RDONLY)
    assert locks.lock_folder(folder)

    with pytest.raises(ValueError, match="another worker is creating a file"):
        limiter_of(path)
    os.close(folder)
    assert limiter_of(path).hit("a").allowed


def test_file_that_appears_during_the_wait_for_the_folder_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers that start together use the same file."""
    shape, real = Shape("gcra", 1, 60, 8), locks.lock_folder
    created: list[ZoneFile] = []

    def lock_late(folder: int) -> bool:
        if not created:
            monkeypatch.undo()
            created.append(open_file(path, shape, 8192))
        return real(folder)

    monkeypatch.setattr("tokenpulse_mw.ratelimit.zone.file.lock_folder", lock_late)

    file = open_file(path, shape, 8192)

    assert file.is_current()
    assert file.locks.slot == 1


def test_all_slots_in_use_are_reported(path: Path) -> None:
    """At most 64 processes share a file; a closed one frees its slot."""
    limiters = [limiter_of(path) for _ in range(locks.MAX_SLOTS)]
    with pytest.raises(ValueError, match="all 64 worker slots are in use"):
        limiter_of(path)

    limiters.pop().hit("a")

    assert limiter_of(path).peek("a").remaining == 4

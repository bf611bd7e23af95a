"""Workers on a full disk or with deleted files."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tokenpulse_mw import Exchange, HttpMetrics, TokenUsage
from tokenpulse_mw.metrics.multiprocess import WorkerFiles
from tokenpulse_mw.metrics.multiprocess.entries import INTEGER
from tokenpulse_mw.metrics.multiprocess.writer import MIN_FILE_BYTES, RowFile

from ...support.full_disk import SmallDisk, largest_file, mounted_disk
from ...support.waiting import PATIENCE
from .samples import COUNTER, GAUGE, HISTOGRAM, MAX_GAUGE, row_of, value

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]

# Adds rows to a file. A process that writes to a mapped hole of a full disk is killed by SIGBUS.
ADD_ROWS = """
import sys
from pathlib import Path
from tests.metrics.multiprocess.samples import HISTOGRAM
from tokenpulse_mw.metrics.multiprocess.writer import RowFile
try:
    file = RowFile(Path(sys.argv[1]), "histogram")
    for number in range(50):  # more than a page
        file.new_row(HISTOGRAM, (str(number),))
except OSError as error:
    print(error.strerror)
"""

Full = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a small file system."""
    with mounted_disk(tmp_path / "disk", size="512k") as small:
        yield small


@pytest.fixture(params=["a file system", "a limit"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Full]:
    """Return a folder and a context manager that fills its disk."""
    if request.param == "a limit":
        return tmp_path, lambda: largest_file(0)
    small: SmallDisk = request.getfixturevalue("disk")

    @contextmanager
    def full() -> Iterator[None]:
        small.fill()
        yield
        small.make_room()

    return small.folder, full


def test_rows_are_written_when_the_disk_has_space_again(location: tuple[Path, Full]) -> None:
    """Each count is in the scrape once, for any kind of row."""
    folder, full = location
    files = WorkerFiles(folder)
    with full():
        for number in range(3):
            for family in (GAUGE, MAX_GAUGE, HISTOGRAM):
                row_of(files, family, number)[0] += 1 + number
            row_of(files, COUNTER, number, "ok")[0] += 10
            row_of(files, COUNTER, number, "ok")[0] += 1
        assert not files.recover()
        assert value(folder, HISTOGRAM, "0") is None

    assert files.recover()
    assert not files.recover()
    for number in range(3):
        for family in (GAUGE, MAX_GAUGE):
            assert value(folder, family, str(number)) == [1 + number]
        assert value(folder, COUNTER, str(number), "ok") == [11]
        row = row_of(files, HISTOGRAM, number)
        row[0] += 1
        assert value(folder, HISTOGRAM, str(number)) == [2 + number, 0, 0, 0, 0]


def test_unwritten_rows_are_added_to_existing_rows(tmp_path: Path) -> None:
    """The slot that a worker acquires later may already have the rows."""
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 5
    files = WorkerFiles(tmp_path)
    lock = tmp_path / "worker_0-tokenpulse.lock"
    lock.unlink()
    lock.mkdir()  # cannot be opened as a file
    row_of(files, COUNTER, "a", "ok")[0] += 2
    lock.rmdir()

    assert files.recover()

    assert value(tmp_path, COUNTER, "a", "ok") == [7]


def test_outage_of_a_disk_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that cannot be written are not logged one by one."""
    caplog.set_level(logging.INFO)
    files = WorkerFiles(tmp_path)
    with largest_file(0):
        for number in range(3):
            row_of(files, COUNTER, number, "ok")
        files.recover()
    files.recover()
    files.recover()

    failure, recovery = caplog.messages
    assert failure.startswith("metrics of this process are incomplete in scrapes: error=[Errno 27]")
    assert recovery == (
        "metrics of this process are complete in scrapes again (seconds=0 failures=4)"
    )


def test_disk_that_fills_during_recovery_keeps_the_remaining_rows(tmp_path: Path) -> None:
    """Rows that were written are not written twice."""
    files = WorkerFiles(tmp_path)
    with largest_file(0):
        for number in range(2000):
            row_of(files, HISTOGRAM, number)[1] += 1

    with largest_file(MIN_FILE_BYTES):
        assert files.recover()
        written = sum(value(tmp_path, HISTOGRAM, str(number)) is not None for number in range(2000))
        assert 0 < written < 2000
    assert files.recover()

    assert all(
        value(tmp_path, HISTOGRAM, str(number)) == [0, 1, 0, 0, 0] for number in (0, 999, 1999)
    )


def test_close_writes_unwritten_rows(tmp_path: Path) -> None:
    """`close` retries to write the rows that are only in memory."""
    files = WorkerFiles(tmp_path)
    with largest_file(0):
        row_of(files, COUNTER, "a", "ok")[0] += 3

    files.close()

    assert value(tmp_path, COUNTER, "a", "ok") == [3]


def test_full_disk_gets_no_partial_file(tmp_path: Path) -> None:
    """An incomplete allocation is released."""
    path = tmp_path / "histogram_0-tokenpulse.db"
    with largest_file(MIN_FILE_BYTES - 1), pytest.raises(OSError, match="File too large"):
        RowFile(path, "histogram")
    assert not list(tmp_path.iterdir())

    file = RowFile(path, "histogram")
    rows = (file.new_row(HISTOGRAM, (str(number),)) for number in range(1000))
    with largest_file(MIN_FILE_BYTES + 100), pytest.raises(OSError, match="File too large"):
        list(rows)
    assert path.stat().st_size == MIN_FILE_BYTES


def test_mapped_file_has_no_holes(tmp_path: Path) -> None:
    """The holes in a sparse copy of a file are filled."""
    path = tmp_path / "histogram_0-tokenpulse.db"
    path.write_bytes(INTEGER.pack(8) + bytes(4))
    os.truncate(path, MIN_FILE_BYTES)
    assert path.stat().st_blocks * 512 < MIN_FILE_BYTES

    RowFile(path, "histogram")

    assert path.stat().st_blocks * 512 >= MIN_FILE_BYTES


@pytest.mark.parametrize("supported", [True, False], ids=["elsewhere", "macOS"])
def test_file_system_without_fallocate_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supported: bool
) -> None:
    """Without `posix_fallocate` the file is only filled with zeros."""

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if supported:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    else:
        monkeypatch.delattr(os, "posix_fallocate")

    RowFile(tmp_path / "rows.db", "histogram").new_row(HISTOGRAM, ("a",))

    assert (tmp_path / "rows.db").stat().st_size == MIN_FILE_BYTES


def test_file_with_holes_is_not_mapped_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patched error simulates a full disk if no disk can be mounted."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)

    with pytest.raises(OSError, match="No space left"):
        RowFile(tmp_path / "rows.db", "histogram")
    assert not list(tmp_path.iterdir())


def test_hole_on_a_full_disk_does_not_kill_the_process(disk: SmallDisk) -> None:
    """The file raises an error until there is space."""
    path = disk.folder / "histogram_0-tokenpulse.db"
    path.write_bytes(INTEGER.pack(8) + bytes(4))
    os.truncate(path, MIN_FILE_BYTES)
    disk.fill()

    command = [sys.executable, "-c", ADD_ROWS, str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)

    assert (result.returncode, result.stdout) == (0, "No space left on device\n")


def test_metrics_counted_on_a_full_disk_are_in_later_scrapes(
    location: tuple[Path, Full], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request is counted once."""
    folder, full = location
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    metrics = HttpMetrics(CollectorRegistry())

    def one_request() -> None:
        metrics.on_open()
        metrics(Exchange("POST", 0.0, "/chat", 200, "claude", duration=0.2))

    with full():
        metrics.on_open()
        one_request()
        metrics.refresh()
        one_request()
    metrics.refresh()
    one_request()

    lines = metrics.render().decode().splitlines()
    labels = 'method="POST",route="/chat",status="200",provider="claude"'
    assert f"tokenpulse_http_requests_total{{{labels}}} 3.0" in lines
    assert f"tokenpulse_http_request_duration_seconds_count{{{labels}}} 3.0" in lines
    assert "tokenpulse_http_requests_in_progress 1.0" in lines


def test_metrics_of_a_deleted_folder_are_in_later_scrapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder is created again with all counts of the process."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    metrics = HttpMetrics(CollectorRegistry())
    exchange = Exchange("POST", 0.0, "/chat", 200, "claude", duration=0.2)
    exchange.usage, exchange.usage_source = TokenUsage(7), "reported"
    metrics(exchange)
    shutil.rmtree(folder)
    metrics(exchange)

    metrics.refresh()
    metrics(exchange)

    labels = 'method="POST",route="/chat",status="200",provider="claude"'
    lines = metrics.render().decode().splitlines()
    assert f"tokenpulse_http_requests_total{{{labels}}} 3.0" in lines
    labels = 'provider="claude",model="unknown",kind="input"'
    assert f"tokenpulse_llm_tokens_total{{{labels}}} 21.0" in lines
    assert "deleted while in use" in caplog.text


def test_restored_file_is_not_counted_twice(tmp_path: Path) -> None:
    """The rows of a deleted file are moved, so that the restored file has only zeros."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 4
    row_of(files, HISTOGRAM, "a")[0] += 1
    path = tmp_path / "counter_0-tokenpulse.db"
    path.rename(tmp_path / "moved")

    assert files.recover()
    row_of(files, COUNTER, "a", "ok")[0] += 1
    (tmp_path / "moved").rename(tmp_path / "counter_1-tokenpulse.db")

    assert value(tmp_path, COUNTER, "a", "ok") == [5]
    assert value(tmp_path, HISTOGRAM, "a") == [1, 0, 0, 0, 0]


def test_unreadable_folder_is_not_treated_as_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are still used, since they may exist."""
    files = WorkerFiles(tmp_path)
    row = row_of(files, COUNTER, "a", "ok")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", refuse)
        assert not files.recover()
    row[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == [1]


def test_forked_child_does_not_write_rows_of_its_parent(tmp_path: Path) -> None:
    """Only the parent writes the rows that it holds in memory."""
    files = WorkerFiles(tmp_path)
    with largest_file(0):
        row_of(files, COUNTER, "a", "ok")[0] += 3

    files.reset_after_fork()

    assert not files.recover()
    assert value(tmp_path, COUNTER, "a", "ok") is None

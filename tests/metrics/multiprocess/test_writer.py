"""Rows of one worker process in files."""

from __future__ import annotations

import gc
import json
import logging
import re
import subprocess
import sys
import weakref
from pathlib import Path
from threading import Event, Thread

import pytest

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, writer
from tokenpulse_mw.metrics.multiprocess.entries import HEAD_BYTES, INTEGER, parse_rows, read_used
from tokenpulse_mw.metrics.multiprocess.writer import MIN_FILE_BYTES, RowFile, after_fork_in_child

from ...support.full_disk import largest_file
from ...support.waiting import PATIENCE
from .samples import COUNTER, GAUGE, HISTOGRAM, row_of, value

ROOT = Path(__file__).parents[3]


def forks(folder: Path, *, parent_counts: str, child_counts: str) -> tuple[list[bool], list[str]]:
    """Return the resets of a forked child and the names of the counter files at the end."""
    command = [sys.executable, "-m", "tests.support.worker_fork", str(folder)]
    command += [parent_counts, child_counts]
    result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    resets, names = json.loads(result.stdout)
    return resets, [name for name in names if name.startswith("counter")]


def test_no_file_is_created_before_the_first_row(tmp_path: Path) -> None:
    """A process that only starts the workers writes nothing."""
    WorkerFiles(tmp_path).close()

    assert not list(tmp_path.iterdir())


def test_same_labels_return_the_same_row(tmp_path: Path) -> None:
    """Labels are compared as text."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", 200)[0] += 1
    row_of(files, COUNTER, "a", "200")[0] += 1

    assert value(tmp_path, COUNTER, "a", "200") == [2]


def test_new_row_is_zero_and_supports_list_operations(tmp_path: Path) -> None:
    """A histogram row is its sum, then the count of each bucket, +Inf last."""
    files = WorkerFiles(tmp_path)
    row = row_of(files, HISTOGRAM, "a")
    assert list(row) == [0.0] * 5

    row[0] += 7.5
    row[4] += 1

    assert value(tmp_path, HISTOGRAM, "a") == [7.5, 0, 0, 0, 1]


def test_next_worker_continues_the_counts_of_its_slot(tmp_path: Path) -> None:
    """Each count is kept and counted once."""
    for number in range(10):
        files = WorkerFiles(tmp_path)
        row_of(files, COUNTER, "a", "ok")[0] += number
        if number % 2:
            files.close()

    assert value(tmp_path, COUNTER, "a", "ok") == [45]
    assert len(list(tmp_path.glob("*.db"))) == 1


def test_close_removes_gauges(tmp_path: Path) -> None:
    """After `close` the gauges are missing for both collectors."""
    files = WorkerFiles(tmp_path)
    row_of(files, GAUGE, "a")[0] = 5

    files.close()

    assert value(tmp_path, GAUGE, "a") is None
    assert not list(tmp_path.glob("gauge*"))


OVERFLOW = ("__overflow__", "__overflow__")


def test_full_family_counts_in_an_overflow_row(tmp_path: Path) -> None:
    """Each request of a row that is not available is reported."""
    overflows: list[str] = []
    files = WorkerFiles(
        tmp_path, max_series=2, on_overflow=lambda family: overflows.append(family.name)
    )
    for name in "abcdca":
        row_of(files, COUNTER, name, "ok")[0] += 1
    row_of(files, COUNTER, *OVERFLOW)[0] += 10
    row_of(files, HISTOGRAM, "c")[1] += 1

    assert overflows == ["jobs_total"] * 3
    assert value(tmp_path, COUNTER, "a", "ok") == [2]
    assert value(tmp_path, COUNTER, *OVERFLOW) == [13]
    assert value(tmp_path, HISTOGRAM, "c") == [0, 1, 0, 0, 0]


def test_rows_of_earlier_workers_count_towards_max_series(tmp_path: Path) -> None:
    """Files do not grow with each new worker."""
    for name in "abcdc":
        row_of(WorkerFiles(tmp_path, max_series=2), COUNTER, name, "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == value(tmp_path, COUNTER, "b", "ok") == [1]
    assert value(tmp_path, COUNTER, *OVERFLOW) == [3]


def test_explicit_overflow_row_is_not_reported(tmp_path: Path) -> None:
    """A request of the overflow row itself does not call `on_overflow`."""
    overflows: list[Family] = []
    row_of(WorkerFiles(tmp_path, max_series=1), COUNTER, "a", "ok")

    row_of(WorkerFiles(tmp_path, max_series=1, on_overflow=overflows.append), COUNTER, *OVERFLOW)

    assert not overflows


def test_overflow_callback_may_request_rows(tmp_path: Path) -> None:
    """An overflow within the callback is not reported."""
    overflow = COUNTER._replace(name="overflow_total", labels=("family",))

    def count(family: Family) -> None:
        row_of(files, overflow, family.name)[0] += 1

    files = WorkerFiles(tmp_path, max_series=1, on_overflow=count)
    for family in (COUNTER, COUNTER._replace(name="other_total")):
        for name in "abc":
            row_of(files, family, name, "ok")[0] += 1

    assert value(tmp_path, overflow, "jobs_total") == [2]
    assert value(tmp_path, overflow, "__overflow__") == [2]


@pytest.mark.parametrize("make", [Path.touch, Path.exists], ids=["file", "missing"])
def test_missing_folder_is_rejected(tmp_path: Path, make: object) -> None:
    """The constructor raises an error that states the fix."""
    assert callable(make)
    make(tmp_path / "metrics")

    with pytest.raises(ValueError, match=r"got '.*metrics' \(.*create it before the workers start"):
        WorkerFiles(tmp_path / "metrics")


def test_system_without_fcntl_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, for example, the constructor raises an error."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(
        ValueError, match="PROMETHEUS_MULTIPROC_DIR must not be set on a system without fcntl"
    ):
        WorkerFiles(tmp_path)


def test_full_disk_keeps_new_rows_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage is logged once; earlier counts are still in the scrape."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 1

    with largest_file(0), caplog.at_level(logging.WARNING):
        for number in range(3):
            row = row_of(files, HISTOGRAM, number)
            row[4] += 1
            assert list(row) == [0, 0, 0, 0, 1]

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    with largest_file(0):
        own = files.rows()
    assert value(tmp_path, HISTOGRAM, "0") is None
    assert {family.name: len(rows) for family, rows in own.items()} == {
        COUNTER.name: 1,
        HISTOGRAM.name: 3,
    }
    (message,) = caplog.messages
    assert "metrics of this process are incomplete in scrapes" in message


def test_deleted_folder_does_not_raise(tmp_path: Path) -> None:
    """Existing and new rows can be used after the folder was deleted."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    files = WorkerFiles(folder)
    row = row_of(files, COUNTER, "a", "ok")
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()

    row[0] += 1

    assert list(row_of(files, GAUGE, "a")) == [0]
    files.close()


def test_damaged_file_is_reused_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker counts in a damaged file after the damage was dropped."""
    (tmp_path / "counter_0-tokenpulse.db").write_bytes(b"another format, long enough for a head")

    with caplog.at_level(logging.WARNING):
        row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    (message,) = caplog.messages
    assert re.search(r"dropped damaged rows: file=.*counter_0-tokenpulse\.db error=", message)


def test_closed_files_return_rows_in_memory(tmp_path: Path) -> None:
    """A second call of `close` has no effect."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 1
    files.close()
    files.close()

    assert list(row_of(files, COUNTER, "a", "ok")) == [0]
    assert value(tmp_path, COUNTER, "a", "ok") == [1]


def test_concurrent_threads_get_the_same_rows(tmp_path: Path) -> None:
    """Each row is written once."""
    files = WorkerFiles(tmp_path)

    def request_rows() -> None:
        for number in range(200):
            row_of(files, COUNTER, number, "ok")

    threads = [Thread(target=request_rows) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    row_of(files, COUNTER, "a", "ok")
    assert (tmp_path / "counter_0-tokenpulse.db").read_bytes().count(b"jobs_total") == 201


def test_forked_child_writes_to_its_own_files(tmp_path: Path) -> None:
    """A forked child drops the inherited rows and opens other files."""
    resets, names = forks(tmp_path, parent_counts="yes", child_counts="yes")

    assert resets == [True]
    assert names == ["counter_0-tokenpulse.db", "counter_1-tokenpulse.db"]
    assert value(tmp_path, COUNTER, "a", "ok") == [111]


def test_forked_child_does_not_hold_the_slot_of_its_parent(tmp_path: Path) -> None:
    """The next worker can acquire the parent's slot while the child is alive."""
    _, names = forks(tmp_path, parent_counts="yes", child_counts="no")

    assert names == ["counter_0-tokenpulse.db"]


def test_fork_before_the_first_row_is_supported(tmp_path: Path) -> None:
    """Gunicorn with preload, for example, forks a loaded application."""
    resets, _ = forks(tmp_path, parent_counts="no", child_counts="yes")

    assert resets == [True]
    assert value(tmp_path, COUNTER, "a", "ok") == [10]


def test_after_fork_releases_the_slot(tmp_path: Path) -> None:
    """After a fork all rows must be requested again."""
    resets: list[str] = []
    files = WorkerFiles(tmp_path, on_fork=lambda: resets.append("reset"))
    row_of(files, COUNTER, "a", "ok")

    after_fork_in_child(weakref.ref(files))
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1

    assert resets == ["reset"]
    assert value(tmp_path, COUNTER, "a", "ok") == [1]


def test_after_fork_does_not_wait_for_a_lock_of_the_parent(tmp_path: Path) -> None:
    """The thread that held the lock does not exist in the child."""
    busy, resume = Event(), Event()
    finished: list[bool] = []

    class Slow:
        def __str__(self) -> str:
            busy.set()
            resume.wait(PATIENCE)
            finished.append(True)
            return "slow"

    files = WorkerFiles(tmp_path)
    thread = Thread(target=row_of, args=(files, COUNTER, Slow(), "ok"))
    thread.start()
    assert busy.wait(PATIENCE)

    after_fork_in_child(weakref.ref(files))
    row_of(files, COUNTER, "a", "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    assert not finished
    resume.set()
    thread.join()


def test_after_fork_ignores_discarded_files(tmp_path: Path) -> None:
    """The fork hook does not keep discarded files alive."""
    files = WorkerFiles(tmp_path)
    reference = weakref.ref(files)

    del files
    gc.collect()

    assert reference() is None
    after_fork_in_child(reference)


NAME = "histogram_0-tokenpulse.db"


def labels_in(path: Path) -> list[str]:
    """Return the labels of the rows in a file."""
    return [row.labels[0] for row in parse_rows(read_used(path), "histogram").rows]


def test_change_of_a_row_is_visible_to_readers_at_once(tmp_path: Path) -> None:
    """Readers see each change of a row, because it is mapped memory of the file."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))

    row[0] += 1.5

    used = read_used(tmp_path / NAME)
    (stored,) = parse_rows(used, "histogram").rows
    assert list(memoryview(used.data).cast("d")[stored.values]) == [1.5, 0, 0, 0, 0]


def test_rows_stay_valid_when_the_file_grows(tmp_path: Path) -> None:
    """A row returned before still counts in the file."""
    file = RowFile(tmp_path / NAME, "histogram")
    first = file.new_row(HISTOGRAM, ("first",))

    for number in range(1000):
        file.new_row(HISTOGRAM, (str(number),))[1] += number
    first[0] += 7

    assert (tmp_path / NAME).stat().st_size > MIN_FILE_BYTES
    same = file.row(HISTOGRAM, ("first",))
    assert same is not None
    assert same[0] == 7
    assert len(labels_in(tmp_path / NAME)) == file.count("job_seconds") == 1001


def test_existing_rows_are_reused(tmp_path: Path) -> None:
    """A row that exists in the file is not written a second time."""
    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))[0] = 3

    file = RowFile(tmp_path / NAME, "histogram")

    row = file.row(HISTOGRAM, ("a",))
    assert row is not None
    assert row[0] == 3
    assert file.row(HISTOGRAM, ("b",)) is None
    assert file.damage is None


@pytest.mark.parametrize("left", [0, 3, 8, 100, 600])
def test_truncated_file_is_repaired(tmp_path: Path, left: int) -> None:
    """Complete rows are kept, and the file can be used as usual."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    for name in ("a", "b"):
        file.new_row(HISTOGRAM, (name,))
    complete = ["a"] if left == 600 else []
    path.write_bytes(path.read_bytes()[:left])

    repaired = RowFile(path, "histogram")
    repaired.new_row(HISTOGRAM, ("c",))

    assert repaired.damage is not None
    assert labels_in(path) == [*complete, "c"]
    assert RowFile(path, "histogram").damage is None


def test_repaired_file_has_a_new_stamp(tmp_path: Path) -> None:
    """The new stamp shows readers that rows may have moved."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    before = read_used(path).stamp
    path.write_bytes(path.read_bytes()[:100])

    RowFile(path, "histogram")

    assert read_used(path).stamp != before


@pytest.mark.parametrize("length", [-8, 0, 7, 1 << 30])
def test_invalid_length_is_damage(tmp_path: Path, length: int) -> None:
    """Rows of a file with an invalid length are read if possible."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    path.write_bytes(INTEGER.pack(length) + path.read_bytes()[4:])

    used = read_used(path)

    assert used.damage is not None
    assert [row.labels for row in parse_rows(used, "histogram").rows] == [("a",)] * (
        length > HEAD_BYTES
    )


def test_row_behind_the_used_part_is_overwritten(tmp_path: Path) -> None:
    """A worker killed between writing a row and the length leaves no trace."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    file.new_row(HISTOGRAM, ("a",))
    end = len(read_used(path).data)
    file.new_row(HISTOGRAM, ("killed",))[0] = 5
    with path.open("r+b") as head:
        head.write(INTEGER.pack(end))

    row = RowFile(path, "histogram").new_row(HISTOGRAM, ("b",))

    assert labels_in(path) == ["a", "b"]
    assert list(row) == [0] * 5


def test_unfinished_new_file_is_replaced(tmp_path: Path) -> None:
    """A file of a worker that was killed during its creation is created again."""
    (tmp_path / NAME).with_suffix(".new").write_bytes(b"half")

    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))

    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert labels_in(tmp_path / NAME) == ["a"]


def test_full_disk_raises_instead_of_a_signal(tmp_path: Path) -> None:
    """Existing rows still count; new rows are added when there is space."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))
    added = 1

    with largest_file(MIN_FILE_BYTES + 100):
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012 - the number is unknown
            while added < 1000:
                file.new_row(HISTOGRAM, (str(added),))
                added += 1
        row[0] += 1

    file.new_row(HISTOGRAM, ("b",))
    assert row[0] == 1
    assert len(labels_in(tmp_path / NAME)) == added + 1


def test_file_has_a_maximum_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of a file cannot state a larger size than the maximum."""
    monkeypatch.setattr(writer, "MAX_FILE_BYTES", 700)
    file = RowFile(tmp_path / NAME, "histogram")
    file.new_row(HISTOGRAM, ("a",))

    with pytest.raises(OSError, match="metrics file has reached its maximum size"):
        file.new_row(HISTOGRAM, ("b",))

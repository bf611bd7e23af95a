"""WorkerFiles: rows that other processes see."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import weakref
from pathlib import Path
from threading import Event, Thread

import pytest

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, writer
from tokenpulse_mw.metrics.multiprocess.entries import HEAD, INTEGER, contents, read_used
from tokenpulse_mw.metrics.multiprocess.writer import MIN_FILE_BYTES, RowFile, in_child

from ...support.full_disk import largest_file
from ...support.waiting import PATIENCE
from .samples import COUNTER, GAUGE, HISTOGRAM, row_of, value

ROOT = Path(__file__).parents[3]


def forks(folder: Path, *, parent_counts: str, child_counts: str) -> tuple[list[bool], list[str]]:
    """Whether a forked child was told to forget, and the counter files at last."""
    command = [sys.executable, "-m", "tests.support.worker_fork", str(folder)]
    command += [parent_counts, child_counts]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
    forgotten, names = json.loads(done.stdout)
    return forgotten, [name for name in names if name.startswith("counter")]


def test_nothing_is_written_before_it_is_needed(tmp_path: Path) -> None:
    """A process that only starts the workers leaves no trace."""
    WorkerFiles(tmp_path).close()

    assert not list(tmp_path.iterdir())


def test_a_row_is_the_same_when_it_is_asked_for_again(tmp_path: Path) -> None:
    """Whatever type its labels are of."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", 200)[0] += 1
    row_of(files, COUNTER, "a", "200")[0] += 1

    assert value(tmp_path, COUNTER, "a", "200") == [2]


def test_a_row_begins_at_zero_and_counts_as_a_list_would(tmp_path: Path) -> None:
    """A histogram's is its sum, then each bucket's count, +Inf last."""
    files = WorkerFiles(tmp_path)
    row = row_of(files, HISTOGRAM, "a")
    assert list(row) == [0.0] * 5

    row[0] += 7.5
    row[4] += 1

    assert value(tmp_path, HISTOGRAM, "a") == [7.5, 0, 0, 0, 1]


def test_who_starts_later_goes_on_where_the_dead_left_off(tmp_path: Path) -> None:
    """What was counted once stays counted, and is counted once."""
    for number in range(10):
        files = WorkerFiles(tmp_path)
        row_of(files, COUNTER, "a", "ok")[0] += number
        if number % 2:
            files.close()

    assert value(tmp_path, COUNTER, "a", "ok") == [45]
    assert len(list(tmp_path.glob("*.db"))) == 1


def test_gauges_end_with_their_worker(tmp_path: Path) -> None:
    """Also for prometheus_client's own collector, when the worker says good-bye."""
    files = WorkerFiles(tmp_path)
    row_of(files, GAUGE, "a")[0] = 5

    files.close()

    assert value(tmp_path, GAUGE, "a") is None
    assert not list(tmp_path.glob("gauge*"))


REST = ("__overflow__", "__overflow__")


def test_a_family_has_so_many_rows(tmp_path: Path) -> None:
    """What exceeds them is folded into one more, and told each time that it is asked for."""
    told: list[str] = []
    files = WorkerFiles(tmp_path, most=2, on_overflow=lambda family: told.append(family.name))
    for name in "abcdca":
        row_of(files, COUNTER, name, "ok")[0] += 1
    row_of(files, COUNTER, *REST)[0] += 10
    row_of(files, HISTOGRAM, "c")[1] += 1

    assert told == ["jobs_total"] * 3
    assert value(tmp_path, COUNTER, "a", "ok") == [2]
    assert value(tmp_path, COUNTER, *REST) == [13]
    assert value(tmp_path, HISTOGRAM, "c") == [0, 1, 0, 0, 0]


def test_the_rows_of_the_dead_are_among_the_most(tmp_path: Path) -> None:
    """So files do not grow with every worker that comes."""
    for name in "abcdc":
        row_of(WorkerFiles(tmp_path, most=2), COUNTER, name, "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == value(tmp_path, COUNTER, "b", "ok") == [1]
    assert value(tmp_path, COUNTER, *REST) == [3]


def test_the_row_that_takes_the_rest_is_no_overflow(tmp_path: Path) -> None:
    """Who folds already is not told so again."""
    told: list[Family] = []
    row_of(WorkerFiles(tmp_path, most=1), COUNTER, "a", "ok")

    row_of(WorkerFiles(tmp_path, most=1, on_overflow=told.append), COUNTER, *REST)

    assert not told


def test_overflow_may_be_counted_in_a_row_of_its_own(tmp_path: Path) -> None:
    """Also where that is folded itself: then nobody is told of that."""
    overflow = COUNTER._replace(name="overflow_total", labels=("family",))

    def count(family: Family) -> None:
        row_of(files, overflow, family.name)[0] += 1

    files = WorkerFiles(tmp_path, most=1, on_overflow=count)
    for family in (COUNTER, COUNTER._replace(name="other_total")):
        for name in "abc":
            row_of(files, family, name, "ok")[0] += 1

    assert value(tmp_path, overflow, "jobs_total") == [2]
    assert value(tmp_path, overflow, "__overflow__") == [2]


@pytest.mark.parametrize("make", [Path.touch, Path.exists], ids=["a file", "nothing"])
def test_the_folder_must_be_one(tmp_path: Path, make: object) -> None:
    """The error says what came and what to do, when the process starts."""
    assert callable(make)
    make(tmp_path / "metrics")

    with pytest.raises(ValueError, match=r"got '.*metrics' \(.*make it before the workers start"):
        WorkerFiles(tmp_path / "metrics")


def test_files_must_be_lockable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not, as on Windows, the error says so when the process starts."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(
        ValueError, match="this system has no fcntl: unset PROMETHEUS_MULTIPROC_DIR"
    ):
        WorkerFiles(tmp_path)


def test_a_full_disk_costs_counts_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are lists then, and the log says it once; what was counted is still in the scrape."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 1

    with largest_file(0), caplog.at_level(logging.WARNING):
        for number in range(3):
            row = row_of(files, HISTOGRAM, number)
            row[4] += 1
            assert list(row) == [0, 0, 0, 0, 1]

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    assert value(tmp_path, HISTOGRAM, "0") is None
    (told,) = caplog.messages
    assert "a part of what this process counts is in no scrape" in told


def test_a_folder_that_goes_away_costs_no_request(tmp_path: Path) -> None:
    """Whether rows are there already or not."""
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


def test_a_damaged_file_is_taken_over_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker counts in it as in any other."""
    (tmp_path / "counter_0-tokenpulse.db").write_bytes(b"no file of ours, long enough for a head")

    with caplog.at_level(logging.WARNING):
        row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    (told,) = caplog.messages
    assert "counter_0-tokenpulse.db is damaged and dropped" in told


def test_a_closed_one_counts_nowhere(tmp_path: Path) -> None:
    """A row asked for too late is a list; closing twice is nothing."""
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 1
    files.close()
    files.close()

    assert list(row_of(files, COUNTER, "a", "ok")) == [0]
    assert value(tmp_path, COUNTER, "a", "ok") == [1]


def test_threads_get_the_same_rows(tmp_path: Path) -> None:
    """However they come upon a row at the same time, it is written once."""
    files = WorkerFiles(tmp_path)

    def ask() -> None:
        for number in range(200):
            row_of(files, COUNTER, number, "ok")

    threads = [Thread(target=ask) for _ in range(4)]
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


def test_a_forked_child_counts_apart(tmp_path: Path) -> None:
    """It is told to forget its rows, and writes to files of its own."""
    forgotten, names = forks(tmp_path, parent_counts="yes", child_counts="yes")

    assert forgotten == [True]
    assert names == ["counter_0-tokenpulse.db", "counter_1-tokenpulse.db"]
    assert value(tmp_path, COUNTER, "a", "ok") == [111]


def test_a_forked_child_does_not_keep_its_parents_place(tmp_path: Path) -> None:
    """Who comes after the parent takes it over, while the child still lives."""
    _, names = forks(tmp_path, parent_counts="yes", child_counts="no")

    assert names == ["counter_0-tokenpulse.db"]


def test_workers_of_a_process_that_never_counted(tmp_path: Path) -> None:
    """An application loaded before the workers are forked, as by gunicorn's preload, is fine."""
    forgotten, _ = forks(tmp_path, parent_counts="no", child_counts="yes")

    assert forgotten == [True]
    assert value(tmp_path, COUNTER, "a", "ok") == [10]


def test_a_child_lets_go(tmp_path: Path) -> None:
    """What is done in it: the place is free for others, and rows are to be asked for anew."""
    told: list[str] = []
    files = WorkerFiles(tmp_path, on_fork=lambda: told.append("forget"))
    row_of(files, COUNTER, "a", "ok")

    in_child(weakref.ref(files))
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1

    assert told == ["forget"]
    assert value(tmp_path, COUNTER, "a", "ok") == [1]


def test_a_child_does_not_wait_for_a_thread_of_its_parent(tmp_path: Path) -> None:
    """One that was busy with the files at the fork is not there to finish."""
    busy, go_on = Event(), Event()
    finished: list[bool] = []

    class Slow:
        def __str__(self) -> str:
            busy.set()
            go_on.wait(PATIENCE)
            finished.append(True)
            return "slow"

    files = WorkerFiles(tmp_path)
    thread = Thread(target=row_of, args=(files, COUNTER, Slow(), "ok"))
    thread.start()
    assert busy.wait(PATIENCE)

    in_child(weakref.ref(files))
    row_of(files, COUNTER, "a", "ok")[0] += 1

    assert value(tmp_path, COUNTER, "a", "ok") == [1]
    assert not finished
    go_on.set()
    thread.join()


def test_a_child_has_nothing_to_do_for_what_is_gone(tmp_path: Path) -> None:
    """Files that nobody uses any more are not kept for children to come."""
    files = WorkerFiles(tmp_path)
    gone = weakref.ref(files)

    del files
    gc.collect()

    assert gone() is None
    in_child(gone)


NAME = "histogram_0-tokenpulse.db"


def labels_in(path: Path) -> list[str]:
    """The labels of the rows in a file."""
    return [row.labels[0] for row in contents(read_used(path), "histogram").rows]


def test_a_row_is_in_the_file_at_once(tmp_path: Path) -> None:
    """Who reads it sees what was added just now."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))

    row[0] += 1.5

    used = read_used(tmp_path / NAME)
    (found,) = contents(used, "histogram").rows
    assert list(memoryview(used.data).cast("d")[found.place]) == [1.5, 0, 0, 0, 0]


def test_rows_stay_while_the_file_grows(tmp_path: Path) -> None:
    """A row handed out before goes on counting into the same file."""
    file = RowFile(tmp_path / NAME, "histogram")
    first = file.new_row(HISTOGRAM, ("first",))

    for number in range(1000):
        file.new_row(HISTOGRAM, (str(number),))[1] += number
    first[0] += 7

    assert (tmp_path / NAME).stat().st_size > MIN_FILE_BYTES
    same = file.row(HISTOGRAM, ("first",))
    assert same is not None
    assert same[0] == 7
    assert len(labels_in(tmp_path / NAME)) == file.rows("job_seconds") == 1001


def test_who_comes_after_goes_on_with_the_rows(tmp_path: Path) -> None:
    """They are found again, and not written a second time."""
    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))[0] = 3

    file = RowFile(tmp_path / NAME, "histogram")

    row = file.row(HISTOGRAM, ("a",))
    assert row is not None
    assert row[0] == 3
    assert file.row(HISTOGRAM, ("b",)) is None
    assert file.damage is None


@pytest.mark.parametrize("left", [0, 3, 8, 100, 600])
def test_a_file_that_was_cut_is_mended(tmp_path: Path, left: int) -> None:
    """Its whole rows go on counting, and it can be written and read as any other."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    for name in ("a", "b"):
        file.new_row(HISTOGRAM, (name,))
    whole = ["a"] if left == 600 else []
    path.write_bytes(path.read_bytes()[:left])

    mended = RowFile(path, "histogram")
    mended.new_row(HISTOGRAM, ("c",))

    assert mended.damage is not None
    assert labels_in(path) == [*whole, "c"]
    assert RowFile(path, "histogram").damage is None


def test_a_mended_file_has_another_stamp(tmp_path: Path) -> None:
    """So whoever has read it before knows that rows may lie elsewhere now."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    before = read_used(path).stamp
    path.write_bytes(path.read_bytes()[:100])

    RowFile(path, "histogram")

    assert read_used(path).stamp != before


@pytest.mark.parametrize("length", [-8, 0, 7, 1 << 30])
def test_a_length_that_cannot_be_is_damage(tmp_path: Path, length: int) -> None:
    """It is told, and what rows there are is found if it can be."""
    path = tmp_path / NAME
    RowFile(path, "histogram").new_row(HISTOGRAM, ("a",))
    path.write_bytes(INTEGER.pack(length) + path.read_bytes()[4:])

    used = read_used(path)

    assert used.damage is not None
    assert [row.labels for row in contents(used, "histogram").rows] == [("a",)] * (length > HEAD)


def test_what_was_not_yet_counted_as_used_is_written_over(tmp_path: Path) -> None:
    """A worker that is killed between writing a row and telling of it leaves no trace."""
    path = tmp_path / NAME
    file = RowFile(path, "histogram")
    file.new_row(HISTOGRAM, ("a",))
    end = len(read_used(path).data)
    file.new_row(HISTOGRAM, ("killed here",))[0] = 5
    with path.open("r+b") as head:
        head.write(INTEGER.pack(end))

    row = RowFile(path, "histogram").new_row(HISTOGRAM, ("b",))

    assert labels_in(path) == ["a", "b"]
    assert list(row) == [0] * 5


def test_a_file_that_was_never_finished_is_no_obstacle(tmp_path: Path) -> None:
    """A worker that is killed while it makes its file leaves one that is made anew."""
    (tmp_path / NAME).with_suffix(".new").write_bytes(b"half")

    RowFile(tmp_path / NAME, "histogram").new_row(HISTOGRAM, ("a",))

    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert labels_in(tmp_path / NAME) == ["a"]


def test_a_full_disk_is_an_error_and_no_signal(tmp_path: Path) -> None:
    """The rows that fit go on counting; when there is room again, new ones come."""
    file = RowFile(tmp_path / NAME, "histogram")
    row = file.new_row(HISTOGRAM, ("a",))
    added = 1

    with largest_file(MIN_FILE_BYTES + 100):
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012 - whichever is one too many
            while added < 1000:
                file.new_row(HISTOGRAM, (str(added),))
                added += 1
        row[0] += 1

    file.new_row(HISTOGRAM, ("b",))
    assert row[0] == 1
    assert len(labels_in(tmp_path / NAME)) == added + 1


def test_a_file_is_never_larger_than_its_head_can_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it is full."""
    monkeypatch.setattr(writer, "MAX_FILE_BYTES", 700)
    file = RowFile(tmp_path / NAME, "histogram")
    file.new_row(HISTOGRAM, ("a",))

    with pytest.raises(OSError, match="a file of rows is full"):
        file.new_row(HISTOGRAM, ("b",))

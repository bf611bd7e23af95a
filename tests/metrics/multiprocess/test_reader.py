"""Reader that merges the rows of all workers."""

from __future__ import annotations

import logging
import os
import re
import sys
from array import array
from collections import Counter, defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import mmap_dict

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers
from tokenpulse_mw.metrics.multiprocess.entries import INTEGER
from tokenpulse_mw.metrics.multiprocess.reader import Rows, add_rows, merge_by_name

from .samples import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    MAX_GAUGE,
    client_samples,
    merged_samples,
    row_of,
    value,
)

FAMILIES = [COUNTER, GAUGE, HISTOGRAM]
ACTIONS = ["count", "count", "count", "die", "close", "scrape"]
TEXT = st.sampled_from(
    ["", "a", "/v1/{vendor}", "ünï \U0001f600", '"le":""', "\\ \n\0", "x" * 3000]
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.integers(0, 3),
        st.sampled_from(FAMILIES),
        st.tuples(TEXT, TEXT),
        st.integers(0, 4),
        st.integers(1, 9),
    ),
    max_size=40,
)

Totals = dict[tuple[str, tuple[str, ...]], Counter[int]]


class Fleet:
    """Four workers that count, end and are replaced, with the expected totals."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counted: Totals = defaultdict(Counter)
        self.running: list[Totals] = [defaultdict(Counter) for _ in range(4)]
        self.workers = [WorkerFiles(folder) for _ in range(4)]
        self.scraper = Workers(folder)

    def count(
        self, index: int, family: Family, labels: tuple[str, ...], at: int, amount: int
    ) -> None:
        """Add to a value of a row of a worker."""
        row = row_of(self.workers[index], family, *labels)
        at %= len(row)
        row[at] += amount
        totals = self.running[index] if family.kind == "gauge" else self.counted
        totals[family.name, labels][at] += amount

    def end(self, index: int) -> None:
        """Replace a worker."""
        self.workers[index] = WorkerFiles(self.folder)
        self.running[index] = defaultdict(Counter)

    def expected(self) -> dict[tuple[str, tuple[str, ...]], dict[int, int]]:
        """Return all values other than 0."""
        result: Totals = defaultdict(Counter)
        for totals in (self.counted, *self.running):
            for row, values in totals.items():
                result[row] += values
        return {row: dict(values) for row, values in result.items()}

    def scraped(self) -> dict[tuple[str, tuple[str, ...]], dict[int, int]]:
        """Return all values other than 0 in a scrape."""
        return {
            (name, labels): {at: int(value) for at, value in enumerate(row) if value}
            for name, (_, rows) in self.scraper.series().items()
            for labels, row in rows.items()
            if any(row)
        }


@given(STEPS)
def test_total_is_the_sum_over_all_workers(steps: list[Any]) -> None:
    """For any sequence of workers that count, crash and close, no count is lost or duplicated."""
    with TemporaryDirectory() as name:
        fleet = Fleet(Path(name))
        for action, index, family, texts, at, amount in steps:
            if action == "count":
                fleet.count(index, family, texts[: len(family.labels)], at, amount)
            elif action == "scrape":
                assert fleet.scraped() == fleet.expected()
            else:
                if action == "close":
                    fleet.workers[index].close()
                fleet.end(index)

        assert fleet.scraped() == fleet.expected()
        assert merged_samples(Path(name)) == client_samples(Path(name))
        assert len(list(Path(name).glob("*.db"))) <= 3 * len(fleet.workers)


def test_scrape_includes_changes_since_the_last_scrape(tmp_path: Path) -> None:
    """New values, rows, files and workers are included; earlier results are not modified."""
    workers = Workers(tmp_path)
    files = WorkerFiles(tmp_path)
    row_of(files, COUNTER, "a", "ok")[0] += 1
    first = workers.series()["jobs_total"][1]

    row_of(files, COUNTER, "a", "ok")[0] += 1
    for number in range(1000):
        row_of(files, COUNTER, number, "ok")[0] += number
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 5
    row_of(files, HISTOGRAM, "a")[1] += 1

    series = workers.series()
    assert first == {("a", "ok"): [1]}
    assert series["jobs_total"][1]["a", "ok"] == [7]
    assert sum(row[0] for row in series["jobs_total"][1].values()) == 7 + sum(range(1000))
    assert series["job_seconds"] == (HISTOGRAM, {("a",): [0, 1, 0, 0, 0]})


def test_families_are_restored_from_the_files(tmp_path: Path) -> None:
    """Name, type, help, label order and buckets are read from the keys."""
    files = WorkerFiles(tmp_path)
    backwards = COUNTER._replace(name="other_total", labels=("status", "name"))
    for family in (*FAMILIES, MAX_GAUGE, backwards):
        row_of(files, family, *"ab"[: len(family.labels)])

    families = {family for family, _ in Workers(tmp_path).series().values()}

    assert families == {*FAMILIES, MAX_GAUGE, backwards}


def test_gauges_of_ended_workers_do_not_count(tmp_path: Path) -> None:
    """Only counters and histograms of an ended worker still count."""
    live, ended = WorkerFiles(tmp_path), WorkerFiles(tmp_path)
    for files in (live, ended):
        row_of(files, GAUGE, "a")[0] += 1
        row_of(files, COUNTER, "a", "ok")[0] += 1
    assert value(tmp_path, GAUGE, "a") == [2]

    del ended, files

    assert value(tmp_path, GAUGE, "a") == [1]
    assert value(tmp_path, COUNTER, "a", "ok") == [2]
    assert merged_samples(tmp_path) == client_samples(tmp_path)


def test_max_gauge_is_the_maximum_of_live_workers(tmp_path: Path) -> None:
    """A high value of one worker is not hidden by those of the others."""
    live, early, ended = (WorkerFiles(tmp_path) for _ in range(3))
    for files, start in ((live, 10), (early, 20), (ended, 30)):
        row_of(files, MAX_GAUGE, "a")[0] = start
    assert value(tmp_path, MAX_GAUGE, "a") == [30]

    del ended, files

    assert value(tmp_path, MAX_GAUGE, "a") == [20]
    assert merged_samples(tmp_path) == client_samples(tmp_path)


def test_files_of_prometheus_client_are_ignored(tmp_path: Path) -> None:
    """The files of prometheus_client are left to its own collector."""
    path = tmp_path / "counter_123.db"
    client_file = mmap_dict.MmapedDict(str(path))  # type: ignore[no-untyped-call]
    key = mmap_dict.mmap_key("other", "other_total", [], [], "Other")
    client_file.write_value(key, 3.0, 0.0)  # type: ignore[no-untyped-call]
    client_file.close()  # type: ignore[no-untyped-call]
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")

    assert set(Workers(tmp_path).series()) == {"jobs_total"}
    assert client_samples(tmp_path)["other_total", frozenset()] == 3


def test_worker_with_other_buckets_is_merged(tmp_path: Path) -> None:
    """Counts of equal bounds are added, as in prometheus_client."""
    older = HISTOGRAM._replace(buckets=(0.25, 1, 5.0), help="Older")
    first, second = WorkerFiles(tmp_path), WorkerFiles(tmp_path)
    for files, family in ((first, HISTOGRAM), (second, older)):
        row = row_of(files, family, "a")
        for at in range(5):
            row[at] += at + 1

    assert merged_samples(tmp_path) == client_samples(tmp_path)
    assert value(tmp_path, HISTOGRAM, "a") == [2, 2, 2, 6, 4, 4, 10]


def test_file_may_have_rows_with_other_buckets(tmp_path: Path) -> None:
    """A worker that takes over a file does not change existing rows."""
    older = HISTOGRAM._replace(buckets=(0.25, 1, 5.0))
    row_of(WorkerFiles(tmp_path), older, "a")[1] += 3
    row_of(WorkerFiles(tmp_path), HISTOGRAM, "a")[1] += 4

    assert len(list(tmp_path.glob("*.db"))) == 1
    assert value(tmp_path, HISTOGRAM, "a") == [0, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\0" * 8, b"\xff" * 100, INTEGER.pack(1 << 30) + b"\0" * 100, os.urandom(1000)],
    ids=["empty", "short", "zero length", "negative length", "too long", "random"],
)
def test_unreadable_file_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """The other files are merged in each scrape."""
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1
    (tmp_path / "counter_1-tokenpulse.db").write_bytes(content)
    workers = Workers(tmp_path)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert workers.series() == {"jobs_total": (COUNTER, {("a", "ok"): [1]})}

    (message,) = caplog.messages
    assert re.search(r"cannot read path=.*counter_1-tokenpulse\.db error=", message)


def test_truncated_file_counts_up_to_the_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows behind the damage are dropped, even if they were read before."""
    path = tmp_path / "counter_0-tokenpulse.db"
    files = WorkerFiles(tmp_path)
    for name in ("a", "b"):
        row_of(files, COUNTER, name, "ok")[0] += 1
    workers = Workers(tmp_path)
    assert len(workers.series()["jobs_total"][1]) == 2

    copy = path.read_bytes()[:150]
    path.unlink()  # to truncate the mapped file would kill this process
    path.write_bytes(copy)

    with caplog.at_level(logging.WARNING):
        assert workers.series()["jobs_total"][1] == {("a", "ok"): [1]}
    assert len(caplog.messages) == 1


def test_replaced_file_is_read_again(tmp_path: Path) -> None:
    """A folder may be emptied before a restart."""
    workers = Workers(tmp_path)
    for name in ("a", "b"):
        files = WorkerFiles(tmp_path)
        row_of(files, COUNTER, name, "ok")[0] += 1
        assert workers.series()["jobs_total"][1] == {(name, "ok"): [1]}
        del files
        for path in tmp_path.iterdir():
            path.unlink()


def test_missing_folder_gives_an_empty_scrape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage is logged once."""
    workers = Workers(tmp_path / "gone")

    with caplog.at_level(logging.WARNING):
        assert workers.series() == workers.series() == {}

    (message,) = caplog.messages
    assert re.search(r"cannot read path=.*gone error=", message)


def test_file_without_permission_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that cannot be read is logged, and the other files are merged."""
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1
    row_of(WorkerFiles(tmp_path), HISTOGRAM, "a")
    workers = Workers(tmp_path)

    def refuse(*_: object) -> bytes:
        raise PermissionError("permission denied")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(os, "pread", refuse)
        assert workers.series() == {}

    assert set(workers.series()) == {"jobs_total", "job_seconds"}
    assert ["permission denied" in message for message in caplog.messages] == [True, True]


def test_file_removed_during_a_scrape_is_not_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends removes its gauges, which is not an error."""
    files = WorkerFiles(tmp_path)
    row_of(files, GAUGE, "a")
    workers = Workers(tmp_path)
    is_file = Path.is_file

    def close_after(path: Path) -> bool:
        result = is_file(path)
        files.close()
        return result

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", close_after)
        assert workers.series() == {}
    assert not caplog.messages


def test_system_without_fcntl_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows, for example, the constructor raises an error."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(ValueError, match="must not be set on a system without fcntl"):
        Workers(tmp_path)


def test_add_rows_adds_value_by_value() -> None:
    """Values of existing rows are added, and missing rows are created."""
    rows: Rows = {("a",): [1.0, 2.0]}
    doubles = memoryview(array("d", [10, 0, 20, 0, 30, 0, 40, 0]).tobytes()).cast("d")

    add_rows(HISTOGRAM, rows, [(("a",), slice(0, 3, 2)), (("b",), slice(4, 7, 2))], doubles)

    assert rows == {("a",): [11, 22], ("b",): [30, 40]}


def test_merge_keeps_families_with_different_names() -> None:
    """Each family keeps its rows."""
    tables: dict[Family, Rows] = {COUNTER: {("a", "ok"): [1.0]}, GAUGE: {("a",): [2.0]}}

    assert merge_by_name(tables) == {family.name: (family, rows) for family, rows in tables.items()}


def test_merge_keeps_counts_at_their_bounds() -> None:
    """The result has the bounds of all workers."""
    other = HISTOGRAM._replace(buckets=(0.25, 1.0, 3.0))
    tables: dict[Family, Rows] = {
        HISTOGRAM: {("a",): [9.0, 1, 2, 3, 4]},
        other: {("a",): [1.0, 10, 20, 30, 40]},
    }

    family, rows = merge_by_name(tables)["job_seconds"]

    assert family.buckets == (0.25, 0.5, 1, 3.0, 1e6)
    assert rows == {("a",): [10, 10, 1, 22, 30, 3, 44]}


def test_merge_leaves_unknown_labels_empty() -> None:
    """Prometheus treats an empty label as absent."""
    older = COUNTER._replace(labels=("status", "team"), help="Older")
    tables: dict[Family, Rows] = {
        COUNTER: {("a", "ok"): [1.0], ("", "ok"): [1.0]},
        older: {("ok", ""): [5.0]},
    }

    family, rows = merge_by_name(tables)["jobs_total"]

    assert (family.labels, family.help) == (("name", "status", "team"), "Jobs")
    assert rows == {("a", "ok", ""): [1], ("", "ok", ""): [6]}


def test_merge_keeps_the_first_of_two_types() -> None:
    """Values of different types cannot be added."""
    gauge = COUNTER._replace(kind="gauge")
    tables: dict[Family, Rows] = {COUNTER: {("a", "ok"): [1.0]}, gauge: {("a", "ok"): [5.0]}}

    assert merge_by_name(tables) == {"jobs_total": (COUNTER, {("a", "ok"): [1.0]})}


def test_merge_keeps_the_maximum_of_max_gauges() -> None:
    """Workers of two versions may have different labels."""
    newest = Family("begun_seconds", "gauge", "Begun", ("name",), merge="max")
    rows: Rows = {("a",): [2.0]}
    doubles = memoryview(array("d", [3, 1]).tobytes()).cast("d")

    add_rows(newest, rows, [(("a",), slice(0, 1)), (("b",), slice(1, 2))], doubles)
    older = newest._replace(labels=(), help="Older")
    merged = merge_by_name(
        {newest: rows, older: {(): [5.0]}, newest._replace(help="New"): {("a",): [1]}}
    )

    assert rows == {("a",): [3], ("b",): [1]}
    assert merged["begun_seconds"][1] == {("a",): [3], ("b",): [1], ("",): [5]}

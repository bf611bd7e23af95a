"""Workers: what all processes have counted together."""

from __future__ import annotations

import logging
import os
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
from tokenpulse_mw.metrics.multiprocess.reader import Rows, add_rows, by_name

from .samples import COUNTER, GAUGE, HISTOGRAM, LEAST, ours, row_of, stock, value

FAMILIES = [COUNTER, GAUGE, HISTOGRAM]


ACTS = ["count", "count", "count", "die", "close", "scrape"]


TEXT = st.sampled_from(
    ["", "a", "/v1/{vendor}", "ünï \U0001f600", '"le":""', "\\ \n\0", "x" * 3000]
)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(ACTS),
        st.integers(0, 3),
        st.sampled_from(FAMILIES),
        st.tuples(TEXT, TEXT),
        st.integers(0, 4),
        st.integers(1, 9),
    ),
    max_size=40,
)


Totals = dict[tuple[str, tuple[str, ...]], Counter[int]]


class Company:
    """Four workers that count, die and are replaced; knows what they must come to together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.counted: Totals = defaultdict(Counter)
        self.running: list[Totals] = [defaultdict(Counter) for _ in range(4)]
        self.workers = [WorkerFiles(folder) for _ in range(4)]
        self.scraper = Workers(folder)

    def count(
        self, who: int, family: Family, labels: tuple[str, ...], at: int, amount: int
    ) -> None:
        """A worker adds to one value of one row."""
        row = row_of(self.workers[who], family, *labels)
        at %= len(row)
        row[at] += amount
        totals = self.running[who] if family.kind == "gauge" else self.counted
        totals[family.name, labels][at] += amount

    def end(self, who: int) -> None:
        """A worker is gone, and another comes."""
        self.workers[who] = WorkerFiles(self.folder)
        self.running[who] = defaultdict(Counter)

    def expected(self) -> dict[tuple[str, tuple[str, ...]], dict[int, int]]:
        """Every value that is not 0."""
        whole: Totals = defaultdict(Counter)
        for totals in (self.counted, *self.running):
            for row, values in totals.items():
                whole[row] += values
        return {row: dict(values) for row, values in whole.items()}

    def scraped(self) -> dict[tuple[str, tuple[str, ...]], dict[int, int]]:
        """The same as the scrape has it."""
        return {
            (name, labels): {at: int(value) for at, value in enumerate(row) if value}
            for name, (_, rows) in self.scraper.series().items()
            for labels, row in rows.items()
            if any(row)
        }


@given(STEPS)
def test_the_whole_is_the_sum_however_it_is_split(steps: list[Any]) -> None:
    """Over any workers, of which any die at any time: nothing is lost, nothing counted twice."""
    with TemporaryDirectory() as name:
        company = Company(Path(name))
        for act, who, family, texts, at, amount in steps:
            if act == "count":
                company.count(who, family, texts[: len(family.labels)], at, amount)
            elif act == "scrape":
                assert company.scraped() == company.expected()
            else:
                if act == "close":
                    company.workers[who].close()
                company.end(who)

        assert company.scraped() == company.expected()
        assert ours(Path(name)) == stock(Path(name))
        assert len(list(Path(name).glob("*.db"))) <= 3 * len(company.workers)


def test_a_scrape_sees_what_came_since_the_last(tmp_path: Path) -> None:
    """New values, new rows, new files and new workers, and nothing of the last one's is altered."""
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


def test_families_come_back_as_they_were(tmp_path: Path) -> None:
    """Name, type, help, the order of labels, and buckets."""
    files = WorkerFiles(tmp_path)
    backwards = COUNTER._replace(name="other_total", labels=("status", "name"))
    for family in (*FAMILIES, LEAST, backwards):
        row_of(files, family, *"ab"[: len(family.labels)])

    found = {family for family, _ in Workers(tmp_path).series().values()}

    assert found == {*FAMILIES, LEAST, backwards}


def test_gauges_of_the_dead_do_not_count(tmp_path: Path) -> None:
    """However a worker ended; its counters do, for ever."""
    alive, dead = WorkerFiles(tmp_path), WorkerFiles(tmp_path)
    for files in (alive, dead):
        row_of(files, GAUGE, "a")[0] += 1
        row_of(files, COUNTER, "a", "ok")[0] += 1
    assert value(tmp_path, GAUGE, "a") == [2]

    del dead, files

    assert value(tmp_path, GAUGE, "a") == [1]
    assert value(tmp_path, COUNTER, "a", "ok") == [2]
    assert ours(tmp_path) == stock(tmp_path)


def test_the_least_of_those_who_live_is_shown(tmp_path: Path) -> None:
    """One worker that stands still is not hidden by those that go on."""
    alive, late, dead = (WorkerFiles(tmp_path) for _ in range(3))
    for files, begun in ((alive, 30), (late, 20), (dead, 10)):
        row_of(files, LEAST, "a")[0] = begun
    assert value(tmp_path, LEAST, "a") == [10]

    del dead, files

    assert value(tmp_path, LEAST, "a") == [20]
    assert ours(tmp_path) == stock(tmp_path)


def test_the_files_of_prometheus_client_are_left_alone(tmp_path: Path) -> None:
    """They are in the same folder, and are for its own collector to add."""
    path = tmp_path / "counter_123.db"
    theirs = mmap_dict.MmapedDict(str(path))  # type: ignore[no-untyped-call]
    key = mmap_dict.mmap_key("theirs", "theirs_total", [], [], "Theirs")
    theirs.write_value(key, 3.0, 0.0)  # type: ignore[no-untyped-call]
    theirs.close()  # type: ignore[no-untyped-call]
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")

    assert set(Workers(tmp_path).series()) == {"jobs_total"}
    assert stock(tmp_path)["theirs_total", frozenset()] == 3


def test_a_worker_of_an_older_version_adds_to_its_own_buckets(tmp_path: Path) -> None:
    """Where both have a bound they are added, and prometheus_client agrees."""
    older = HISTOGRAM._replace(buckets=(0.25, 1, 5.0), help="Older")
    first, second = WorkerFiles(tmp_path), WorkerFiles(tmp_path)
    for files, family in ((first, HISTOGRAM), (second, older)):
        row = row_of(files, family, "a")
        for at in range(5):
            row[at] += at + 1

    assert ours(tmp_path) == stock(tmp_path)
    assert value(tmp_path, HISTOGRAM, "a") == [2, 2, 2, 6, 4, 4, 10]


def test_who_takes_over_from_an_older_version_counts_beside_it(tmp_path: Path) -> None:
    """Rows of the same file in another shape stay as they are."""
    older = HISTOGRAM._replace(buckets=(0.25, 1, 5.0))
    row_of(WorkerFiles(tmp_path), older, "a")[1] += 3
    row_of(WorkerFiles(tmp_path), HISTOGRAM, "a")[1] += 4

    assert len(list(tmp_path.glob("*.db"))) == 1
    assert value(tmp_path, HISTOGRAM, "a") == [0, 3, 4, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\0" * 8, b"\xff" * 100, INTEGER.pack(1 << 30) + b"\0" * 100, os.urandom(1000)],
    ids=["empty", "short", "no length", "negative", "too long", "noise"],
)
def test_a_file_that_cannot_be_read_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """The others are added up, at this scrape and at the next."""
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1
    (tmp_path / "counter_1-tokenpulse.db").write_bytes(content)
    workers = Workers(tmp_path)

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert workers.series() == {"jobs_total": (COUNTER, {("a", "ok"): [1]})}

    (told,) = caplog.messages
    assert "counter_1-tokenpulse.db cannot be read" in told


def test_a_file_that_is_cut_short_counts_as_far_as_it_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What was read of it before is not believed any more."""
    path = tmp_path / "counter_0-tokenpulse.db"
    files = WorkerFiles(tmp_path)
    for name in ("a", "b"):
        row_of(files, COUNTER, name, "ok")[0] += 1
    workers = Workers(tmp_path)
    assert len(workers.series()["jobs_total"][1]) == 2

    copy = path.read_bytes()[:150]
    path.unlink()  # cutting the file itself would kill who has it mapped
    path.write_bytes(copy)

    with caplog.at_level(logging.WARNING):
        assert workers.series()["jobs_total"][1] == {("a", "ok"): [1]}
    assert len(caplog.messages) == 1


def test_a_file_in_the_place_of_another_is_read_anew(tmp_path: Path) -> None:
    """As after the folder was emptied for a new start."""
    workers = Workers(tmp_path)
    for name in ("a", "b"):
        files = WorkerFiles(tmp_path)
        row_of(files, COUNTER, name, "ok")[0] += 1
        assert workers.series()["jobs_total"][1] == {(name, "ok"): [1]}
        del files
        for path in tmp_path.iterdir():
            path.unlink()


def test_a_folder_that_is_gone_is_an_empty_scrape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once."""
    workers = Workers(tmp_path / "gone")

    with caplog.at_level(logging.WARNING):
        assert workers.series() == workers.series() == {}

    (told,) = caplog.messages
    assert "gone cannot be read" in told


def test_a_file_that_may_not_be_read_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the system has against it."""
    row_of(WorkerFiles(tmp_path), COUNTER, "a", "ok")[0] += 1
    row_of(WorkerFiles(tmp_path), HISTOGRAM, "a")
    workers = Workers(tmp_path)

    def refuse(*_: object) -> bytes:
        raise PermissionError("not for you")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(os, "pread", refuse)
        assert workers.series() == {}

    assert set(workers.series()) == {"jobs_total", "job_seconds"}
    assert ["not for you" in told for told in caplog.messages] == [True, True]


def test_a_file_that_goes_while_it_is_looked_at_is_no_news(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such is the end of a worker with gauges."""
    files = WorkerFiles(tmp_path)
    row_of(files, GAUGE, "a")
    workers = Workers(tmp_path)
    looked = Path.is_file

    def look(path: Path) -> bool:
        there = looked(path)
        files.close()
        return there

    with monkeypatch.context() as patched:
        patched.setattr(Path, "is_file", look)
        assert workers.series() == {}
    assert not caplog.messages


def test_files_must_be_lockable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are not, as on Windows, the error says so at once."""
    monkeypatch.setitem(sys.modules, "fcntl", None)

    with pytest.raises(ValueError, match="this system has no fcntl"):
        Workers(tmp_path)


def test_rows_are_added_value_by_value() -> None:
    """Those that are not there yet are new."""
    rows: Rows = {("a",): [1.0, 2.0]}
    doubles = memoryview(array("d", [10, 0, 20, 0, 30, 0, 40, 0]).tobytes()).cast("d")

    add_rows(HISTOGRAM, rows, [(("a",), slice(0, 3, 2)), (("b",), slice(4, 7, 2))], doubles)

    assert rows == {("a",): [11, 22], ("b",): [30, 40]}


def test_alike_families_stay_as_they_are() -> None:
    """Each comes under its name, with its own rows."""
    sums: dict[Family, Rows] = {COUNTER: {("a", "ok"): [1.0]}, GAUGE: {("a",): [2.0]}}

    assert by_name(sums) == {family.name: (family, rows) for family, rows in sums.items()}


def test_counts_stay_under_their_own_bounds() -> None:
    """A worker with other buckets adds to those that it shares, and brings its own."""
    other = HISTOGRAM._replace(buckets=(0.25, 1.0, 3.0))
    sums: dict[Family, Rows] = {
        HISTOGRAM: {("a",): [9.0, 1, 2, 3, 4]},
        other: {("a",): [1.0, 10, 20, 30, 40]},
    }

    family, rows = by_name(sums)["job_seconds"]

    assert family.buckets == (0.25, 0.5, 1, 3.0, 1e6)
    assert rows == {("a",): [10, 10, 1, 22, 30, 3, 44]}


def test_a_label_that_a_worker_does_not_know_is_empty() -> None:
    """For Prometheus an empty label and none are the same."""
    older = COUNTER._replace(labels=("status", "team"), help="Older")
    sums: dict[Family, Rows] = {
        COUNTER: {("a", "ok"): [1.0], ("", "ok"): [1.0]},
        older: {("ok", ""): [5.0]},
    }

    family, rows = by_name(sums)["jobs_total"]

    assert (family.labels, family.help) == (("name", "status", "team"), "Jobs")
    assert rows == {("a", "ok", ""): [1], ("", "ok", ""): [6]}


def test_one_name_has_one_type() -> None:
    """What another version has exported under it as something else cannot be added."""
    gauge = COUNTER._replace(kind="gauge")
    sums: dict[Family, Rows] = {COUNTER: {("a", "ok"): [1.0]}, gauge: {("a", "ok"): [5.0]}}

    assert by_name(sums) == {"jobs_total": (COUNTER, {("a", "ok"): [1.0]})}


def test_of_what_only_the_least_counts_the_least_is_kept() -> None:
    """Also where workers of two versions have it under different labels."""
    eldest = Family("begun_seconds", "gauge", "Begun", ("name",), merge="min")
    rows: Rows = {("a",): [2.0]}
    doubles = memoryview(array("d", [3, 1]).tobytes()).cast("d")

    add_rows(eldest, rows, [(("a",), slice(0, 1)), (("b",), slice(1, 2))], doubles)
    older = eldest._replace(labels=(), help="Older")
    merged = by_name({eldest: rows, older: {(): [5.0]}, eldest._replace(help="New"): {("a",): [1]}})

    assert rows == {("a",): [2], ("b",): [1]}
    assert merged["begun_seconds"][1] == {("a",): [1], ("b",): [1], ("",): [5]}

"""Sums: families that workers have in different shapes."""

from __future__ import annotations

from array import array

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.workers.sums import Rows, add_rows, by_name

from .samples import COUNTER, GAUGE, HISTOGRAM


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

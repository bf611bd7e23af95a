"""Rows of numbers by label values, bounded per family."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.rows import Labels, Rows

COUNTER = Family("hits_total", "counter", "Hits", ("page",))
GAUGE = Family("busy", "gauge", "Busy", ("page",))
HISTOGRAM = Family("seconds", "histogram", "Seconds", ("page",), (1.0, 5.0))


def ignore(family: Family) -> None:
    """Ignore overflows."""


def read(rows: Rows) -> dict[Labels, list[float]]:
    """Return the current values of each row."""
    return {labels: list(row) for labels, row in rows.series()[1].items()}


def test_counter_adds_amounts_by_labels() -> None:
    """Each set of label values has its own value."""
    counter = Rows(COUNTER, max_series=10, on_overflow=ignore)

    counter.add(("a",))
    counter.add(("a",), 2)
    counter.add(("b",), 0)

    assert read(counter) == {("a",): [3], ("b",): [0]}


def test_histogram_counts_a_bound_in_its_bucket() -> None:
    """A bucket includes its upper bound (`le`)."""
    histogram = Rows(HISTOGRAM, max_series=10, on_overflow=ignore)

    for value in (0.5, 1.0, 1.1, 9.0):
        histogram.observe(("a",), value)

    assert read(histogram) == {("a",): [11.6, 2, 1, 1]}


def test_update_sets_missing_gauge_rows_to_zero() -> None:
    """A missing row is set to 0, because a removed series would look like a failed scrape."""
    gauge = Rows(GAUGE, max_series=10, on_overflow=ignore)

    gauge.update({("a",): 1, ("b",): 2})
    gauge.update({("b",): 3})

    assert read(gauge) == {("a",): [0], ("b",): [3]}


def test_missing_row_of_the_merge_least_is_not_exposed() -> None:
    """0 is a value of such a gauge, so it cannot stand for an unknown one."""
    gauge = Rows(GAUGE._replace(merge="least"), max_series=10, on_overflow=ignore)

    gauge.update({("a",): 0, ("b",): 0.03})
    assert read(gauge) == {("a",): [0], ("b",): [0.03]}

    gauge.update({("b",): 7})
    assert read(gauge) == {("b",): [7]}


@given(st.one_of(st.integers(0, 10**12), st.integers(0, 1000).map(lambda n: n / 1000)))
def test_value_of_the_merge_least_is_exposed_exactly(value: float) -> None:
    """Counts up to 10**12 and shares in thousandths are not changed by their encoding."""
    gauge = Rows(GAUGE._replace(merge="least"), max_series=10, on_overflow=ignore)

    gauge.update({("a",): value})

    assert read(gauge) == {("a",): [value]}


def test_update_adds_the_increase_to_a_counter() -> None:
    """The counter keeps earlier counts and never decreases."""
    counter = Rows(COUNTER, max_series=10, on_overflow=ignore)
    counter.add(("a",), 100)

    for values in ({("a",): 2.0}, {("a",): 5.0}, {}, {("a",): 1.0}):
        counter.update(values)

    assert read(counter) == {("a",): [106]}


def test_clear_detaches_rows_returned_before() -> None:
    """Counts in a row that was returned before `clear` are not exposed."""
    counter = Rows(COUNTER, max_series=10, on_overflow=ignore)
    before = counter.row(("a",))

    counter.clear()
    before[0] += 1
    counter.add(("a",), 5)

    assert read(counter) == {("a",): [5]}


@given(pages=st.lists(st.integers(), max_size=50), max_series=st.integers(1, 5))
def test_overflow_row_counts_what_exceeds_max_series(pages: list[int], max_series: int) -> None:
    """No count is lost, and each overflow is reported."""
    overflows: list[Family] = []
    counter = Rows(COUNTER, max_series=max_series, on_overflow=overflows.append)
    histogram = Rows(HISTOGRAM, max_series=max_series, on_overflow=ignore)

    for page in pages:
        counter.add((page,))
        histogram.observe((page,), 1.0)

    counts = {labels: row[0] for labels, row in read(counter).items()}
    assert len(counter) == len(counts) <= max_series + 1
    assert sum(counts.values()) == len(pages)
    assert {labels: sum(row[1:]) for labels, row in read(histogram).items()} == counts
    assert counts.get(("__overflow__",), 0) == len(overflows)

"""Rows: numbers under label values, never more series than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.rows import Labels, Rows

COUNTER = Family("hits_total", "counter", "Hits", ("who",))
GAUGE = Family("busy", "gauge", "Busy", ("who",))
HISTOGRAM = Family("seconds", "histogram", "Seconds", ("who",), (1.0, 5.0))


def nobody(family: Family) -> None:
    """Nobody is told of overflow."""


def read(rows: Rows) -> dict[Labels, list[float]]:
    """What is in each row now."""
    return {labels: list(row) for labels, row in rows.series()[1].items()}


def test_a_counter_adds_up() -> None:
    """Each set of label values has its own sum."""
    counter = Rows(COUNTER, most=10, on_overflow=nobody)

    counter.add(("a",))
    counter.add(("a",), 2)
    counter.add(("b",), 0)

    assert read(counter) == {("a",): [3], ("b",): [0]}


def test_a_histogram_counts_into_buckets() -> None:
    """A value on a bound is in its bucket, as Prometheus has it (`le`)."""
    histogram = Rows(HISTOGRAM, most=10, on_overflow=nobody)

    for value in (0.5, 1.0, 1.1, 9.0):
        histogram.observe(("a",), value)

    assert read(histogram) == {("a",): [11.6, 2, 1, 1]}


def test_a_gauge_shows_what_there_is() -> None:
    """What is gone is 0: a graph that just ends would look like a scrape that fails."""
    gauge = Rows(GAUGE, most=10, on_overflow=nobody)

    gauge.show({("a",): 1, ("b",): 2})
    gauge.show({("b",): 3})

    assert read(gauge) == {("a",): [0], ("b",): [3]}


def test_a_counter_takes_over_what_somebody_else_counts() -> None:
    """By how much that grows: it may count here already, and never goes back."""
    counter = Rows(COUNTER, most=10, on_overflow=nobody)
    counter.add(("a",), 100)

    for values in ({("a",): 2.0}, {("a",): 5.0}, {}, {("a",): 1.0}):
        counter.show(values)

    assert read(counter) == {("a",): [106]}


def test_rows_can_begin_anew() -> None:
    """What was handed out before counts for nothing any more."""
    counter = Rows(COUNTER, most=10, on_overflow=nobody)
    before = counter.row(("a",))

    counter.clear()
    before[0] += 1
    counter.add(("a",), 5)

    assert read(counter) == {("a",): [5]}


@given(who=st.lists(st.integers(), max_size=50), most=st.integers(1, 5))
def test_series_are_bounded_and_nothing_is_lost(who: list[int], most: int) -> None:
    """What exceeds the bound is folded into one series, and each time told."""
    folded: list[Family] = []
    counter = Rows(COUNTER, most=most, on_overflow=folded.append)
    histogram = Rows(HISTOGRAM, most=most, on_overflow=nobody)

    for each in who:
        counter.add((each,))
        histogram.observe((each,), 1.0)

    counts = {labels: row[0] for labels, row in read(counter).items()}
    assert len(counter) == len(counts) <= most + 1
    assert sum(counts.values()) == len(who)
    assert {labels: sum(row[1:]) for labels, row in read(histogram).items()} == counts
    assert counts.get(("__overflow__",), 0) == len(folded)

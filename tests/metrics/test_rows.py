"""Rows: counts under label values, never more series than allowed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.rows import CounterRows, HistogramRows

COUNTER = Family("hits_total", "counter", "Hits", ("who",))
HISTOGRAM = Family("seconds", "histogram", "Seconds", ("who",), (1.0, 5.0))


def nobody(family: Family) -> None:
    """Nobody is told of overflow."""


def test_a_counter_adds_up() -> None:
    """Each set of label values has its own sum."""
    table = CounterRows(COUNTER, most=10, on_overflow=nobody)

    table.add(("a",))
    table.add(("a",), 2)
    table.add(("b",), 0)

    assert table.rows == {("a",): 3, ("b",): 0}


def test_a_histogram_counts_into_buckets() -> None:
    """A value on a bound is in its bucket, as Prometheus has it (`le`)."""
    table = HistogramRows(HISTOGRAM, most=10, on_overflow=nobody)

    for value in (0.5, 1.0, 1.1, 9.0):
        table.observe(("a",), value)

    assert table.rows == {("a",): [11.6, 2, 1, 1]}
    assert table.counts() == {("a",): 4}


@given(who=st.lists(st.integers(), max_size=50), most=st.integers(1, 5))
def test_series_are_bounded_and_nothing_is_lost(who: list[int], most: int) -> None:
    """What exceeds the bound is folded into one series, and each time told."""
    folded: list[Family] = []
    counter = CounterRows(COUNTER, most=most, on_overflow=folded.append)
    histogram = HistogramRows(HISTOGRAM, most=most, on_overflow=nobody)

    for each in who:
        counter.add((each,))
        histogram.observe((each,), 1.0)

    assert len(counter.rows) <= most + 1
    assert sum(counter.rows.values()) == len(who)
    assert histogram.counts() == counter.rows
    assert counter.rows.get(("__overflow__",), 0) == len(folded)

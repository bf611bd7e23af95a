"""Rings of the last hour, and quantiles."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.dashboard.history import OTHERS, PROVIDERS, History, Layout, quantile_of

BOUNDS = (0.1, 1.0)


def history(slots: int = 4, max_names: int = 2) -> History:
    """Return an empty history."""
    return History(BOUNDS, slots=slots, max_names=max_names)


def row(requests: float, **counts: float) -> list[float]:
    """Return a row of a provider."""
    layout = Layout(PROVIDERS, BOUNDS)
    values = list(layout.blank())
    for name, value in {"requests": requests, **counts}.items():
        position = layout.position(name)
        assert position is not None
        values[position] = value
    return values


def put(target: History, slot: int, **requests: float) -> None:
    """Report a slot with the requests of some providers."""
    target.advance(slot)
    for name, value in requests.items():
        target.tables["provider"].add(slot, name, row(value))
    target.report(slot, 0.0)
    target.end = slot


def test_numbers_older_than_the_ring_are_overwritten() -> None:
    """A ring of four slots has the last four."""
    numbers = history()
    for slot in range(10, 16):
        put(numbers, slot, a=float(slot))

    assert numbers.counts("provider", "a", "requests", numbers.last(4)) == [12, 13, 14, 15]
    assert not numbers.is_known(11)
    assert not numbers.advance(11)


def test_slot_without_a_report_is_a_gap() -> None:
    """A slot that was skipped, or that a process has missed, is unknown and not 0."""
    numbers = history()
    put(numbers, 10, a=1)
    put(numbers, 12, a=3)
    numbers.advance(13)
    numbers.report(13, None)
    numbers.end = 13

    assert numbers.counts("provider", "a", "requests", numbers.last(4)) == [1, None, 3, None]
    assert numbers.in_flight(numbers.last(4)) == [0, None, 0, None]
    assert [numbers.is_reported(slot) for slot in range(9, 15)] == [
        False,
        True,
        False,
        True,
        True,
        False,
    ]


def test_name_that_appears_had_no_requests_before() -> None:
    """The slots before a new name are 0; those before a name that was counted elsewhere are not."""
    numbers = history()
    put(numbers, 10)
    numbers.advance(11)
    numbers.tables["provider"].add(11, "new", row(1))
    numbers.tables["provider"].add(11, "late", row(1), is_late=True)
    numbers.report(11, 0.0)
    numbers.end = 11

    assert numbers.counts("provider", "new", "requests", numbers.last(2)) == [0, 1]
    assert numbers.counts("provider", "late", "requests", numbers.last(2)) == [None, 1]


def test_names_beyond_the_maximum_share_a_ring() -> None:
    """Memory is bounded by the number of names."""
    numbers = history(max_names=2)
    put(numbers, 10, a=1, b=2, c=3, d=4)

    assert numbers.tables["provider"].names == ["a", "b"]
    assert numbers.total("provider", OTHERS, "requests", [10]) == 7


def test_optional_count_is_unknown_until_it_is_reported() -> None:
    """A cost that no process knows is null; one that a process knows is its sum."""
    numbers = history()
    put(numbers, 10, a=1)
    assert numbers.total("provider", "a", "cost_usd", [10]) is None

    numbers.tables["provider"].add(10, "a", row(1, cost_usd=0.5))
    numbers.tables["provider"].add(10, "a", row(1))
    assert numbers.total("provider", "a", "cost_usd", [10]) == 0.5
    assert numbers.counts("provider", "a", "cost_usd", range(10, 11)) == [0.5]


def test_kind_without_a_column_is_unknown() -> None:
    """Routes have no tokens, and a name without requests no quantiles."""
    numbers = history()
    put(numbers, 10, a=1)

    assert numbers.counts("route", "/chat", "input_tokens", range(10, 11)) == [None]
    assert numbers.total("route", "/chat", "input_tokens", [10]) is None
    assert numbers.total("route", "/chat", "requests", []) is None
    assert numbers.quantiles("route", "/chat", "ttft", 0.5, range(10, 11)) == [None]
    assert numbers.quantile("route", "/chat", "duration", 0.5, [10]) is None


@pytest.mark.parametrize(
    ("counts", "quantile", "expected"),
    [
        ((0, 0, 0), 0.5, None),
        ((math.nan, 1, 0), 0.5, None),
        ((10, 0, 0), 0.5, 0.05),
        ((0, 10, 0), 0.5, 0.55),
        ((5, 5, 0), 0.95, 0.1 + 0.9 * 0.9),
        ((0, 0, 10), 0.5, 1.0),  # above the highest bound
    ],
)
def test_quantile_is_interpolated_in_its_bucket(
    counts: tuple[float, ...], quantile: float, expected: float | None
) -> None:
    """The result is that of `histogram_quantile` of Prometheus."""
    assert quantile_of(BOUNDS, counts, quantile) == (
        None if expected is None else pytest.approx(expected)
    )


@given(st.lists(st.integers(0, 1000), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_quantile_is_within_the_bounds(counts: list[int], quantile: float) -> None:
    """A quantile is at least 0 and at most the highest bound, and never falls with its rank."""
    low, high = quantile_of(BOUNDS, counts, quantile / 2), quantile_of(BOUNDS, counts, quantile)

    if sum(counts):
        assert low is not None
        assert high is not None
        assert 0 <= low <= high <= 1
    else:
        assert low is high is None

"""Cumulative numbers from the rows of the metrics."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest

from tokenpulse_mw.dashboard.history import PROVIDERS, Layout
from tokenpulse_mw.dashboard.totals import Totals, bounds_of, difference

pytestmark = pytest.mark.anyio


class Family(NamedTuple):
    """A metric family."""

    name: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Family("tokenpulse_http_requests_total", ("method", "route", "status", "provider"))
FAILURES = Family("tokenpulse_http_failures_total", ("provider", "fault"))
DURATION = Family("tokenpulse_http_request_duration_seconds", REQUESTS.labels, (1.0, 2.0))


async def totals_of(*series: tuple[Family, dict[Any, Any]]) -> Totals:
    """Return the totals of some rows."""
    totals = Totals(bounds_of(series))
    await totals.read(series)
    return totals


def count(totals: Totals, name: str, provider: str = "claude") -> float:
    """Return a count of a provider."""
    position = Layout(PROVIDERS, totals.bounds).position(name)
    assert position is not None
    return totals.rows["provider"][provider][position]


async def test_labels_may_have_any_order_and_type() -> None:
    """Several workers have them as text, and other versions may have others."""
    swapped = Family(REQUESTS.name, ("provider", "status", "route", "method", "region"))
    totals = await totals_of(
        (REQUESTS, {("POST", "/a", 503, "claude"): [2.0]}),
        (swapped, {("claude", "503", "/b", "GET", "eu"): [3.0]}),
    )

    assert count(totals, "requests") == 5
    assert {name: row[:2].tolist() for name, row in totals.rows["route"].items()} == {
        "/a": [2, 2],
        "/b": [3, 3],
    }


async def test_overflow_of_a_family_is_counted_where_it_can_be() -> None:
    """A label set that overflowed has no status and no fault."""
    overflow = "__overflow__"
    totals = await totals_of(
        (REQUESTS, {(overflow,) * 4: [4.0], ("GET", "/a", "200", "claude"): [1.0]}),
        (FAILURES, {(overflow, overflow): [4.0]}),
        (Family("tokenpulse_series_overflow_total", ("family",)), {("x",): [8.0]}),
        (Family("tokenpulse_internal_errors_total", ("component",)), {("x",): [2.0]}),
        (Family("other_total"), {(): [1.0]}),
    )

    assert (count(totals, "requests", overflow), count(totals, "errors", overflow)) == (4, 0)
    assert (totals.overflow, totals.internal_errors) == (8, 2)
    assert count(totals, "client") == 0


async def test_faults_are_unknown_if_they_are_not_counted() -> None:
    """Metrics of another version may not have them."""
    totals = await totals_of((REQUESTS, {("GET", "/a", "200", "claude"): [1.0]}))

    assert math.isnan(count(totals, "client"))
    assert (totals.bounds, math.isnan(count(totals, "cost_usd"))) == ((), True)


async def test_histogram_with_other_bounds_is_left_out() -> None:
    """Its counts cannot be added."""
    other = DURATION._replace(buckets=(5.0,))
    key = ("GET", "/a", "200", "claude")
    totals = await totals_of(
        (DURATION, {key: [1.0, 1.0, 2.0, 3.0]}), (other, {key: [9.0, 9.0, 9.0]})
    )
    buckets = Layout(PROVIDERS, totals.bounds).buckets("duration")
    assert buckets is not None

    assert totals.bounds == (1, 2)
    assert list(totals.rows["provider"]["claude"][buckets]) == [1, 2, 3]


async def test_difference_of_a_new_count_is_its_value() -> None:
    """A count begins at 0 when it is reported for the first time."""
    assert difference(None, [1.0, 2.0]) == [1, 2]
    assert difference([1.0, math.nan, 3.0], [4.0, 5.0, 3.0]) == [3, 5, 0]
    assert math.isnan(difference([math.nan], [math.nan])[0])

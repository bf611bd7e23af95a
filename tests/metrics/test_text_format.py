"""Rendering: what we write is what prometheus_client would have written."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus_text
from prometheus_client.utils import floatToGoString

from tokenpulse_mw import Exchange, HttpMetrics, TokenUsage
from tokenpulse_mw.metrics.families import DURATION, IN_PROGRESS, REQUESTS, Family
from tokenpulse_mw.metrics.rows import Labels, Row, Series
from tokenpulse_mw.metrics.text_format import ROWS_PER_CHUNK, render_chunks

# prometheus_client sorts labels by name, with `le` among them; here our order is the same.
LABELS = ("alpha", "beta")


BUCKETS = (0.005, 1, 600, 2_500_000)


NAMES = ["hits_total", "depth", "lag", "lag_bucket", "lag_count", "lag_sum", "hits", "nobody"]


helps = st.text(max_size=12)


labels = st.tuples(st.text(max_size=8), st.text(max_size=8) | st.integers() | st.none())


values = st.floats() | st.integers(-(10**9), 10**9)


counts = st.integers(0, 10**9) | st.integers(0, 10**9).map(float)


def rows_of(size: int, each: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[Labels, list[Any]]]:
    """A few rows of so many numbers."""
    return st.dictionaries(labels, st.lists(each, min_size=size, max_size=size), max_size=4)


@st.composite
def all_series(draw: st.DrawFn) -> list[Series]:
    """One family of each type, and one without labels."""
    histogram = {
        key: [draw(values), *row] for key, row in draw(rows_of(len(BUCKETS) + 1, counts)).items()
    }
    return [
        (Family("hits_total", "counter", draw(helps), LABELS), draw(rows_of(1, values))),
        (Family("depth", "gauge", draw(helps), LABELS), draw(rows_of(1, values))),
        (Family("lag", "histogram", draw(helps), LABELS, BUCKETS), histogram),
        (Family("alone", "gauge", draw(helps)), {(): [draw(values)]}),
        (Family("wait", "histogram", draw(helps), (), (1.0,)), {(): [0.5, draw(counts), 0]}),
    ]


class Peer:
    """A collector that gives the same series as prometheus_client's own objects."""

    def __init__(self, series: Iterable[Series]) -> None:
        self.series = list(series)

    def collect(self) -> Iterator[Metric]:
        """Every family, with all its samples."""
        for family, rows in self.series:
            metric: Any = {
                "counter": CounterMetricFamily,
                "gauge": GaugeMetricFamily,
                "histogram": HistogramMetricFamily,
            }[family.kind](family.name, family.help, labels=family.labels)
            bounds = [floatToGoString(each) for each in (*family.buckets, inf)]  # type: ignore[no-untyped-call]
            for key, row in rows.items():
                names = [str(value) for value in key]
                if family.kind == "histogram":
                    buckets = list(zip(bounds, accumulate(row[1:]), strict=True))
                    metric.add_metric(names, buckets, sum_value=row[0])
                else:
                    metric.add_metric(names, row[0])
            yield metric


def ours(series: Iterable[Series], **options: Any) -> bytes:
    """What we write."""
    return b"".join(render_chunks(series, **options))


def samples(families: Iterable[Metric]) -> dict[tuple[Any, ...], float]:
    """All samples of a scrape, each with what is said of its family."""
    return {
        (each.name, family.type, family.documentation, *sorted(each.labels.items())): each.value
        for family in families
        for each in family.samples
    }


@given(series=all_series())
def test_it_equals_prometheus_clients_text(series: list[Series]) -> None:
    """Byte for byte, whatever the numbers, the label values and the help."""
    assert ours(series) == generate_latest(Peer(series))


@given(series=all_series())
def test_it_equals_prometheus_clients_openmetrics(series: list[Series]) -> None:
    """Byte for byte, but for the end that comes after the last of all families."""
    theirs: bytes = generate_openmetrics(Peer(series))  # type: ignore[no-untyped-call]

    assert ours(series, openmetrics=True) + b"# EOF\n" == theirs


@given(series=all_series(), names=st.sets(st.sampled_from(NAMES), min_size=1))
def test_names_restrict_it_as_prometheus_client_does(series: list[Series], names: set[str]) -> None:
    """To samples of exactly these names; a family that has none of them is left out."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Peer(series))

    assert ours(series, names=names) == generate_latest(registry.restricted_registry(names))


@pytest.mark.slow
@given(
    routes=st.dictionaries(
        st.tuples(st.sampled_from(["GET", "POST"]), st.text(max_size=8), st.integers(100, 599)),
        st.lists(st.integers(0, 5), min_size=17, max_size=17),
        max_size=5,
    )
)
def test_the_requests_families_hold_the_same_samples(
    routes: dict[tuple[str, str, int], list[int]],
) -> None:
    """Labels stand in the seed's order; parsed, nothing differs from prometheus_client's."""
    rows = {(*key, "claude"): [0.25 * sum(counts), *counts] for key, counts in routes.items()}
    totals = {key: [sum(row[1:])] for key, row in rows.items()}
    series: list[Series] = [(REQUESTS, totals), (DURATION, rows), (IN_PROGRESS, {(): [3]})]

    text, strict = ours(series).decode(), ours(series, openmetrics=True).decode() + "# EOF\n"
    theirs = samples(prometheus_text(generate_latest(Peer(series)).decode()))
    assert samples(prometheus_text(text)) == theirs
    assert samples(openmetrics(strict)) == theirs  # type: ignore[no-untyped-call]


@pytest.mark.slow
@settings(max_examples=30)  # each reads two whole scrapes
@given(
    exchanges=st.lists(
        st.tuples(st.text(max_size=8), st.integers(100, 599), st.floats(0, 1000)), max_size=10
    )
)
def test_both_ways_of_exposing_a_registry_show_the_same(
    exchanges: list[tuple[str, int, float]],
) -> None:
    """Our rendering, and the one of prometheus_client over our collector."""
    metrics = HttpMetrics(CollectorRegistry())
    for route, status, seconds in exchanges:
        exchange = Exchange("GET", 0.0)
        exchange.route, exchange.status, exchange.duration = route, status, seconds
        exchange.time_to_first_byte = exchange.time_to_first_token = seconds
        exchange.usage, exchange.usage_source = TokenUsage(1, 2), "reported"
        metrics.on_open()
        metrics(exchange)
        metrics.on_error(route)

    theirs = generate_latest(metrics.registry).decode()
    assert samples(prometheus_text(metrics.render().decode())) == samples(prometheus_text(theirs))


@pytest.mark.parametrize(
    "value",
    [0, -0.0, 1, 0.1, 5e-324, 999_999.5, 1_000_000, 123_456_789, -1e6, 1e22, 2**80, inf, -inf, nan],
)
def test_numbers_are_written_as_go_writes_them(value: float) -> None:
    """From a million on with an exponent."""
    series: list[Series] = [(Family("depth", "gauge", "Of water"), {(): [value]})]

    assert ours(series) == generate_latest(Peer(series))


@pytest.mark.parametrize("count", [0, 999_999, 999_999.0, 1_000_000, 1e6, 2**80, inf, -inf, nan])
def test_counts_of_a_histogram_are_such_numbers_too(count: float) -> None:
    """However many there are, and whatever memory that others write may hold."""
    family = Family("lag", "histogram", "Of time", (), (1.0,))
    series: list[Series] = [(family, {(): [0.5, count, 0]})]

    assert ours(series) == generate_latest(Peer(series))


def test_a_family_without_samples_shows_that_it_exists() -> None:
    """Its help and type are there, unless names are asked for."""
    series: list[Series] = [(REQUESTS, {})]

    assert ours(series) == (
        b"# HELP tokenpulse_http_requests_total Total number of HTTP requests\n"
        b"# TYPE tokenpulse_http_requests_total counter\n"
    )
    assert ours(series, names=[REQUESTS.name]) == b""


@pytest.mark.parametrize("rows", [1, ROWS_PER_CHUNK, ROWS_PER_CHUNK + 1, 10 * ROWS_PER_CHUNK])
def test_it_comes_in_small_pieces_of_whole_rows(rows: int) -> None:
    """So whoever sends them can let others work between; no row is seen half changed."""
    row = [1.0, 1] + [0] * (len(DURATION.buckets))
    series: list[Series] = [
        (DURATION, {("GET", f"/{number}", 200, "qwen"): row for number in range(rows)})
    ]

    found = list(render_chunks(series))

    sums = [piece.count(b"_sum{") for piece in found]
    assert sums == [ROWS_PER_CHUNK] * (rows // ROWS_PER_CHUNK) + [rows % ROWS_PER_CHUNK] * (
        rows % ROWS_PER_CHUNK > 0
    )
    assert all(piece.split(b"\n")[-2].partition(b"{")[0].endswith(b"_sum") for piece in found)


def test_series_that_come_between_two_pieces_do_no_harm() -> None:
    """They are in the next scrape; those counted meanwhile are whole."""
    family = Family("hits_total", "counter", "Hits", ("who",))
    rows: dict[Labels, Row] = {(number,): [0] for number in range(2 * ROWS_PER_CHUNK)}

    text = b""
    for number, piece in enumerate(render_chunks([(family, rows)])):
        text += piece
        rows["new", number] = [1]

    assert text.count(b"hits_total{") == 2 * ROWS_PER_CHUNK


def test_rows_may_lie_in_any_memory() -> None:
    """A strided view of doubles, as several workers share it, is rendered like a list."""
    family = Family("lag", "histogram", "Lag", ("who",), (1.0, 5.0))
    shared = memoryview(array("d", [2.5, 9, 1, 9, 0, 9, 3, 9])).cast("B").cast("d")[::2]

    assert ours([(family, {("a",): shared})]) == ours([(family, {("a",): [2.5, 1, 0, 3]})])


def test_what_utf8_cannot_hold_is_replaced() -> None:
    """A lone surrogate in a label costs that label its character, and not the scrape."""
    family = Family("hits_total", "counter", "Hits", ("who",))

    assert b'hits_total{who="a?"} 1.0\n' in ours([(family, {("a\udc80",): [1]})])

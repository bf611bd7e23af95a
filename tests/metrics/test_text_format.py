"""Text formats, compared with those of prometheus_client."""

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

# prometheus_client sorts labels by name, including `le`; these names are in the same order.
LABELS = ("alpha", "beta")
BUCKETS = (0.005, 1, 600, 2_500_000)
NAMES = ["hits_total", "depth", "lag", "lag_bucket", "lag_count", "lag_sum", "hits", "unknown"]

helps = st.text(max_size=12)
labels = st.tuples(st.text(max_size=8), st.text(max_size=8) | st.integers() | st.none())
values = st.floats() | st.integers(-(10**9), 10**9)
counts = st.integers(0, 10**9) | st.integers(0, 10**9).map(float)


def rows_of(size: int, value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[Labels, list[Any]]]:
    """Draw a few rows of `size` numbers."""
    return st.dictionaries(labels, st.lists(value, min_size=size, max_size=size), max_size=4)


@st.composite
def all_series(draw: st.DrawFn) -> list[Series]:
    """Draw a family of each type, with and without labels."""
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


class Reference:
    """Collector that yields the same series as objects of prometheus_client."""

    def __init__(self, series: Iterable[Series]) -> None:
        self.series = list(series)

    def collect(self) -> Iterator[Metric]:
        """Yield every family with its samples."""
        for family, rows in self.series:
            metric: Any = {
                "counter": CounterMetricFamily,
                "gauge": GaugeMetricFamily,
                "histogram": HistogramMetricFamily,
            }[family.kind](family.name, family.help, labels=family.labels)
            bounds = [floatToGoString(bound) for bound in (*family.buckets, inf)]  # type: ignore[no-untyped-call]
            for key, row in rows.items():
                names = [str(value) for value in key]
                if family.kind == "histogram":
                    buckets = list(zip(bounds, accumulate(row[1:]), strict=True))
                    metric.add_metric(names, buckets, sum_value=row[0])
                else:
                    metric.add_metric(names, row[0])
            yield metric


def ours(series: Iterable[Series], **options: Any) -> bytes:
    """Return the text of this package."""
    return b"".join(render_chunks(series, **options))


def samples(families: Iterable[Metric]) -> dict[tuple[Any, ...], float]:
    """Return all samples of a scrape with the type and help of their family."""
    return {
        (
            sample.name,
            family.type,
            family.documentation,
            *sorted(sample.labels.items()),
        ): sample.value
        for family in families
        for sample in family.samples
    }


@given(series=all_series())
def test_text_equals_prometheus_client(series: list[Series]) -> None:
    """The text is equal byte for byte, for any numbers, label values and help texts."""
    assert ours(series) == generate_latest(Reference(series))


@given(series=all_series())
def test_openmetrics_equals_prometheus_client(series: list[Series]) -> None:
    """The text is equal byte for byte, except for the end marker."""
    expected: bytes = generate_openmetrics(Reference(series))  # type: ignore[no-untyped-call]

    assert ours(series, openmetrics=True) + b"# EOF\n" == expected


@given(series=all_series(), names=st.sets(st.sampled_from(NAMES), min_size=1))
def test_names_restrict_samples_as_in_prometheus_client(
    series: list[Series], names: set[str]
) -> None:
    """Families without a selected sample are omitted."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(Reference(series))

    assert ours(series, names=names) == generate_latest(registry.restricted_registry(names))


@pytest.mark.slow
@given(
    routes=st.dictionaries(
        st.tuples(st.sampled_from(["GET", "POST"]), st.text(max_size=8), st.integers(100, 599)),
        st.lists(st.integers(0, 5), min_size=17, max_size=17),
        max_size=5,
    )
)
def test_request_families_parse_to_the_same_samples(
    routes: dict[tuple[str, str, int], list[int]],
) -> None:
    """The parsed samples are equal, though the label order differs."""
    rows = {(*key, "claude"): [0.25 * sum(counts), *counts] for key, counts in routes.items()}
    totals = {key: [sum(row[1:])] for key, row in rows.items()}
    series: list[Series] = [(REQUESTS, totals), (DURATION, rows), (IN_PROGRESS, {(): [3]})]

    text, strict = ours(series).decode(), ours(series, openmetrics=True).decode() + "# EOF\n"
    expected = samples(prometheus_text(generate_latest(Reference(series)).decode()))
    assert samples(prometheus_text(text)) == expected
    assert samples(openmetrics(strict)) == expected  # type: ignore[no-untyped-call]


@pytest.mark.slow
@settings(max_examples=30)  # each parses two scrapes
@given(
    exchanges=st.lists(
        st.tuples(st.text(max_size=8), st.integers(100, 599), st.floats(0, 1000)), max_size=10
    )
)
def test_render_and_collector_give_the_same_samples(
    exchanges: list[tuple[str, int, float]],
) -> None:
    """Both expositions of a registry are equivalent."""
    metrics = HttpMetrics(CollectorRegistry())
    for route, status, seconds in exchanges:
        exchange = Exchange("GET", 0.0)
        exchange.route, exchange.status, exchange.duration = route, status, seconds
        exchange.time_to_first_byte = exchange.time_to_first_token = seconds
        exchange.usage, exchange.usage_source = TokenUsage(1, 2), "reported"
        metrics.on_open()
        metrics(exchange)
        metrics.on_error(route)

    expected = generate_latest(metrics.registry).decode()
    assert samples(prometheus_text(metrics.render().decode())) == samples(prometheus_text(expected))


@pytest.mark.parametrize(
    "value",
    [0, -0.0, 1, 0.1, 5e-324, 999_999.5, 1_000_000, 123_456_789, -1e6, 1e22, 2**80, inf, -inf, nan],
)
def test_numbers_are_formatted_as_in_go(value: float) -> None:
    """Values from a million on have an exponent."""
    series: list[Series] = [(Family("depth", "gauge", "Water depth"), {(): [value]})]

    assert ours(series) == generate_latest(Reference(series))


@pytest.mark.parametrize("count", [0, 999_999, 999_999.0, 1_000_000, 1e6, 2**80, inf, -inf, nan])
def test_histogram_counts_are_formatted_as_in_go(count: float) -> None:
    """Shared memory may contain any double."""
    family = Family("lag", "histogram", "Lag", (), (1.0,))
    series: list[Series] = [(family, {(): [0.5, count, 0]})]

    assert ours(series) == generate_latest(Reference(series))


def test_family_without_samples_has_help_and_type() -> None:
    """A family without samples is rendered, unless names are selected."""
    series: list[Series] = [(REQUESTS, {})]

    assert ours(series) == (
        b"# HELP tokenpulse_http_requests_total Total number of HTTP requests\n"
        b"# TYPE tokenpulse_http_requests_total counter\n"
    )
    assert ours(series, names=[REQUESTS.name]) == b""


@pytest.mark.parametrize("rows", [1, ROWS_PER_CHUNK, ROWS_PER_CHUNK + 1, 10 * ROWS_PER_CHUNK])
def test_chunks_have_complete_rows(rows: int) -> None:
    """Other requests run between two chunks; no row is split."""
    row = [1.0, 1] + [0] * (len(DURATION.buckets))
    series: list[Series] = [
        (DURATION, {("GET", f"/{number}", 200, "qwen"): row for number in range(rows)})
    ]

    chunks = list(render_chunks(series))

    sums = [chunk.count(b"_sum{") for chunk in chunks]
    assert sums == [ROWS_PER_CHUNK] * (rows // ROWS_PER_CHUNK) + [rows % ROWS_PER_CHUNK] * (
        rows % ROWS_PER_CHUNK > 0
    )
    assert all(chunk.split(b"\n")[-2].partition(b"{")[0].endswith(b"_sum") for chunk in chunks)


def test_series_added_between_chunks_are_not_rendered() -> None:
    """Series that are added during a scrape are rendered by the next one."""
    family = Family("hits_total", "counter", "Hits", ("page",))
    rows: dict[Labels, Row] = {(number,): [0] for number in range(2 * ROWS_PER_CHUNK)}

    text = b""
    for number, chunk in enumerate(render_chunks([(family, rows)])):
        text += chunk
        rows["new", number] = [1]

    assert text.count(b"hits_total{") == 2 * ROWS_PER_CHUNK


def test_strided_memory_is_rendered_like_a_list() -> None:
    """Several workers share such a view of doubles."""
    family = Family("lag", "histogram", "Lag", ("page",), (1.0, 5.0))
    shared = memoryview(array("d", [2.5, 9, 1, 9, 0, 9, 3, 9])).cast("B").cast("d")[::2]

    assert ours([(family, {("a",): shared})]) == ours([(family, {("a",): [2.5, 1, 0, 3]})])


def test_lone_surrogate_is_replaced() -> None:
    """An invalid character in a label value does not fail the scrape."""
    family = Family("hits_total", "counter", "Hits", ("page",))

    assert b'hits_total{page="a?"} 1.0\n' in ours([(family, {("a\udc80",): [1]})])

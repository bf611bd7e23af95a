"""Content negotiation of a scrape, and the response body."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from tokenpulse_mw.metrics.families import REQUESTS, Family
from tokenpulse_mw.metrics.negotiation import ScrapeRequest, negotiate, render_body, render_others
from tokenpulse_mw.metrics.rows import Series

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8"

OURS: list[Series] = [(Family("hits_total", "counter", "Hits", ("page",)), {("home",): [2]})]


class OursCollector:
    """Collector of prometheus_client with the series of `OURS`."""

    def describe(self) -> Iterator[Metric]:
        """Yield the family without samples."""
        yield CounterMetricFamily("hits", "Hits", labels=["page"])

    def collect(self) -> Iterator[Metric]:
        """Yield the family with its sample."""
        metric = CounterMetricFamily("hits", "Hits", labels=["page"])
        metric.add_metric(["home"], 2)
        yield metric


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        (BROWSER, TEXT),
        ("application/json", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"', OPENMETRICS),
        ("text/plain, application/openmetrics-text", OPENMETRICS),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS + "; escaping=allow-utf-8"),
        # Preferences:
        ("application/openmetrics-text;q=0.4, text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.4, */*;q=0.5", TEXT),
        ("application/openmetrics-text;q=0.4, text/*;q=0.3", OPENMETRICS),
        ("application/openmetrics-text;q=0.4, text/plain;q=0.3, */*;q=0.9", OPENMETRICS),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("application/openmetrics-text;q=2", TEXT),
        ("application/openmetrics-text;q=-1", TEXT),
        ("application/openmetrics-text;q=nan", TEXT),
        ("application/openmetrics-text;q=high", TEXT),
        # Unsupported versions:
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("text/plain;version=3.0", TEXT),
        # Escaping schemes:
        (
            "text/plain;version=1.0.0;escaping=dots",
            "text/plain; version=1.0.0; charset=utf-8; escaping=dots",
        ),
        ("text/plain;version=1.0.0", "text/plain; version=1.0.0; charset=utf-8"),
        ("text/plain;version=0.0.4;escaping=dots", TEXT),
        (
            "application/openmetrics-text;escaping=\r\nx-evil",
            OPENMETRICS + "; escaping=underscores",
        ),
    ],
)
def test_supported_format_with_the_highest_preference_is_chosen(
    accept: str, content_type: str
) -> None:
    """Without a supported format the response is Prometheus text 0.0.4."""
    scrape = negotiate(accept)

    assert scrape.content_type == content_type
    assert scrape.openmetrics is content_type.startswith("application/")


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3])
def test_content_type_for_prometheus_equals_prometheus_client(accept: str) -> None:
    """The default escaping scheme is omitted."""
    _, content_type = choose_encoder(accept)

    assert negotiate(accept).content_type == content_type.removesuffix("; escaping=underscores")


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("", False),
        ("gzip", True),
        ("GZip ; Q=0.5", True),
        ("br, gzip, deflate", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("gzip;q=0.0, deflate", False),
        ("*;q=0", False),
        ("identity, gzip;q=0.5", False),
        ("identity;q=0.5, gzip", True),
        ("identity, gzip", True),
        ("identity", False),
        ("br, zstd", False),
        ("gzip;q=much", False),
    ],
)
def test_gzip_is_used_only_if_preferred(accept_encoding: str, gzip: bool) -> None:
    """A coding that is named takes precedence over `*`."""
    assert negotiate(accept_encoding=accept_encoding).gzip is gzip


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("", ()),
        ("name[]=up", ("up",)),
        ("name%5B%5D=up&other=1&name[]=down&name[]=up", ("up", "down")),
        ("name[]=", ()),
        ("name=up", ()),
        ("name[]=%ff", ("�",)),
    ],
)
def test_names_are_parsed_as_by_prometheus_client(query: str, names: tuple[str, ...]) -> None:
    """Duplicate and empty names are ignored."""
    assert negotiate(query=query).names == names


@given(accept=st.text(), accept_encoding=st.text(), query=st.text())
def test_any_header_gives_a_known_content_type(
    accept: str, accept_encoding: str, query: str
) -> None:
    """Client input never appears in the content type."""
    scrape = negotiate(accept, accept_encoding, query)

    assert scrape.content_type.partition("; escaping=")[0] in {
        TEXT,
        OPENMETRICS,
        "text/plain; version=1.0.0; charset=utf-8",
    }


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize(
    "names", [(), ("hits_total",), ("custom_total", "hits_total"), ("depth",), ("hits",), ("no",)]
)
def test_names_select_the_same_samples_as_prometheus_client(
    names: tuple[str, ...], openmetrics: bool
) -> None:
    """An unknown name gives an empty response."""
    registry, others = CollectorRegistry(), CollectorRegistry()
    registry.register(OursCollector())
    for target in (registry, others):
        Counter("custom", "Custom counter", registry=target).inc()
        Gauge("depth", "Water depth", registry=target).set(7)
    scrape = negotiate(OPENMETRICS if openmetrics else "")._replace(names=names)

    text = b"".join(
        render_body(OURS, render_others(others, names, openmetrics=openmetrics), scrape)
    )

    encoder, _ = choose_encoder(scrape.content_type)
    expected = encoder(registry.restricted_registry(names) if names else registry)
    without_created = [line for line in text.splitlines() if b"_created" not in line]
    assert sorted(without_created) == sorted(
        line for line in expected.splitlines() if b"_created" not in line
    )


def test_openmetrics_has_one_end_marker() -> None:
    """The end marker follows the last family."""
    registry = CollectorRegistry()
    Gauge("depth", "Water depth", registry=registry)

    text = b"".join(
        render_body(
            OURS, render_others(registry, openmetrics=True), ScrapeRequest(openmetrics=True)
        )
    )

    assert text.count(b"# EOF") == 1
    assert text.endswith(b"depth 0.0\n# EOF\n")


def test_escaping_scheme_is_applied_to_utf8_names() -> None:
    """The default scheme writes underscores."""
    registry = CollectorRegistry()
    Gauge("water.depth", "Water depth", registry=registry)

    assert render_others(registry) == generate_latest(registry)
    assert b"water_depth 0.0" in render_others(registry)
    for openmetrics in (False, True):
        text = render_others(registry, openmetrics=openmetrics, escaping="allow-utf-8")
        assert b'{"water.depth"} 0.0' in text


@given(others=st.binary(max_size=1000), times=st.integers(1, 1000))
def test_gzip_is_lossless_and_deterministic(others: bytes, times: int) -> None:
    """The gzip header has no timestamp."""
    series: list[Series] = [(REQUESTS, {("GET", "/", 200, "qwen"): [1]})]

    compressed = b"".join(render_body(series, others * times, ScrapeRequest(gzip=True)))

    assert gzip.decompress(compressed) == b"".join(
        render_body(series, others * times, ScrapeRequest())
    )
    assert compressed[4:8] == b"\0\0\0\0"  # the timestamp


def test_large_exposition_is_split_into_chunks() -> None:
    """Each chunk is compressed in a short time."""
    chunks = list(render_body([], b"x" * 1_000_000, ScrapeRequest()))

    assert len(chunks) == 4
    assert b"".join(chunks) == b"x" * 1_000_000

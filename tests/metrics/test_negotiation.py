"""The exposition: which format a scraper gets, which samples, and how they are packed."""

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


OURS: list[Series] = [(Family("hits_total", "counter", "Hits", ("who",)), {("me",): [2]})]


class Ours:
    """Our series for prometheus_client."""

    def describe(self) -> Iterator[Metric]:
        """The family without its samples."""
        yield CounterMetricFamily("hits", "Hits", labels=["who"])

    def collect(self) -> Iterator[Metric]:
        """The family with its sample."""
        metric = CounterMetricFamily("hits", "Hits", labels=["who"])
        metric.add_metric(["me"], 2)
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
        # How much each is liked:
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
        # Versions that we do not write:
        ("application/openmetrics-text;version=0.0.1", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("text/plain;version=3.0", TEXT),
        # How names that are not ours may be written:
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
def test_the_format_is_the_one_that_the_scraper_likes_best(accept: str, content_type: str) -> None:
    """Of those that we write; where it names none of them, it gets what everyone reads."""
    found = negotiate(accept)

    assert found.content_type == content_type
    assert found.openmetrics is content_type.startswith("application/")


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3])
def test_prometheus_gets_what_prometheus_client_would_give_it(accept: str) -> None:
    """The same content type; the default way of escaping goes without saying."""
    _, content_type = choose_encoder(accept)

    assert negotiate(accept).content_type == content_type.removesuffix("; escaping=underscores")


@pytest.mark.parametrize(
    ("accept_encoding", "packed"),
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
def test_it_is_compressed_for_those_who_like_it(accept_encoding: str, packed: bool) -> None:
    """As the header says by name, or else by `*`."""
    assert negotiate(accept_encoding=accept_encoding).gzip is packed


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
def test_names_can_be_repeated(query: str, names: tuple[str, ...]) -> None:
    """They are read as prometheus_client reads them; empty ones are none."""
    assert negotiate(query=query).names == names


@given(accept=st.text(), accept_encoding=st.text(), query=st.text())
def test_nothing_that_a_client_sends_is_an_error(
    accept: str, accept_encoding: str, query: str
) -> None:
    """It gets one of the formats, and its own words are never in the answer's header."""
    found = negotiate(accept, accept_encoding, query)

    assert found.content_type.partition("; escaping=")[0] in {
        TEXT,
        OPENMETRICS,
        "text/plain; version=1.0.0; charset=utf-8",
    }


@pytest.mark.parametrize("openmetrics", [False, True])
@pytest.mark.parametrize(
    "names", [(), ("hits_total",), ("mine_total", "hits_total"), ("depth",), ("hits",), ("no",)]
)
def test_names_select_as_prometheus_client_does(names: tuple[str, ...], openmetrics: bool) -> None:
    """Ours and all others make one answer; names that nobody has make an empty one."""
    registry, others = CollectorRegistry(), CollectorRegistry()
    registry.register(Ours())
    for each in (registry, others):
        Counter("mine", "My own", registry=each).inc()
        Gauge("depth", "Of water", registry=each).set(7)
    asked = negotiate(OPENMETRICS if openmetrics else "")._replace(names=names)

    text = b"".join(render_body(OURS, render_others(others, names, openmetrics=openmetrics), asked))

    encoder, _ = choose_encoder(asked.content_type)
    theirs = encoder(registry.restricted_registry(names) if names else registry)
    without_created = [line for line in text.splitlines() if b"_created" not in line]
    assert sorted(without_created) == sorted(
        line for line in theirs.splitlines() if b"_created" not in line
    )


def test_openmetrics_ends_once() -> None:
    """After the last of all families."""
    registry = CollectorRegistry()
    Gauge("depth", "Of water", registry=registry)

    text = b"".join(
        render_body(
            OURS, render_others(registry, openmetrics=True), ScrapeRequest(openmetrics=True)
        )
    )

    assert text.count(b"# EOF") == 1
    assert text.endswith(b"depth 0.0\n# EOF\n")


def test_a_scraper_can_have_names_of_any_letters() -> None:
    """Where it says so; else they are written with underscores, as prometheus_client does."""
    registry = CollectorRegistry()
    Gauge("water.depth", "Of water", registry=registry)

    assert render_others(registry) == generate_latest(registry)
    assert b"water_depth 0.0" in render_others(registry)
    for openmetrics in (False, True):
        found = render_others(registry, openmetrics=openmetrics, escaping="allow-utf-8")
        assert b'{"water.depth"} 0.0' in found


@given(others=st.binary(max_size=1000), times=st.integers(1, 1000))
def test_compressed_it_is_the_same(others: bytes, times: int) -> None:
    """And the same scrape gives the same bytes at any time."""
    series: list[Series] = [(REQUESTS, {("GET", "/", 200, "qwen"): [1]})]

    packed = b"".join(render_body(series, others * times, ScrapeRequest(gzip=True)))

    assert gzip.decompress(packed) == b"".join(render_body(series, others * times, ScrapeRequest()))
    assert packed[4:8] == b"\0\0\0\0"  # the time


def test_large_expositions_come_in_pieces() -> None:
    """Those of prometheus_client too, so that compressing them takes no long time at once."""
    pieces = list(render_body([], b"x" * 1_000_000, ScrapeRequest()))

    assert len(pieces) == 4
    assert b"".join(pieces) == b"x" * 1_000_000

"""Rendering: what we write is what prometheus_client would have written."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tokenpulse_mw import Exchange, HttpMetrics, TokenUsage

labels = st.text(max_size=8)


def samples(text: bytes) -> dict[tuple[Any, ...], float]:
    """All samples of a scrape, as Prometheus reads them."""
    return {
        (family.name, family.type, family.documentation, s.name, *sorted(s.labels.items())): s.value
        for family in text_string_to_metric_families(text.decode())
        for s in family.samples
    }


@given(
    exchanges=st.lists(
        st.tuples(labels, st.integers(100, 599), labels, st.floats(0, 1000)), max_size=10
    )
)
def test_direct_rendering_equals_that_of_prometheus_client(
    exchanges: list[tuple[str, int, str, float]],
) -> None:
    """Sample for sample, also where label values hold quotes, backslashes and line ends."""
    registry = CollectorRegistry()
    metrics = HttpMetrics(registry)
    for route, status, provider, seconds in exchanges:
        exchange = Exchange("GET", 0.0)
        exchange.route, exchange.status, exchange.provider = route, status, provider
        exchange.duration = exchange.time_to_first_byte = seconds
        exchange.usage, exchange.usage_source = TokenUsage(1, 2), "reported"
        metrics.opened()
        metrics(exchange)
        metrics.failed(route)

    assert samples(metrics.render()) == samples(generate_latest(registry))

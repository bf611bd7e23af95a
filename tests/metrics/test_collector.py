"""Collector of the families of a registry."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from tokenpulse_mw import Exchange, HttpMetrics
from tokenpulse_mw.metrics.collector import tables_of


def finished(route: str = "/x") -> Exchange:
    """Return a successful exchange."""
    exchange = Exchange("GET", 0.0)
    exchange.route, exchange.status, exchange.provider = route, 200, "claude"
    return exchange


def test_two_instances_on_one_registry_share_their_families() -> None:
    """The second instance does not register the names again."""
    registry = CollectorRegistry()
    first, second = HttpMetrics(registry), HttpMetrics(registry)

    first(finished())
    second(finished())

    assert first.render() == second.render()
    assert b'provider="claude"} 2.0' in first.render()


def test_registries_have_separate_families() -> None:
    """Two applications with a registry each are counted separately."""
    first, second = HttpMetrics(CollectorRegistry()), HttpMetrics(CollectorRegistry())

    first(finished())

    assert b"claude" not in second.render()


def test_other_metrics_of_the_registry_are_rendered() -> None:
    """Each family of the registry is rendered once."""
    registry = CollectorRegistry()
    Counter("custom", "Custom counter", registry=registry).inc(3)
    text = HttpMetrics(registry).render().decode()

    assert "custom_total 3.0" in text
    assert text.count("# TYPE tokenpulse_http_requests_total counter") == 1


def test_families_are_in_the_exposition_of_prometheus_client() -> None:
    """`generate_latest` of the registry includes the families of this package."""
    registry = CollectorRegistry()
    HttpMetrics(registry)(finished())

    text = generate_latest(registry).decode()

    assert 'tokenpulse_http_requests_total{method="GET",provider="claude",route="/x"' in text


def test_rendering_does_not_hide_families_in_other_threads() -> None:
    """A concurrent collection in another thread is complete."""
    registry = CollectorRegistry()
    concurrent: list[bytes] = []

    class ConcurrentScrape:
        """Collector that runs a scrape in another thread."""

        def collect(self) -> list[object]:
            if not concurrent:
                concurrent.append(b"")
                thread = threading.Thread(
                    target=lambda: concurrent.append(generate_latest(registry))
                )
                thread.start()
                thread.join()
            return []

    metrics = HttpMetrics(registry)
    registry.register(ConcurrentScrape())  # type: ignore[arg-type]
    metrics.render()

    assert b"tokenpulse_http_requests_in_progress 0.0" in concurrent[1]


def test_duplicate_name_is_rejected() -> None:
    """Two families with one name are never exported."""
    registry = CollectorRegistry()
    Counter("tokenpulse_http_requests", "Custom counter", registry=registry)

    with pytest.raises(
        ValueError, match="registry must not have another collector of tokenpulse metrics"
    ):
        tables_of(registry, max_series=1)


def test_unregistered_families_can_be_registered_again() -> None:
    """The new families start without series."""
    registry = CollectorRegistry()
    HttpMetrics(registry)(finished())
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)

    assert b"claude" not in HttpMetrics(registry).render()

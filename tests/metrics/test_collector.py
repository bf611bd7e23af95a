"""The collector: one set of families for a registry, beside everything else on it."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from tokenpulse_mw import Exchange, HttpMetrics
from tokenpulse_mw.metrics.collector import tables_of


def finished(route: str = "/x") -> Exchange:
    """An exchange that went well."""
    exchange = Exchange("GET", 0.0)
    exchange.route, exchange.status, exchange.provider = route, 200, "claude"
    return exchange


def test_two_metrics_on_one_registry_fill_the_same_families() -> None:
    """Registering twice is no clash, and nothing is counted apart."""
    registry = CollectorRegistry()
    first, second = HttpMetrics(registry), HttpMetrics(registry)

    first(finished())
    second(finished())

    assert first.render() == second.render()
    assert b'provider="claude"} 2.0' in first.render()


def test_registries_do_not_share() -> None:
    """Two applications with a registry each are counted apart."""
    first, second = HttpMetrics(CollectorRegistry()), HttpMetrics(CollectorRegistry())

    first(finished())

    assert b"claude" not in second.render()


def test_the_users_own_metrics_are_in_the_scrape() -> None:
    """What else the registry holds is rendered by prometheus_client, each family once."""
    registry = CollectorRegistry()
    Counter("mine", "My own", registry=registry).inc(3)
    text = HttpMetrics(registry).render().decode()

    assert "mine_total 3.0" in text
    assert text.count("# TYPE tokenpulse_http_requests_total counter") == 1


def test_our_metrics_are_in_the_users_scrape() -> None:
    """An exposition of prometheus_client's own shows our families too."""
    registry = CollectorRegistry()
    HttpMetrics(registry)(finished())

    text = generate_latest(registry).decode()

    assert 'tokenpulse_http_requests_total{method="GET",provider="claude",route="/x"' in text


def test_rendering_here_silences_nothing_elsewhere() -> None:
    """While one thread renders, another's collection is whole."""
    registry = CollectorRegistry()
    elsewhere: list[bytes] = []

    class Asks:
        """A collector during whose collection another thread collects."""

        def collect(self) -> list[object]:
            if not elsewhere:
                elsewhere.append(b"")
                thread = threading.Thread(
                    target=lambda: elsewhere.append(generate_latest(registry))
                )
                thread.start()
                thread.join()
            return []

    metrics = HttpMetrics(registry)
    registry.register(Asks())  # type: ignore[arg-type]
    metrics.render()

    assert b"tokenpulse_http_requests_in_progress 0.0" in elsewhere[1]


def test_a_name_that_somebody_else_has_is_refused() -> None:
    """The error names it, instead of exporting two families of one name."""
    registry = CollectorRegistry()
    Counter("tokenpulse_http_requests", "Not ours", registry=registry)

    with pytest.raises(ValueError, match="another collector of this registry has our names"):
        tables_of(registry, most=1)


def test_families_can_be_registered_anew() -> None:
    """A registry that they were taken off gets fresh ones."""
    registry = CollectorRegistry()
    HttpMetrics(registry)(finished())
    for collector in list(registry._collector_to_names):
        registry.unregister(collector)

    assert b"claude" not in HttpMetrics(registry).render()

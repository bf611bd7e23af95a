"""Gauges of requests in progress and of the providers' rate limits, and failures by fault."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, HttpMetrics, MetricsMiddleware
from tokenpulse_mw.exchange import RequestsInProgress, UpstreamQuota, UpstreamQuotas
from tokenpulse_mw.metrics import ExchangeGauges

from ..support.apps import answering, streaming
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock


def value(metrics: HttpMetrics, name: str, **labels: str) -> float | None:
    """Return the value of a sample after a refresh."""
    metrics.refresh()
    return metrics.registry.get_sample_value(f"tokenpulse_{name}", labels)


@pytest.mark.anyio
async def test_middleware_shows_requests_in_progress_and_remaining_quota(
    metrics: HttpMetrics,
) -> None:
    """The gauges need no further wiring than the middleware."""
    ages = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ages.append(value(metrics, "http_oldest_request_seconds"))
        headers = [
            (b"x-ratelimit-limit-tokens", b"400"),
            (b"x-ratelimit-remaining-tokens", b"100"),
            (b"x-ratelimit-remaining-requests", b"0"),
        ]
        await answering(headers=headers)(scope, receive, send)

    middleware = MetricsMiddleware(app, metrics=metrics)
    assert value(metrics, "http_oldest_request_seconds") == 0
    await drive(middleware, http_scope("/chat", method="POST"))

    assert ages[0] is not None
    assert ages[0] > 0
    assert value(metrics, "http_oldest_request_seconds") == 0
    assert value(metrics, "upstream_remaining_tokens", provider="unknown") == 100
    assert value(metrics, "upstream_remaining_requests", provider="unknown") == 0
    assert value(metrics, "upstream_remaining_ratio", provider="unknown", unit="tokens") == 0.25
    assert value(metrics, "upstream_remaining_ratio", provider="unknown", unit="requests") == 0


@pytest.mark.anyio
async def test_longest_idle_time_is_shown_by_phase(metrics: HttpMetrics, clock: FakeClock) -> None:
    """Both phases always have a value, so that a rule on it can resolve."""
    in_progress = RequestsInProgress(clock=clock)
    gauges = ExchangeGauges(in_progress, UpstreamQuotas())
    gauges.show_in(metrics)
    idle = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.advance(30)
        idle.append(value(metrics, "http_longest_idle_seconds", phase="waiting"))
        await streaming([b"data"], ends=False)(scope, receive, send)
        in_progress.sample()
        clock.advance(20)
        idle.append(value(metrics, "http_longest_idle_seconds", phase="streaming"))

    middleware = MetricsMiddleware(app, metrics=metrics)
    middleware._dispatcher.in_progress = (in_progress,)
    middleware._dispatcher.clock = clock
    await drive(middleware, http_scope("/chat", method="POST"))

    assert idle == [30, 20]
    assert value(metrics, "http_longest_idle_seconds", phase="waiting") == 0
    assert value(metrics, "http_longest_idle_seconds", phase="streaming") == 0


def test_unknown_share_is_not_exposed(metrics: HttpMetrics) -> None:
    """Without a limit, only what is left is known."""
    quotas = UpstreamQuotas()
    gauges = ExchangeGauges(RequestsInProgress(), quotas)
    gauges.show_in(metrics)
    quota = UpstreamQuota("requests", 4, None, None)
    quotas.add(Exchange("POST", 0.0, provider="azure", upstream=(quota,)))

    assert value(metrics, "upstream_remaining_requests", provider="azure") == 4
    assert value(metrics, "upstream_remaining_ratio", provider="azure", unit="requests") is None
    quotas.clear()
    assert value(metrics, "upstream_remaining_requests", provider="azure") is None


@pytest.mark.anyio
async def test_failures_are_counted_by_fault(metrics: HttpMetrics) -> None:
    """A success has none."""
    for status in (200, 404, 503, 503):
        await drive(MetricsMiddleware(answering(status=status), metrics=metrics))

    counts = {
        fault: value(metrics, "http_failures_total", provider="unknown", fault=fault)
        for fault in ("client", "provider", "gateway")
    }
    assert counts == {"client": 1, "provider": 2, "gateway": None}

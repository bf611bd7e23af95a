"""Middleware that counts every request."""

from __future__ import annotations

import pytest

from tokenpulse_mw import HttpMetrics, MetricsMiddleware

from ..support.apps import answering
from ..support.asgi import drive, http_scope


@pytest.mark.anyio
async def test_request_is_counted_with_its_labels(metrics: HttpMetrics) -> None:
    """The labels are method, route, status and provider."""
    app = MetricsMiddleware(answering(status=201), metrics=metrics, provider=lambda scope: "qwen")

    await drive(app, http_scope(method="POST"))

    labels = 'method="POST",route="/{path}",status="201",provider="qwen"'
    assert f"tokenpulse_http_requests_total{{{labels}}} 1.0" in metrics.render().decode()


@pytest.mark.anyio
async def test_stacked_middlewares_count_once(metrics: HttpMetrics) -> None:
    """The inner middleware finds an open exchange with the same observer."""
    app = MetricsMiddleware(MetricsMiddleware(answering(), metrics=metrics), metrics=metrics)

    await drive(app)

    assert b'status="200",provider="unknown"} 1.0' in metrics.render()
    assert b"tokenpulse_http_requests_in_progress 0.0" in metrics.render()


@pytest.mark.anyio
async def test_two_instances_on_one_registry_count_once(metrics: HttpMetrics) -> None:
    """A sub-application and its parent may use the same registry."""
    inner = MetricsMiddleware(answering(), metrics=HttpMetrics(metrics.registry))
    app = MetricsMiddleware(inner, metrics=metrics)

    await drive(app)

    assert b'status="200",provider="unknown"} 1.0' in metrics.render()
    assert len({metrics, HttpMetrics(metrics.registry)}) == 1


def test_default_metrics_share_the_default_registry() -> None:
    """Two middlewares without metrics fill the same families."""
    first, second = MetricsMiddleware(answering()), MetricsMiddleware(answering())

    assert first.metrics.registry is second.metrics.registry


@pytest.mark.anyio
async def test_implausible_usage_does_not_stop_the_counter_of_tokens(metrics: HttpMetrics) -> None:
    """A counter is a float: after two counts of 2**53-1 it would no longer grow by 1."""
    for count in (2**53 - 1, 2**53 - 1, 1, 1, 1):
        body = b'{"model": "m", "usage": {"prompt_tokens": %d}}' % count
        await drive(MetricsMiddleware(answering(body), metrics=metrics), http_scope(method="POST"))

    labels = {"provider": "unknown", "model": "m", "kind": "input"}
    assert metrics.registry.get_sample_value("tokenpulse_llm_tokens_total", labels) == 3
    missing = {"provider": "unknown", "model": "m", "usage": "missing"}
    assert metrics.registry.get_sample_value("tokenpulse_llm_requests_total", missing) == 2

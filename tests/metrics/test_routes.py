"""The scrape."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import HttpMetrics, MetricsMiddleware, metrics_routes


def test_the_scrape_is_prometheus_text(metrics: HttpMetrics) -> None:
    """In the version that every Prometheus reads."""
    client = TestClient(Starlette(routes=metrics_routes(metrics)))

    answer = client.get("/metrics")

    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE tokenpulse_http_requests_total counter\n" in answer.text


def test_the_scrape_does_not_count_itself(metrics: HttpMetrics) -> None:
    """Neither among the requests nor among those in progress."""
    app = Starlette(routes=metrics_routes(metrics))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    client = TestClient(app)

    client.get("/metrics")
    text = client.get("/metrics").text

    assert "tokenpulse_http_requests_in_progress 0.0\n" in text
    assert "tokenpulse_http_requests_total{" not in text


def test_the_scrape_can_be_guarded(metrics: HttpMetrics) -> None:
    """Whoever may not read it learns nothing of it."""
    routes = metrics_routes(metrics, authorize=lambda request: "x-me" in request.headers)
    client = TestClient(Starlette(routes=routes))

    assert client.get("/metrics").status_code == 404
    assert client.get("/metrics", headers={"x-me": "1"}).status_code == 200

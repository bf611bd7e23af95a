"""Real Prometheus that scrapes a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tokenpulse_mw import ExchangeMiddleware, HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.demo.server import LocalServer

from ..support.clock import FakeClock
from ..support.defaults import set_default
from ..support.servers import Server, need, prometheus_server, started
from ..support.waiting import PATIENCE, wait_until

# The queries of the Grafana dashboard.
RATE = "sum(rate(tokenpulse_http_requests_total[1m])) by (method, route)"
P95 = (
    "histogram_quantile(0.95, "
    "sum(rate(tokenpulse_http_request_duration_seconds_bucket[5m])) by (le, provider))"
)
ERRORS = (
    'sum(rate(tokenpulse_http_requests_total{status=~"5.."}[5m])) '
    "/ sum(rate(tokenpulse_http_requests_total[5m]))"
)

PATHS = ("/claude/chat", "/gemini/chat", "/gemini/chat", "/gemini/broken")
SLOW = 0.3  # seconds, in the middle of the bucket from 0.25 to 0.5
REPETITIONS = 60
# With 11 samples a rate is at most a sixth too high: Prometheus extrapolates to the ends of the
# window.
SAMPLES = 11


@pytest.fixture
def gateway(
    metrics: HttpMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Run a gateway with a slow and a fast provider; return its host and port."""
    set_default(monkeypatch, ExchangeMiddleware.__init__, "clock", clock)

    async def chat(request: Request) -> Response:
        clock.advance(SLOW if "claude" in request.url.path else 0)
        return PlainTextResponse("hello")

    async def broken(request: Request) -> Response:
        return PlainTextResponse("no upstream", status_code=503)

    app = Starlette(routes=[Route("/{vendor}/chat", chat), Route("/{vendor}/broken", broken)])
    settings = Settings(limit="100000/minute")
    TokenPulse(providers=["claude", "gemini"], settings=settings, metrics=metrics).install(app)
    with LocalServer(app) as server:
        yield server.url.removeprefix("http://")


@pytest.fixture
def prometheus(gateway: str, tmp_path: Path) -> Iterator[Server]:
    """Run a Prometheus that scrapes the gateway."""
    need("prometheus", "prometheus")
    yield from started(prometheus_server(tmp_path, gateway), "prometheus")


def api(server: Server, path: str, **parameters: str) -> Any:
    """Return data of the HTTP API of Prometheus, or None before it is ready."""
    response = httpx2.get(
        f"http://{server.place}/api/v1/{path}", params=parameters, timeout=PATIENCE
    )
    return response.json()["data"] if response.status_code == 200 else None


def query(server: Server, expression: str) -> dict[str, float]:
    """Return the value of each series of `expression` by its label values."""
    data = api(server, "query", query=expression)
    series = data["result"] if data else []
    return {" ".join(item["metric"].values()): float(item["value"][1]) for item in series}


def is_up(server: Server) -> bool:
    """Return True if the last scrape of the only target succeeded."""
    (target,) = api(server, "targets")["activeTargets"]
    return (target["health"], target["lastError"]) == ("up", "")


def wait_for_requests(server: Server, number: int) -> None:
    """Wait until Prometheus has `number` requests."""
    total = "sum(tokenpulse_http_requests_total)"
    wait_until(lambda: query(server, total) == {"": number}, f"{number} requests are not seen")


def wait_for_samples(server: Server) -> None:
    """Wait until each series has enough samples in the window of the rate."""
    fewest = "min(count_over_time(tokenpulse_http_requests_total[1m]))"
    wait_until(lambda: query(server, fewest).get("", 0) >= SAMPLES, "there are not enough samples")


def traffic(gateway: str, *, times: int) -> int:
    """Send requests to each path; return their number."""
    # New connections: the server may close a connection that was idle.
    with httpx2.Client(headers={"connection": "close"}, timeout=PATIENCE) as client:
        for path in PATHS * times:
            client.get(f"http://{gateway}{path}")
    return times * len(PATHS)


def test_queries_return_the_traffic_that_was_sent(gateway: str, prometheus: Server) -> None:
    """Queries return the rate by route, the 95th percentile by provider and the error ratio."""
    first = traffic(gateway, times=1)
    # A rate starts at the first sample of a series.
    wait_for_requests(prometheus, first)
    more = traffic(gateway, times=REPETITIONS)
    wait_for_requests(prometheus, first + more)
    wait_for_samples(prometheus)

    per_path = more / len(PATHS)
    per_minute = {labels: rate * 60 for labels, rate in query(prometheus, RATE).items()}
    assert per_minute == {
        "GET /{vendor}/chat": pytest.approx(3 * per_path, rel=0.2),
        "GET /{vendor}/broken": pytest.approx(per_path, rel=0.2),
    }
    slowest = query(prometheus, P95)
    assert 0.25 < slowest["claude"] <= 0.5
    assert 0 < slowest["gemini"] <= 0.25
    assert query(prometheus, ERRORS) == {"": pytest.approx(0.25, abs=0.03)}


def test_prometheus_scrapes_openmetrics_without_errors(gateway: str, prometheus: Server) -> None:
    """Only OpenMetrics names the family of a counter without `_total`."""
    traffic(gateway, times=1)
    wait_for_requests(prometheus, len(PATHS))

    wait_until(lambda: is_up(prometheus), "the target is not up")
    (family,) = api(prometheus, "targets/metadata", metric="tokenpulse_http_requests")
    assert (family["type"], family["help"]) == ("counter", "Total number of HTTP requests")
    # No sample was dropped as a duplicate or as out of order.
    scraped = query(prometheus, "scrape_samples_scraped - scrape_samples_post_metric_relabeling")
    assert set(scraped.values()) == {0.0}

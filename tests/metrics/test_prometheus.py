"""A real Prometheus scrapes a real gateway, and answers the seed's three questions about it."""

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

# As the seed has them for Grafana.
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
ROUNDS = 60
# A rate from so few samples is told too high by at most a sixth: Prometheus adds what may have
# been before the first of them, and after the last one.
SAMPLES = 11


@pytest.fixture
def gateway(
    metrics: HttpMetrics, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Everything installed, in front of one slow and one quick provider; gives host and port."""
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
    """A Prometheus that scrapes the gateway."""
    need("prometheus", "prometheus")
    yield from started(prometheus_server(tmp_path, gateway), "prometheus")


def asked(server: Server, path: str, **parameters: str) -> Any:
    """What the HTTP API of Prometheus answers; None before it is ready."""
    answer = httpx2.get(f"http://{server.place}/api/v1/{path}", params=parameters, timeout=PATIENCE)
    return answer.json()["data"] if answer.status_code == 200 else None


def query(server: Server, expression: str) -> dict[str, float]:
    """The value of each series that `expression` gives, by the values of its labels."""
    data = asked(server, "query", query=expression)
    found = data["result"] if data else []
    return {" ".join(each["metric"].values()): float(each["value"][1]) for each in found}


def is_up(server: Server) -> bool:
    """Whether the last scrape of its only target had no error."""
    (target,) = asked(server, "targets")["activeTargets"]
    return (target["health"], target["lastError"]) == ("up", "")


def wait_for_requests(server: Server, number: int) -> None:
    """Wait until Prometheus knows of so many requests."""
    total = "sum(tokenpulse_http_requests_total)"
    wait_until(lambda: query(server, total) == {"": number}, f"{number} requests are not seen")


def wait_for_samples(server: Server) -> None:
    """Wait until Prometheus has seen each series often enough in the minute of the rate."""
    fewest = "min(count_over_time(tokenpulse_http_requests_total[1m]))"
    wait_until(lambda: query(server, fewest).get("", 0) >= SAMPLES, "there are not enough samples")


def traffic(gateway: str, *, rounds: int) -> int:
    """A client that asks for each path in turn; gives the number of requests."""
    # On connections of their own: a server may be closing one that was idle for long.
    with httpx2.Client(headers={"connection": "close"}, timeout=PATIENCE) as client:
        for path in PATHS * rounds:
            client.get(f"http://{gateway}{path}")
    return rounds * len(PATHS)


def test_the_seeds_queries_tell_what_was_sent(gateway: str, prometheus: Server) -> None:
    """Rate by route, the 95th percentile by provider, and the share of errors."""
    first = traffic(gateway, rounds=1)
    # A rate is the increase from the first scrape on that saw the series.
    wait_for_requests(prometheus, first)
    more = traffic(gateway, rounds=ROUNDS)
    wait_for_requests(prometheus, first + more)
    wait_for_samples(prometheus)

    each = more / len(PATHS)
    in_a_minute = {labels: rate * 60 for labels, rate in query(prometheus, RATE).items()}
    assert in_a_minute == {
        "GET /{vendor}/chat": pytest.approx(3 * each, rel=0.2),
        "GET /{vendor}/broken": pytest.approx(each, rel=0.2),
    }
    slowest = query(prometheus, P95)
    assert 0.25 < slowest["claude"] <= 0.5
    assert 0 < slowest["gemini"] <= 0.25
    assert query(prometheus, ERRORS) == {"": pytest.approx(0.25, abs=0.03)}


def test_prometheus_reads_openmetrics_without_complaint(gateway: str, prometheus: Server) -> None:
    """The target is up, and a counter's family is named as only OpenMetrics names it."""
    traffic(gateway, rounds=1)
    wait_for_requests(prometheus, len(PATHS))

    wait_until(lambda: is_up(prometheus), "the target is not up")
    (family,) = asked(prometheus, "targets/metadata", metric="tokenpulse_http_requests")
    assert (family["type"], family["help"]) == ("counter", "Total number of HTTP requests")
    # What was rendered has been read: nothing was dropped as a duplicate or out of order.
    scraped = query(prometheus, "scrape_samples_scraped - scrape_samples_post_metric_relabeling")
    assert set(scraped.values()) == {0.0}

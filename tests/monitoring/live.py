"""Scrape of a real gateway with a sample of every metric."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tokenpulse_mw import AlertEngine, Exchange, HttpMetrics, Settings, TokenPulse

from ..support.apps import WORDS, event, raising_mid_stream

QUOTA_HEADERS = {
    f"x-ratelimit-{part}-{unit}": value
    for unit in ("requests", "tokens")
    for part, value in {"limit": "100", "remaining": "40"}.items()
}
USAGE = {"prompt_tokens": 40, "completion_tokens": 20, "total_tokens": 60}
DONE = b"data: [DONE]\n\n"

# Label sets by sample name.
Samples = Mapping[str, list[Mapping[str, str]]]


async def _plain(request: Request) -> Response:
    content = {"object": "chat.completion", "choices": [], "usage": USAGE}
    return JSONResponse(content, headers=QUOTA_HEADERS)


async def _streamed(request: Request) -> Response:
    last = event(choices=[], usage=USAGE)
    return StreamingResponse(iter([*WORDS, last, DONE]), media_type="text/event-stream")


async def _silent(request: Request) -> Response:
    return JSONResponse({"object": "chat.completion", "choices": []})


async def _down(request: Request) -> Response:
    return PlainTextResponse("no upstream", status_code=503)


ROUTES = [
    Route("/codex/plain", _plain, methods=["POST"]),
    Route("/codex/streamed", _streamed, methods=["POST"]),
    Route("/claude/silent", _silent, methods=["POST"]),
    Route("/claude/down", _down, methods=["POST"]),
    Route("/claude/broken", raising_mid_stream, methods=["POST"]),
]


@cache
def live_samples() -> Samples:
    """Return all samples after real requests and simulated errors."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics = HttpMetrics(registry, max_series=60)
    engine = AlertEngine()
    pulse = TokenPulse(
        providers=["codex", "claude"],
        settings=Settings(limit=f"{len(ROUTES)}/minute"),
        credentials={"codex": True, "claude": False},
        engine=engine,
        metrics=metrics,
    )
    app = Starlette(routes=ROUTES)
    pulse.install(app)
    with TestClient(app, raise_server_exceptions=False) as client:
        for route in [*ROUTES, ROUTES[0]]:
            client.post(route.path)
        assert client.portal is not None
        client.portal.call(engine.evaluate)
        _add_rare_samples(metrics)
        return _samples(client.get("/metrics").text)


def _add_rare_samples(metrics: HttpMetrics) -> None:
    """Count errors of a storage, a rule and a sink, and costs, and overflow a family."""
    metrics.add_callback("tokenpulse_alerts", lambda: {("provider_down", "critical", "firing"): 1})
    metrics.on_limit("client", "error")
    metrics.on_evaluation("error", 0.1)
    metrics.on_heartbeat("error")
    metrics.on_error("metrics")
    for provider, nanos in {"claude": None, "codex": 1000}.items():
        exchange = Exchange("POST", 0.0, route="/priced", status=200, provider=provider)
        exchange.cost_nanos = nanos
        exchange.cost_source = "missing" if nanos is None else "estimated"
        metrics(exchange)
    for number in range(61):
        metrics.on_delivery(f"sink {number}", "ok" if number % 2 else "rejected")


def _samples(text: str) -> Samples:
    label_sets: dict[str, list[Mapping[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            label_sets.setdefault(sample.name, []).append(sample.labels)
    return label_sets

"""Served applications: one FastAPI gateway, bare, with a floor, with this package, with peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib import import_module

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry

from tokenpulse_mw import (
    AlertEngine,
    AlertMiddleware,
    InFlight,
    MetricsMiddleware,
    Policy,
    RateLimitMiddleware,
    Settings,
    TokenPulse,
)

from ..apps import CHUNK, COMPLETION, LIMIT, PER_DAY, STREAM_END, Floor, metrics

ADMIN_TOKEN = "a-token-of-a-benchmark"
CHUNKS = 200


def gateway() -> FastAPI:
    """Return the bare gateway."""
    app = FastAPI()

    @app.get("/claude/models")
    async def models() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/codex/chat")
    async def chat(request: Request) -> Response:
        await request.json()
        return Response(COMPLETION, media_type="application/json")

    @app.post("/codex/stream")
    async def stream(request: Request) -> StreamingResponse:
        await request.json()
        return StreamingResponse(_chunks(), media_type="text/event-stream")

    return app


async def _chunks() -> AsyncIterator[bytes]:
    for _ in range(CHUNKS):
        yield CHUNK
    for chunk in STREAM_END:
        yield chunk


def bare(app: FastAPI) -> None:
    """Add nothing."""


def floor(app: FastAPI) -> None:
    """Add one middleware written by hand, which counts a window and two metrics."""
    app.add_middleware(Floor)


def install(app: FastAPI) -> None:
    """Add the whole stack with one policy."""
    TokenPulse(settings=Settings(limit=LIMIT), metrics=metrics()).install(app)


def install_admin(app: FastAPI) -> None:
    """Add the whole stack with one policy and an admin token."""
    settings = Settings(limit=LIMIT, admin_token=ADMIN_TOKEN)
    TokenPulse(settings=settings, metrics=metrics()).install(app)


def install_three(app: FastAPI) -> None:
    """Add the whole stack with limits of requests, tokens and requests in flight."""
    policies = [
        Policy(LIMIT, name="requests"),
        Policy(LIMIT, name="tokens", tokens=1000),
        Policy(InFlight(1000), name="in-flight"),
    ]
    TokenPulse(settings=Settings(), policies=policies, metrics=metrics()).install(app)


def middlewares(app: FastAPI) -> None:
    """Add the middlewares of limit, metrics and alerts, without endpoints."""
    app.add_middleware(RateLimitMiddleware, limit=LIMIT)
    app.add_middleware(AlertMiddleware, engine=AlertEngine())
    app.add_middleware(MetricsMiddleware, metrics=metrics())


def instrumentator(app: FastAPI) -> None:
    """Add prometheus-fastapi-instrumentator, with its endpoint."""
    peer = import_module("prometheus_fastapi_instrumentator")
    peer.Instrumentator(registry=CollectorRegistry()).instrument(app).expose(app)


def slowapi(app: FastAPI) -> None:
    """Add the pure ASGI middleware of slowapi, with headers."""
    peer = import_module("slowapi")
    client_of = import_module("slowapi.util").get_remote_address
    options = {"default_limits": [f"{PER_DAY}/day"], "headers_enabled": True}
    app.state.limiter = peer.Limiter(client_of, **options)
    app.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)


def instrumentator_and_slowapi(app: FastAPI) -> None:
    """Add prometheus-fastapi-instrumentator and slowapi, which do less than `install`."""
    slowapi(app)
    instrumentator(app)


def starlette_exporter(app: FastAPI) -> None:
    """Add starlette_exporter, with its endpoint."""
    peer = import_module("starlette_exporter")
    app.add_middleware(peer.PrometheusMiddleware, prefix="bench")
    app.add_route("/metrics", peer.handle_metrics)


def opentelemetry(app: FastAPI) -> None:
    """Add the ASGI middleware of OpenTelemetry, with metrics of its SDK and without traces."""
    sdk = import_module("opentelemetry.sdk.metrics")
    reader = import_module("opentelemetry.sdk.metrics.export").InMemoryMetricReader()
    app.add_middleware(
        import_module("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware,
        meter_provider=sdk.MeterProvider(metric_readers=[reader]),
        tracer_provider=import_module("opentelemetry.trace").NoOpTracerProvider(),
    )


VARIANTS: dict[str, Callable[[FastAPI], None]] = {
    "bare FastAPI": bare,
    "floor": floor,
    "install, 1 policy": install,
    "install, 1 policy, admin token": install_admin,
    "install, 3 policies": install_three,
    "middlewares, 1 policy": middlewares,
    "instrumentator": instrumentator,
    "slowapi": slowapi,
    "instrumentator + slowapi": instrumentator_and_slowapi,
    "starlette_exporter": starlette_exporter,
    "OpenTelemetry ASGI": opentelemetry,
}

"""Starlette application with each part of the library added separately.

Run it:

    uvicorn starlette_parts:app

    curl -i http://127.0.0.1:8000/hello       # 429 after five requests a minute
    curl http://127.0.0.1:8000/metrics
    curl http://127.0.0.1:8000/health/ready
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tokenpulse_mw import (
    AlertEngine,
    AlertMiddleware,
    Exchange,
    ExchangeMiddleware,
    HealthRouter,
    HttpMetrics,
    MetricsMiddleware,
    RateLimitMiddleware,
    configure_logging,
    metrics_routes,
)

configure_logging("INFO")

metrics = HttpMetrics(CollectorRegistry())
engine = AlertEngine(interval=60)
health = HealthRouter(service="hello", providers=["claude"], checks={"disk": lambda: True})


def print_exchange(exchange: Exchange) -> None:
    """Print a finished exchange."""
    print(exchange.method, exchange.route, exchange.status, f"{exchange.duration:.3f}s")


async def hello(request: Request) -> JSONResponse:
    """Return a greeting."""
    return JSONResponse({"hello": "world"})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Evaluate alerts while the application runs."""
    async with engine:
        yield


app = Starlette(
    routes=[Route("/hello", hello), *health.routes, *metrics_routes(metrics)],
    middleware=[
        # Outermost first: observers wrap the rate limit, so 429 responses are observed.
        Middleware(ExchangeMiddleware, observers=[print_exchange]),
        Middleware(MetricsMiddleware, metrics=metrics),
        Middleware(AlertMiddleware, engine=engine),
        # Only the health endpoints and the scrape are served at these paths.
        Middleware(RateLimitMiddleware, limit="5/minute", exempt=["/health*", "/metrics"]),
    ],
    lifespan=lifespan,
)

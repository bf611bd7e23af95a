"""Gateway to be run in several worker processes, which return their process id."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tokenpulse_mw import HttpMetrics, MetricsMiddleware, metrics_routes


async def work(request: Request) -> PlainTextResponse:
    """Return the process id of this worker."""
    return PlainTextResponse(str(os.getpid()))


metrics = HttpMetrics(CollectorRegistry())
app = MetricsMiddleware(
    Starlette(routes=[Route("/work", work), *metrics_routes(metrics)]), metrics=metrics
)

"""The scrape."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..exchange import drop_exchange
from .http import HttpMetrics


def metrics_routes(
    metrics: HttpMetrics, *, authorize: Callable[[Request], bool] | None = None
) -> list[Route]:
    """`GET /metrics`: everything on the registry of `metrics`.

    The scrape itself is not counted among the requests.

    Args:
        metrics: Whose registry to expose.
        authorize: Says whether a request may read it; one that may not gets 404. None lets
            everyone.
    """

    async def scrape(request: Request) -> Response:
        drop_exchange(request.scope)
        if authorize is not None and not authorize(request):
            return PlainTextResponse("Not Found", status_code=404)
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})

    return [Route("/metrics", scrape, methods=["GET"])]

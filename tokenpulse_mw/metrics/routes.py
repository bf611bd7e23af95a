"""The scrape."""

from __future__ import annotations

from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import checkpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..exchange import Failures, drop_exchange
from .exposition import Wanted, body, wanted
from .http import HttpMetrics
from .rows import Series


def metrics_routes(
    metrics: HttpMetrics, *, authorize: Callable[[Request], bool] | None = None
) -> list[Route]:
    """`GET /metrics`: everything on the registry of `metrics`.

    It is Prometheus text, or OpenMetrics for a scraper that prefers it, compressed for one that
    takes gzip; `?name[]=` asks for the samples of one name, and may be repeated. The scrape itself
    is not counted among the requests, and while a large one is made other requests go on. When
    another collector of the registry fails, that is logged and counted as the component `metrics`,
    and our own families are served alone.

    Args:
        metrics: Whose registry to expose.
        authorize: Says whether a request may read it; one that may not gets 404. None lets
            everyone.
    """
    return [Route("/metrics", _Scraped(metrics, authorize).scrape, methods=["GET"])]


class _Scraped:
    """What is scraped, and by whom."""

    def __init__(self, metrics: HttpMetrics, authorize: Callable[[Request], bool] | None) -> None:
        self._metrics = metrics
        self._authorize = authorize
        self._failures = Failures()
        # Others' collectors run in a thread, one scrape at a time: if one hangs, scrapes wait for
        # it, and neither streams nor the application's own threads do.
        self._threads = CapacityLimiter(1)

    async def scrape(self, request: Request) -> Response:
        """Answer one request."""
        drop_exchange(request.scope)
        if self._authorize is not None and not self._authorize(request):
            return _not_found(request)
        asked = _wanted(request)
        self._metrics.look_up()  # here, and not in the thread: it tells of this event loop
        series, others = await to_thread.run_sync(self._gather, asked, limiter=self._threads)
        pieces: list[bytes] = []
        for piece in body(series, others, asked):
            pieces.append(piece)
            await checkpoint()  # streams go on between two pieces
        return _answer(request, asked, b"".join(pieces))

    def _gather(self, asked: Wanted) -> tuple[list[Series], bytes]:
        others = b""
        try:
            others = self._metrics.rest(
                asked.names, openmetrics=asked.openmetrics, escaping=asked.escaping
            )
        except Exception as error:  # noqa: BLE001 - whoever is on call needs what there is
            self._failures.tell("metrics", error, [self._metrics])
        return self._metrics.series(), others


def _wanted(request: Request) -> Wanted:
    accept, accept_encoding = (
        ",".join(request.headers.getlist(name)) for name in ("accept", "accept-encoding")
    )
    query = request.scope.get("query_string", b"").decode(errors="replace")
    return wanted(accept, accept_encoding, query)


def _answer(request: Request, asked: Wanted, content: bytes) -> Response:
    headers = {
        "content-type": asked.content_type,
        "content-length": str(len(content)),
        "vary": "Accept, Accept-Encoding",
        "cache-control": "no-store",
    }
    if asked.gzip:
        headers["content-encoding"] = "gzip"
    return Response(b"" if request.method == "HEAD" else content, headers=headers)


def _not_found(request: Request) -> Response:
    """The application's own answer where it has nothing, which tells nobody that we are here."""
    if "app" in request.scope:
        raise HTTPException(404)
    return PlainTextResponse("Not Found", status_code=404)

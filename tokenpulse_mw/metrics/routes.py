"""The scrape."""

from __future__ import annotations

import threading

from anyio import CapacityLimiter, fail_after, to_thread
from anyio.lowlevel import checkpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ..exchange import ErrorReporter, drop_exchange
from ..validation import check_seconds
from ..web.auth import Authorize, Guard
from ..web.problems import ProblemError
from .http import HttpMetrics
from .negotiation import ScrapeRequest, negotiate, render_body

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"]


def metrics_routes(
    metrics: HttpMetrics,
    *,
    authorize: Authorize | None = None,
    timeout: float = 5.0,
) -> list[Route]:
    """`GET /metrics`: everything on the registry of `metrics`.

    It is Prometheus text, or OpenMetrics for a scraper that prefers it, compressed for one that
    takes gzip; `?name[]=` asks for the samples of one name, and may be repeated. The scrape itself
    is not counted among the requests, and while a large one is made other requests go on. When
    another collector of the registry fails, or takes too long, that is logged and counted as the
    component `metrics`, and our own families are served alone.

    Args:
        metrics: Whose registry to expose.
        authorize: Says whether a request may read it, as a bearer guard does; it may be async. One
            that may not gets 404. None lets everyone.
        timeout: Seconds that the other collectors of the registry may take together.

    Raises:
        ValueError: `metrics` are no `HttpMetrics`, `authorize` cannot be called, or `timeout` is
            not above 0.
    """
    if not isinstance(metrics, HttpMetrics):
        raise ValueError(
            f"metrics_routes needs HttpMetrics, such as HttpMetrics(registry), got {metrics!r}"
        )
    check_seconds("timeout", timeout)
    guard = None if authorize is None else Guard(authorize, of="metrics_routes")
    scraped = _Scraper(metrics, guard, timeout)
    # Who may not read it is to learn nothing of it by any method.
    methods = ["GET"] if guard is None else _METHODS
    return [Route("/metrics", scraped.scrape, methods=methods)]


class _Scraper:
    """What is scraped, and by whom."""

    def __init__(
        self,
        metrics: HttpMetrics,
        guard: Guard | None,
        timeout: float,
    ) -> None:
        self._metrics = metrics
        self._guard = guard
        self._timeout = timeout
        self._failures = ErrorReporter()
        self._one_at_a_time = threading.Lock()

    async def scrape(self, request: Request) -> Response:
        """Answer one request."""
        try:
            if self._guard is not None:
                await self._guard.authorize(request)
        except ProblemError:
            return _not_found(request)
        drop_exchange(request.scope)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Method Not Allowed", 405, headers={"allow": "GET, HEAD"})
        asked = _wanted(request)
        self._metrics.refresh()  # here, and not in the thread: it tells of this event loop
        others = await self._others(asked)
        series = await to_thread.run_sync(self._metrics.series)
        pieces: list[bytes] = []
        for piece in render_body(series, others, asked):
            pieces.append(piece)
            await checkpoint()  # streams go on between two pieces
        return _answer(request, asked, b"".join(pieces))

    async def _others(self, asked: ScrapeRequest) -> bytes:
        """What else the registry holds, as far as that can be had in time.

        It is collected in a thread, and not one of the application's: if a collector hangs,
        neither its threads nor its streams wait for it, and no more than that one thread hangs.
        """
        try:
            with fail_after(self._timeout):
                others = await to_thread.run_sync(
                    self._collect, asked, abandon_on_cancel=True, limiter=CapacityLimiter(1)
                )
        except Exception as error:  # noqa: BLE001 - whoever is on call needs what there is
            self._failures.report("metrics", error, [self._metrics])
            return b""
        self._failures.recovered("metrics")
        return others

    def _collect(self, asked: ScrapeRequest) -> bytes:
        if not self._one_at_a_time.acquire(timeout=self._timeout):
            raise TimeoutError("the collectors of the registry are still busy with another scrape")
        try:
            return self._metrics.render_others(
                asked.names, openmetrics=asked.openmetrics, escaping=asked.escaping
            )
        finally:
            self._one_at_a_time.release()


def _wanted(request: Request) -> ScrapeRequest:
    accept, accept_encoding = (
        ",".join(request.headers.getlist(name)) for name in ("accept", "accept-encoding")
    )
    query = request.scope.get("query_string", b"").decode(errors="replace")
    return negotiate(accept, accept_encoding, query)


def _answer(request: Request, asked: ScrapeRequest, content: bytes) -> Response:
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
    """What Starlette answers where there is nothing, by which nobody learns that we are here."""
    if "app" in request.scope:
        raise HTTPException(404)
    return PlainTextResponse("Not Found", status_code=404)

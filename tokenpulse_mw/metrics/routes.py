"""Route of the scrape, `/metrics`."""

from __future__ import annotations

import threading
from collections import deque

from anyio import CapacityLimiter, fail_after, to_thread
from anyio.lowlevel import checkpoint
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from ..exchange import ErrorReporter, drop_exchange
from ..validation import check_seconds
from ..web.auth import Authorize, Guard
from ..web.problems import ProblemError, problem_response
from ..web.route import OwnRoute
from .http import HttpMetrics
from .negotiation import ScrapeRequest, negotiate, render_body

_CHUNK_BYTES = 1 << 16  # small parts, such as those of gzip, are sent together


def metrics_routes(
    metrics: HttpMetrics,
    *,
    authorize: Authorize | None = None,
    timeout: float = 5.0,
) -> list[BaseRoute]:
    """Return the route `GET /metrics`, which serves the registry of `metrics`.

    The response is Prometheus text, or OpenMetrics if the scraper prefers it, compressed with gzip
    if accepted. `?name[]=` selects samples by name and may be repeated. Scrapes are not counted as
    requests, and do not block other requests. If another collector of the registry fails or exceeds
    the timeout, the error is logged and counted as the component `metrics`, and only the families
    of this package are served.

    Args:
        metrics: Metrics whose registry is served.
        authorize: Function of the request, sync or async, that returns True or a name if access
            is granted, such as `bearer(token)`. Other requests get 404. None grants access to all.
        timeout: Seconds that the other collectors of the registry may take together.

    Raises:
        ValueError: `metrics` is not an `HttpMetrics`, `authorize` is not callable, or `timeout` is
            not above 0.
    """
    if not isinstance(metrics, HttpMetrics):
        raise ValueError(
            f"metrics must be an HttpMetrics, got {metrics!r}; use HttpMetrics(registry)"
        )
    check_seconds("timeout", timeout)
    guard = None if authorize is None else Guard(authorize, of="metrics_routes")
    scrape = _Scraper(metrics, guard, timeout).scrape
    # With a guard, every method gives 404: a 405 would disclose that the route exists.
    return [OwnRoute("/metrics", scrape, name="metrics", for_all=guard is not None)]


class _Scraper:
    """Endpoint of the scrape."""

    def __init__(
        self,
        metrics: HttpMetrics,
        guard: Guard | None,
        timeout: float,
    ) -> None:
        self._metrics = metrics
        self._guard = guard
        self._timeout = timeout
        self._errors = ErrorReporter()
        self._collecting = threading.Lock()

    async def scrape(self, request: Request) -> Response:
        """Return the response to a scrape."""
        try:
            if self._guard is not None:
                await self._guard.authorize(request)
        except ProblemError as problem:
            is_guess = problem.status == 429
            return problem_response(problem) if is_guess else _not_found(request)
        drop_exchange(request.scope)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("Method Not Allowed", 405, headers={"allow": "GET, HEAD"})
        scrape = _negotiate(request)
        self._metrics.refresh()  # not in the thread: it counts the tasks of this event loop
        others = await self._render_others(scrape)
        series = await to_thread.run_sync(self._metrics.series)
        parts = deque[bytes]()
        for chunk in render_body(series, others, scrape):
            parts.append(chunk)
            await checkpoint()  # other requests run between two chunks
        return _ScrapeResponse(parts, _headers(scrape), with_body=request.method == "GET")

    async def _render_others(self, scrape: ScrapeRequest) -> bytes:
        """Return the other metrics of the registry, or nothing on an error or a timeout.

        They are collected in a thread outside of the application's thread limit: a collector that
        hangs blocks this thread only.
        """
        try:
            with fail_after(self._timeout):
                others = await to_thread.run_sync(
                    self._collect, scrape, abandon_on_cancel=True, limiter=CapacityLimiter(1)
                )
        except Exception as error:  # noqa: BLE001 - the families of this package are still served
            self._errors.report("metrics", error, [self._metrics])
            return b""
        self._errors.recovered("metrics")
        return others

    def _collect(self, scrape: ScrapeRequest) -> bytes:
        if not self._collecting.acquire(timeout=self._timeout):
            raise TimeoutError("the collectors of the registry are busy with another scrape")
        try:
            return self._metrics.render_others(
                scrape.names, openmetrics=scrape.openmetrics, escaping=scrape.escaping
            )
        finally:
            self._collecting.release()


def _negotiate(request: Request) -> ScrapeRequest:
    accept, accept_encoding = (
        ",".join(request.headers.getlist(name)) for name in ("accept", "accept-encoding")
    )
    query = request.scope.get("query_string", b"").decode(errors="replace")
    return negotiate(accept, accept_encoding, query)


class _ScrapeResponse(Response):
    """Response that is sent in chunks, between which other requests run.

    Args:
        parts: The body; parts are released when they are sent.
        headers: Headers except Content-Length.
        with_body: False for a response to HEAD.
    """

    def __init__(self, parts: deque[bytes], headers: dict[str, str], *, with_body: bool) -> None:
        super().__init__(headers={**headers, "content-length": str(sum(map(len, parts)))})
        self._parts = parts if with_body else deque[bytes]()

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002 - part of ASGI
        receive: Receive,  # noqa: ARG002 - part of ASGI
        send: Send,
    ) -> None:
        """Send the response."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        body = self._next()
        while self._parts:
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await checkpoint()
            body = self._next()
        await send({"type": "http.response.body", "body": body})

    def _next(self) -> bytes:
        """Return the next parts, of at least `_CHUNK_BYTES` together if there are more."""
        chunk: list[bytes] = []
        while self._parts and sum(map(len, chunk)) < _CHUNK_BYTES:
            chunk.append(self._parts.popleft())
        return b"".join(chunk)


def _headers(scrape: ScrapeRequest) -> dict[str, str]:
    headers = {
        "content-type": scrape.content_type,
        "vary": "Accept, Accept-Encoding",
        "cache-control": "no-store",
    }
    return headers | ({"content-encoding": "gzip"} if scrape.gzip else {})


def _not_found(request: Request) -> Response:
    """Return the 404 that Starlette sends for a path without a route."""
    if "app" in request.scope:
        raise HTTPException(404)
    return PlainTextResponse("Not Found", status_code=404)

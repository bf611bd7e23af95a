"""Server of the live page with chosen data, and the real endpoints of alerts and log level."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

import tokenpulse_mw
from tokenpulse_mw.alerts import AlertEngine, AlertEvent, Finding, Thresholds, Traffic
from tokenpulse_mw.alerts.admin import alert_routes
from tokenpulse_mw.logs.routes import settings_routes
from tokenpulse_mw.web.auth import bearer
from tokenpulse_mw.web.problems import ProblemError, problem_response

from ...support.servers import free_port
from ...support.waiting import PATIENCE, wait_until
from .scenes import Scene, empty

STATIC = Path(tokenpulse_mw.__file__).parent / "dashboard" / "static"
TOKEN = "s3cret"
# The headers that the specification of the page requires.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}


class ChosenRule:
    """Rule that returns `findings` in every evaluation; with changed thresholds `others`, if any.

    Attributes:
        findings: The findings.
        others: Findings with other thresholds than the defaults; an exception is raised.
    """

    name = "chosen"

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.others: list[Finding] | Exception | None = None

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        if thresholds == Thresholds() or self.others is None:
            return self.findings
        if isinstance(self.others, Exception):
            raise self.others
        return self.others


async def accept(event: AlertEvent) -> None:
    """Accept every event."""


class Gateway:
    """Server of the page on loopback; a test changes the data and the failures.

    Attributes:
        scene: The data.
        token: The valid token; empty: every request is authorized.
        failing: Status, and `Retry-After` if any, by the beginning of a path below the admin path.
        log: Method and path of each request, with the query.
        changes: Method, path and body of each change of a limit.
        engine: The alert engine, which is real.
    """

    def __init__(self, root_path: str = "") -> None:
        self.root_path = root_path
        self.token = TOKEN
        self.failing: dict[str, tuple[int, str]] = {}
        self.log: list[str] = []
        self.changes: list[tuple[str, str, Any]] = []
        self.scene = empty(time.time())
        self.version = 0
        self.rule = ChosenRule()
        self.engine = self._engine()
        self.port = free_port()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Return the URL of the page."""
        return f"http://127.0.0.1:{self.port}{self.root_path}/admin/"

    def start(self) -> None:
        """Start the server, on the port that it had before."""
        config = uvicorn.Config(
            self._app(),
            host="127.0.0.1",
            port=self.port,
            log_config=None,
            access_log=False,
            ws="none",
            timeout_graceful_shutdown=1,
        )
        server = self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: server.started, "the server does not start")

    def stop(self) -> None:
        """Stop the server; requests that last longer than a second are aborted."""
        assert self._server is not None
        assert self._thread is not None
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def restart(self) -> None:
        """Stop the server, lose what it has in memory, and start it again as another process."""
        self.stop()
        self.engine = self._engine()
        self.scene.state["instance"] = {**self.scene.state["instance"], "id": "9b01", "pid": 990}
        self.changed()
        self.start()

    def show(self, scene: Callable[[float], Scene]) -> None:
        """Use the data of `scene` from now on, and fire its alerts."""
        self.scene = scene(time.time())
        self.changed()
        self.rule.findings = self.scene.findings
        self.evaluate()

    def changed(self) -> None:
        """Change the ETag of the state."""
        self.version += 1

    def evaluate(self) -> None:
        """Evaluate the rules."""
        self.run(self.engine.evaluate())

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in the event loop of the server, and return its result."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    def paths(self) -> list[str]:
        """Return and clear the log."""
        log, self.log = self.log, []
        return log

    def _engine(self) -> AlertEngine:
        return AlertEngine([self.rule], [accept])

    def _authorize(self, request: Request) -> bool | str:
        below = request.url.path.removeprefix(f"{self.root_path}/admin/")
        query = f"?{request.url.query}" if request.url.query else ""
        self.log.append(f"{request.method} {below}{query}")
        for start, (status, retry_after) in self.failing.items():
            if below.startswith(start):
                headers = {"retry-after": retry_after} if retry_after else {}
                raise ProblemError(status, "This part failed.", headers=headers)
        return not self.token or bearer(self.token)(request)

    def _app(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            self._loop = asyncio.get_running_loop()
            yield

        def data(path: str, handle: Callable[[Request], Any], *methods: str) -> Route:
            async def respond(request: Request) -> Response:
                try:
                    if not self._authorize(request):
                        raise ProblemError(401, "Authentication required.")
                except ProblemError as problem:
                    return problem_response(problem)
                if request.method not in ("GET", "HEAD"):
                    body = await request.json() if await request.body() else None
                    below = request.url.path.removeprefix(f"{self.root_path}/admin/")
                    self.changes.append((request.method, below, body))
                    return Response(status_code=204)
                etag = f'"{self.version}"'
                headers = {"cache-control": "no-store", "etag": etag}
                if request.headers.get("if-none-match") == etag:
                    return Response(status_code=304, headers=headers)
                return JSONResponse(handle(request), headers=headers)

            return Route(f"/admin/{path}", respond, methods=list(methods) or ["GET"])

        def static(path: str, file: str) -> Route:
            async def respond(request: Request) -> Response:
                content = (STATIC / file).read_bytes()
                return Response(content, media_type=TYPES[Path(file).suffix], headers=HEADERS)

            return Route(f"/admin/{path}", respond)

        async def authorize(request: Request) -> bool | str:
            try:
                return self._authorize(request)
            except ProblemError as problem:
                raise HTTPException(problem.status, problem.detail, problem.headers) from None

        routes: list[BaseRoute] = [
            static("", "index.html"),
            *(static(file.name, file.name) for file in STATIC.iterdir()),
            data("live/state", lambda request: self.scene.state),
            data(
                "live/series",
                lambda request: self.scene.series(
                    request.query_params["by"], int(request.query_params["range"])
                ),
            ),
            data("live/routes", lambda request: {"routes": self.scene.routes, "others": 0}),
            data(
                "live/inflight",
                lambda request: {
                    "count": len(self.scene.inflight),
                    "requests": self.scene.inflight,
                },
            ),
            data("live/tenants", self._tenants),
            data("limits", lambda request: {"limits": self.scene.limits}),
            data(
                "limits/rejections",
                lambda request: {"rejections": self.scene.rejections, "local": True},
            ),
            data("limits/actions", lambda request: {"actions": []}),
            data("limits/{policy}/keys", self._keys),
            data("limits/{policy}/keys/{key}/reset", lambda request: None, "POST"),
            data("limits/{policy}/keys/{key}/block", lambda request: None, "PUT", "DELETE"),
            *alert_routes(self.engine, authorize=authorize),
            *settings_routes(authorize=authorize),
        ]
        if self.root_path:
            routes = [Mount(self.root_path, routes=routes)]
        return Starlette(routes=routes, lifespan=lifespan)

    def _tenants(self, request: Request) -> Any:
        query = request.query_params
        found = [row for row in self.scene.tenants if query.get("q", "") in row["name"]]
        start = int(query.get("cursor", 0))
        end = start + int(query["limit"])
        following = str(end) if end < len(found) else None
        return {"date": "2027-01-15", "tenants": found[start:end], "next": following}

    def _keys(self, request: Request) -> Any:
        query = request.query_params
        keys = [
            row
            for row in self.scene.keys.get(request.path_params["policy"], [])
            if query.get("q", "") in row["label"]
            and row["used"] >= float(query["near"]) * row["limit"]
        ]
        return {"keys": keys, "next": None, "local": True}

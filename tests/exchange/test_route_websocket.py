"""Route templates of WebSocket handshakes, which never match HTTP routes."""

from __future__ import annotations

from contextlib import suppress

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from tokenpulse_mw.exchange import RouteTemplates

from ..support.apps import answering
from ..support.asgi import http_scope
from .routes import CopyScope, page, websocket_scope


async def live(websocket: WebSocket) -> None:
    """Accept, and close at once."""
    await websocket.accept()
    await websocket.close()


async def refuses(websocket: WebSocket) -> None:
    """Close without accepting."""
    await websocket.close()


async def fails(websocket: WebSocket) -> None:
    """Raise before accepting."""
    raise RuntimeError("no upstream")


class Live(WebSocketEndpoint):
    """An endpoint class."""


class ClosingMiddleware:
    """A middleware that closes every handshake before the router."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})


class TemplateRecorder:
    """A middleware that records the template of each request at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.templates = app, RouteTemplates(app)
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.seen.append(self.templates(scope))


def templates_of(app: ASGIApp, *paths: str, host: str = "testserver") -> list[str]:
    """Return the template of a handshake for each of `paths`."""
    recorder = TemplateRecorder(app)
    client = TestClient(recorder)
    for path in paths:
        with (
            suppress(WebSocketDisconnect, RuntimeError),
            client.websocket_connect(path, headers={"host": host}),
        ):
            pass
    return recorder.seen


def routes() -> list[BaseRoute]:
    """Return HTTP and WebSocket routes, some of which have the same path."""
    return [
        Route("/page/{id}", page),
        WebSocketRoute("/live/{room}", live),
        WebSocketRoute("/refuses/{room}", refuses),
        WebSocketRoute("/fails/{room}", fails),
        WebSocketRoute("/class/{room:int}", Live),
        Mount("/t/{tenant}", routes=[WebSocketRoute("/live/{room}", live), Route("/{p}", page)]),
        Mount("/llm", answering()),
        Host("a.example.org", Router([WebSocketRoute("/hosted/{room}", live)])),
        Route("/both/{page}", page),
        WebSocketRoute("/both/{socket}", live),
    ]


PATHS = {
    "/live/1": "/live/{room}",
    "/refuses/1": "/refuses/{room}",
    "/fails/1": "/fails/{room}",
    "/class/1": "/class/{room}",
    "/t/acme/live/1": "/t/{tenant}/live/{room}",
    "/t/acme/page": "/t/{tenant}/{path}",
    "/page/1": "__unmatched__",
    "/both/1": "/both/{socket}",
    "/nowhere": "__unmatched__",
}


@pytest.mark.parametrize(
    "middleware",
    [[], [Middleware(CopyScope)], [Middleware(ClosingMiddleware)]],
    ids=["none", "copy", "403"],
)
def test_handshake_has_the_template_of_its_websocket_route(middleware: list[Middleware]) -> None:
    """A handshake has the template of the WebSocket route that handled it, or would have."""
    app = Starlette(routes=routes(), middleware=middleware)

    assert templates_of(app, *PATHS) == list(PATHS.values())


def test_handshake_is_matched_by_host() -> None:
    """A handshake to a host matches the WebSocket routes of that host only."""
    paths = ["/hosted/1", "/both/1"]

    assert templates_of(Starlette(routes=routes()), *paths, host="a.example.org") == [
        "/hosted/{room}",
        "/{path}",
    ]


def test_handshake_to_an_opaque_application_has_its_mount() -> None:
    """An application without routes may handle HTTP and WebSocket."""
    templates = RouteTemplates(Starlette(routes=routes()))

    assert templates(websocket_scope("/llm/realtime")) == "/llm/{path}"
    assert RouteTemplates(answering())(websocket_scope("/x")) == "/{path}"


@pytest.mark.parametrize("middleware", [[], [Middleware(ClosingMiddleware)]], ids=["none", "403"])
def test_handshake_of_an_included_router_has_all_prefixes(middleware: list[Middleware]) -> None:
    """WebSocket routes of nested FastAPI routers have all of their prefixes."""
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    @inner.websocket("/live/{room}")
    async def room(websocket: WebSocket, room: str) -> None:
        await live(websocket)

    @inner.get("/live/{page}")
    async def html(page: str) -> str:
        return page

    inner.routes.append(WebSocketRoute("/plain/{room}", live))
    outer.include_router(inner)
    app = FastAPI(middleware=middleware)
    app.websocket("/direct/{room}")(live)
    app.include_router(outer, prefix="/v1")
    app.include_router(inner)

    assert templates_of(
        app,
        "/direct/1",
        "/v1/outer/inner/live/1",
        "/inner/live/1",
        "/v1/outer/plain/1",
        "/docs",
    ) == [
        "/direct/{room}",
        "/v1/outer/inner/live/{room}",
        "/inner/live/{room}",
        "/v1/outer/plain/{room}",
        "__unmatched__",
    ]


def test_http_request_never_matches_a_websocket_route() -> None:
    """An HTTP request matches the HTTP route, with and without a router."""
    app = Starlette(routes=[WebSocketRoute("/{socket}", live), Route("/{page}", page)])
    recorder = TemplateRecorder(app)
    TestClient(recorder).get("/x")

    assert recorder.seen == ["/{page}"]
    assert RouteTemplates(app)(http_scope("/x")) == "/{page}"
    only = RouteTemplates(Starlette(routes=[WebSocketRoute("/{socket}", live)]))
    assert only(http_scope("/x")) == "__unmatched__"


def test_endpoint_shared_by_http_and_websocket_is_matched_by_scope_type() -> None:
    """The type of the scope decides between the routes of a shared endpoint."""

    class Both:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            else:
                await answering()(scope, receive, send)

    both = Both()
    app = Starlette(routes=[Route("/a/{page}", both), WebSocketRoute("/a/{socket}", both)])
    recorder = TemplateRecorder(app)
    client = TestClient(recorder)

    client.get("/a/1")
    with suppress(WebSocketDisconnect), client.websocket_connect("/a/1"):
        pass
    client.get("/a/1")

    assert recorder.seen == ["/a/{page}", "/a/{socket}", "/a/{page}"]


def test_custom_route_matches_http_and_websocket() -> None:
    """A route that is neither a Route nor a WebSocketRoute is matched by its path alone."""

    class CustomRoute(BaseRoute):
        path, endpoint = "/own/{id}", staticmethod(live)

    templates = RouteTemplates(Starlette(routes=[CustomRoute()]))

    assert templates(http_scope("/own/1")) == "/own/{id}"
    assert templates(websocket_scope("/own/1")) == "/own/{id}"

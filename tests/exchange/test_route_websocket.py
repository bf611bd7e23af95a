"""Route templates of WebSocket handshakes: never those of pages, nor the other way round."""

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
    """Accepts, and closes at once."""
    await websocket.accept()
    await websocket.close()


async def refuses(websocket: WebSocket) -> None:
    """Turns the handshake down."""
    await websocket.close()


async def fails(websocket: WebSocket) -> None:
    """Fails before it has accepted."""
    raise RuntimeError("no upstream")


class Live(WebSocketEndpoint):
    """An endpoint that is a class."""


class Answers:
    """A middleware that turns every handshake down before the router sees it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.close"})


class Told:
    """Notes what the templates tell when the application is done with a request."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.templates = app, RouteTemplates(app)
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            self.seen.append(self.templates(scope))


def told(app: ASGIApp, *paths: str, host: str = "testserver") -> list[str]:
    """The template of a handshake for each of `paths`."""
    around = Told(app)
    client = TestClient(around)
    for path in paths:
        with (
            suppress(WebSocketDisconnect, RuntimeError),
            client.websocket_connect(path, headers={"host": host}),
        ):
            pass
    return around.seen


def routes() -> list[BaseRoute]:
    """Pages and WebSockets, on the same paths and on others."""
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
    "between", [[], [Middleware(CopyScope)], [Middleware(Answers)]], ids=["none", "copy", "403"]
)
def test_handshakes(between: list[Middleware]) -> None:
    """The template of the WebSocket's route that answered, or would have."""
    app = Starlette(routes=routes(), middleware=between)

    assert told(app, *PATHS) == list(PATHS.values())


def test_handshakes_of_a_host() -> None:
    """Found by the host's name; the page beside it is none of theirs."""
    paths = ["/hosted/1", "/both/1"]

    assert told(Starlette(routes=routes()), *paths, host="a.example.org") == [
        "/hosted/{room}",
        "/{path}",
    ]


def test_an_opaque_application_answers_handshakes_too() -> None:
    """What is mounted may speak either."""
    templates = RouteTemplates(Starlette(routes=routes()))

    assert templates(websocket_scope("/llm/realtime")) == "/llm/{path}"
    assert RouteTemplates(answering())(websocket_scope("/x")) == "/{path}"


@pytest.mark.parametrize("between", [[], [Middleware(Answers)]], ids=["none", "403"])
def test_handshakes_of_fastapi(between: list[Middleware]) -> None:
    """Also of included routers, with all of their prefixes."""
    inner, outer = APIRouter(prefix="/inner"), APIRouter(prefix="/outer")

    @inner.websocket("/live/{room}")
    async def room(websocket: WebSocket, room: str) -> None:
        await live(websocket)

    @inner.get("/live/{page}")
    async def html(page: str) -> str:
        return page

    inner.routes.append(WebSocketRoute("/plain/{room}", live))
    outer.include_router(inner)
    app = FastAPI(middleware=between)
    app.websocket("/direct/{room}")(live)
    app.include_router(outer, prefix="/v1")
    app.include_router(inner)

    assert told(
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


def test_a_page_never_has_the_template_of_a_websocket() -> None:
    """Whether a router answers the request or another before it."""
    app = Starlette(routes=[WebSocketRoute("/{socket}", live), Route("/{page}", page)])
    around = Told(app)
    TestClient(around).get("/x")

    assert around.seen == ["/{page}"]
    assert RouteTemplates(app)(http_scope("/x")) == "/{page}"
    only = RouteTemplates(Starlette(routes=[WebSocketRoute("/{socket}", live)]))
    assert only(http_scope("/x")) == "__unmatched__"


def test_an_endpoint_that_pages_and_websockets_share() -> None:
    """An ASGI application that answers both is told by the kind of the request."""

    class Both:
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            else:
                await answering()(scope, receive, send)

    both = Both()
    app = Starlette(routes=[Route("/a/{page}", both), WebSocketRoute("/a/{socket}", both)])
    around = Told(app)
    client = TestClient(around)

    client.get("/a/1")
    with suppress(WebSocketDisconnect), client.websocket_connect("/a/1"):
        pass
    client.get("/a/1")

    assert around.seen == ["/a/{page}", "/a/{socket}", "/a/{page}"]


def test_a_route_of_somebodys_making_may_take_either() -> None:
    """What is neither a page's route nor a WebSocket's is found by its path for both."""

    class Own(BaseRoute):
        path, endpoint = "/own/{id}", staticmethod(live)

    templates = RouteTemplates(Starlette(routes=[Own()]))

    assert templates(http_scope("/own/1")) == "/own/{id}"
    assert templates(websocket_scope("/own/1")) == "/own/{id}"

"""Keys by route."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import ExchangeMiddleware, keys

from ...support.apps import KeyRecorder, answering
from ...support.asgi import drive, http_scope


def item(request: Request) -> PlainTextResponse:
    """Return a response."""
    return PlainTextResponse("item")


ITEMS = [Route("/items/{id}", item, methods=["GET", "POST"])]


def recording(seen: list[object], *routes: Any) -> Starlette:
    """Return an application with `routes` that records the key of each request in `seen`."""
    return Starlette(
        routes=routes, middleware=[Middleware(KeyRecorder, key=keys.route(), seen=seen)]
    )


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/items/1", "GET /items/{id}"),
        ("GET", "/items/2", "GET /items/{id}"),
        ("POST", "/items/1", "POST /items/{id}"),
        ("BREW", "/items/1", "_OTHER /items/{id}"),
        ("GET", "/sub/items/1", "GET /sub/items/{id}"),
        ("GET", "/opaque/any/thing", "GET /opaque/{path}"),
        ("GET", "/nothing", "GET __unmatched__"),
    ],
)
@pytest.mark.anyio
async def test_paths_of_one_route_have_the_same_key(method: str, path: str, key: str) -> None:
    """This holds with an exchange outside or inside the application, and without one."""
    seen: list[object] = []
    routes = [*ITEMS, Mount("/sub", routes=ITEMS), Mount("/opaque", answering())]
    app = recording(seen, *routes)
    outside = KeyRecorder(Starlette(routes=routes), key=keys.route(), seen=seen)
    inside = Starlette(
        routes=routes,
        middleware=[
            Middleware(ExchangeMiddleware),
            Middleware(KeyRecorder, key=keys.route(), seen=seen),
        ],
    )

    for variant in (app, ExchangeMiddleware(app), ExchangeMiddleware(outside), inside):
        await drive(variant, http_scope(path, method=method))
        await drive(variant, http_scope("/api" + path, method=method, root_path="/api"))

    assert seen == [key] * 8


@pytest.mark.anyio
async def test_key_of_a_mounted_application_has_the_mount_prefix() -> None:
    """This holds with an exchange outside and inside the mounted application."""
    seen: list[object] = []
    recorder = Middleware(KeyRecorder, key=keys.route(), seen=seen)
    one = Starlette(routes=ITEMS, middleware=[recorder])
    two = Starlette(routes=ITEMS, middleware=[Middleware(ExchangeMiddleware), recorder])
    opaque = KeyRecorder(answering(), key=keys.route(), seen=seen)
    app = Starlette(routes=[Mount("/one", one), Mount("/two/{tenant}", two), Mount("/llm", opaque)])

    for path in ("/one/items/1", "/two/acme/items/1", "/llm/items/1"):
        await drive(app, http_scope(path))
        await drive(ExchangeMiddleware(app), http_scope(path))

    expected = ["GET /one/items/{id}", "GET /two/{tenant}/items/{id}", "GET /llm/{path}"]
    assert seen == [key for key in expected for _ in range(2)]


@pytest.mark.anyio
async def test_routes_hidden_from_the_exchange_are_read_from_the_application() -> None:
    """A middleware between the exchange and the application may hide the routes."""
    seen: list[object] = []
    inner = recording(seen, *ITEMS)

    async def hiding(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    await drive(ExchangeMiddleware(hiding), http_scope("/items/1"))

    assert seen == ["GET /items/{id}"]


def test_without_routes_all_paths_have_the_same_key() -> None:
    """This holds if the application has no routes, and if it is unknown."""
    key = keys.route()

    assert key(http_scope("/items/1")) == key(http_scope("/x", app=answering())) == "GET /{path}"
    assert keys.combine(keys.client_address(), key)(http_scope()) == (
        bytes([192, 0, 2, 1]),
        "GET /{path}",
    )


@pytest.mark.anyio
async def test_websocket_has_the_template_of_its_websocket_route() -> None:
    """The method of the key is WEBSOCKET, and HTTP routes do not match."""
    seen: list[object] = []

    async def chat(websocket: WebSocket) -> None:
        """Do nothing: it is never called."""

    for path in ("/chat/1", "/chat/2", "/items/1"):
        scope: Scope = {
            "type": "websocket",
            "path": path,
            "headers": [],
            "client": ("192.0.2.1", 1),
        }
        await drive(recording(seen, *ITEMS, WebSocketRoute("/chat/{room}", chat)), scope)

    assert seen == ["WEBSOCKET /chat/{room}"] * 2 + ["WEBSOCKET __unmatched__"]


@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"type": "lifespan"},
        {"type": "http", "method": None, "path": None},
        {"type": "http", "method": [], "path": "/", "app": Starlette(routes=ITEMS)},
        {"type": "http", "method": "GET", "path": 7, "app": Starlette(routes=ITEMS)},
        {"type": "http", "method": "GET", "path": "/", "app": type("Odd", (), {"routes": 7})()},
    ],
)
def test_malformed_scope_has_a_shared_key(scope: Scope, caplog: pytest.LogCaptureFixture) -> None:
    """A route that cannot be determined is logged at most once, and raises no error."""
    key = keys.route()

    for _ in range(3):
        assert str(key(scope)).split()[1] in ("/{path}", "__unmatched__")
    assert len(caplog.records) <= 1


def test_routes_of_many_applications_are_read_and_released() -> None:
    """The cache of routers is bounded, and a discarded application is freed."""
    key = keys.route()
    apps = [Starlette(routes=[Route(f"/{number}/{{id}}", item)]) for number in range(20)]
    first = weakref.ref(apps[0])

    for _ in range(2):
        values = [key(http_scope(f"/{number}/x", app=app)) for number, app in enumerate(apps)]
        assert values == [f"GET /{number}/{{id}}" for number in range(20)]
    apps[:3] = []
    for app in apps:
        key(http_scope(app=app))
    del app
    gc.collect()
    assert first() is None


def test_head_shares_the_key_of_get() -> None:
    """A separate key for HEAD would double the limit of a route."""
    assert keys.route()(http_scope("/a", method="HEAD")) == keys.route()(http_scope("/b"))

"""Route templates: what answered, as a label, in every way that routes can be nested."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.apps import answering
from tests.support.asgi import http_scope
from tokenpulse_mw import Exchange, ExchangeMiddleware, RateLimitMiddleware
from tokenpulse_mw.exchange.route import RouteTemplates


async def page(request: Request) -> Response:
    """An endpoint."""
    return PlainTextResponse("here")


async def other(request: Request) -> Response:
    """Another endpoint."""
    return PlainTextResponse("there")


class Page(HTTPEndpoint):
    """An endpoint with a method for each method."""

    async def get(self, request: Request) -> Response:
        """Answer GET."""
        return PlainTextResponse("here")


def labels(app: Any, *requests: str, **options: Any) -> list[str]:
    """The route label of each "METHOD path" asked of `app`."""
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False, **options)
    for request in requests:
        method, path = request.split()
        client.request(method, path)
    return [exchange.route for exchange in seen]


def test_plain_routes() -> None:
    """A path's template, its parameters without convertors; 405 and 404 have theirs too."""

    async def crash(request: Request) -> Response:
        raise RuntimeError

    app = Starlette(
        routes=[
            Route("/users/{id:int}", page),
            Route("/files/{path:path}", page),
            Route("/page", Page),
            Route("/crash", crash),
        ]
    )

    assert labels(
        app,
        "GET /users/7",
        "GET /files/a/b.txt",
        "GET /page",
        "GET /crash",
        "POST /users/7",
        "GET /nowhere",
        "GET /users/7/",
    ) == [
        "/users/{id}",
        "/files/{path}",
        "/page",
        "/crash",
        "/users/{id}",
        "__unmatched__",
        "__unmatched__",
    ]


def test_mounts() -> None:
    """Mount prefixes belong to the template, those with parameters as parameters."""
    inner = Starlette(routes=[Route("/chat/{model}", page), Route("/", page)])
    app = Starlette(
        routes=[
            Mount("/v1", inner),
            Mount("/t/{tenant}", routes=[Mount("/deep", routes=[Route("/{id}", other)])]),
            Mount("/llm", answering()),
        ]
    )

    assert labels(
        app,
        "GET /v1/chat/opus",
        "GET /v1/",
        "GET /v1/nowhere",
        "GET /t/acme/deep/3",
        "GET /t/acme/nowhere",
        "GET /llm/v1/messages",
        "GET /llm/",
    ) == [
        "/v1/chat/{model}",
        "/v1/",
        "/v1/{path}",
        "/t/{tenant}/deep/{id}",
        "/t/{tenant}/{path}",
        "/llm/{path}",
        "/llm/{path}",
    ]


def test_hosts() -> None:
    """A host leaves no trace in the template."""
    app = Starlette(
        routes=[
            Host("{tenant}.example.org", Router([Route("/chat/{id}", page)])),
            Host("raw.example.com", answering()),
        ]
    )

    assert labels(app, "GET /chat/1", base_url="http://acme.example.org") == ["/chat/{id}"]
    app = Starlette(routes=[Host("raw.example.com", answering())])
    assert labels(app, "GET /x", base_url="http://raw.example.com") == ["/{path}"]


def test_one_endpoint_under_several_paths() -> None:
    """Where an endpoint does not tell, the path does."""
    app = Starlette(
        routes=[
            Route("/a/{id}", page, methods=["POST"]),
            Route("/a/{name}", page),
            Mount("/b/{x}", routes=[Route("/{id}", page)]),
        ]
    )

    assert labels(app, "GET /a/1", "POST /a/1", "GET /b/2/3", "PUT /a/1") == [
        "/a/{name}",
        "/a/{id}",
        "/b/{x}/{id}",
        "/a/{id}",
    ]


def test_fastapi_routers() -> None:
    """Include prefixes belong to the template, also nested, and of a router included twice."""
    deep = APIRouter(prefix="/deep")
    shared = APIRouter()

    @deep.get("/{id}")
    async def nested(id: int) -> int:
        return id

    @shared.get("/models/{name}")
    async def models(name: str) -> str:
        return name

    outer = APIRouter(prefix="/outer")
    outer.include_router(deep)
    shared.add_route("/plain/{x}", page)
    app = FastAPI()
    app.include_router(outer, prefix="/api")
    app.include_router(shared, prefix="/v1")
    app.include_router(shared, prefix="/v2/{region}")

    assert labels(
        app,
        "GET /api/outer/deep/3",
        "GET /api/outer/deep/word",
        "POST /api/outer/deep/3",
        "GET /v1/models/a",
        "GET /v2/eu/models/b",
        "GET /v1/plain/1",
        "GET /docs",
        "GET /openapi.json",
        "GET /nowhere",
    ) == [
        "/api/outer/deep/{id}",
        "/api/outer/deep/{id}",
        "/api/outer/deep/{id}",
        "/v1/models/{name}",
        "/v2/{region}/models/{name}",
        "/v1/plain/{x}",
        "/docs",
        "/openapi.json",
        "__unmatched__",
    ]


def test_applications_mounted_in_fastapi() -> None:
    """Sub-applications of either kind, and vendors' opaque ones, also with a root path."""
    sub = FastAPI()

    @sub.get("/items/{id}")
    async def item(id: int) -> int:
        return id

    app = FastAPI()
    app.mount("/sub/{tenant}", sub)
    app.mount("/star", Starlette(routes=[Route("/x/{y}", page)]))
    app.mount("/llm", answering())

    assert labels(
        app,
        "GET /proxy/sub/acme/items/1",
        "GET /proxy/star/x/1",
        "GET /proxy/llm/v1",
        "GET /proxy/sub/a/b",
        root_path="/proxy",
    ) == [
        "/sub/{tenant}/items/{id}",
        "/star/x/{y}",
        "/llm/{path}",
        "/sub/{tenant}/{path}",
    ]


class CopiesScope:
    """A middleware that hands a copy of the scope on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(dict(scope), receive, send)


async def passes(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    """A function middleware that changes nothing."""
    return await call(request)


@pytest.mark.parametrize(
    "between",
    [
        Middleware(CopiesScope),
        Middleware(GZipMiddleware),
        Middleware(BaseHTTPMiddleware, dispatch=passes),
    ],
    ids=["copies the scope", "gzip", "base http"],
)
def test_middlewares_in_between(between: Middleware) -> None:
    """What stands between us and the router does not hide the route."""
    app = Starlette(routes=[Route("/users/{id}", page)], middleware=[between])

    assert labels(app, "GET /users/1") == ["/users/{id}"]


def test_requests_answered_before_the_router() -> None:
    """A 429 gets the template of the route it would have reached, under its own root path."""
    app = Starlette(
        routes=[
            Route("/users/{id:int}", page),
            Route("/users/{id:int}", other, methods=["POST"]),
            Mount("/llm", answering()),
        ]
    )
    app.add_middleware(RateLimitMiddleware, limit="1/day", headers=None)

    assert labels(
        app,
        "GET /api/users/1",
        "GET /api/users/2",
        "PATCH /api/users/2",
        "GET /api/llm/v1",
        "GET /api/users/none",
        "GET /api/" + "x" * 600,
        root_path="/api",
    ) == [
        "/users/{id}",
        "/users/{id}",
        "/users/{id}",
        "/llm/{path}",
        "__unmatched__",
        "__unmatched__",
    ]


def test_convertors_with_groups_of_their_own() -> None:
    """A convertor's pattern may hold groups, which do not shift the routes after it."""
    app = Starlette(routes=[Route("/a/{x:float}", page), Route("/b", page), Route("/c", page)])
    app.add_middleware(RateLimitMiddleware, limit="1/day", headers=None)

    assert labels(app, "GET /a/1.5", "GET /a/1.5", "GET /b", "GET /c") == [
        "/a/{x}",
        "/a/{x}",
        "/b",
        "/c",
    ]


def test_a_websockets_route_is_no_route_of_a_request() -> None:
    """What answers a WebSocket does not label the 429 of a page on the same path."""
    app = Starlette(routes=[WebSocketRoute("/{socket}", answering()), Route("/{page}", page)])
    app.add_middleware(RateLimitMiddleware, limit="1/day", headers=None)

    assert labels(app, "GET /x", "GET /x") == ["/{page}", "/{page}"]


def test_routes_that_are_added_later() -> None:
    """A route that came after the first request is found as well."""
    seen: list[Exchange] = []
    app = Starlette(routes=[Route("/first", page)])
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app)

    client.get("/first")
    app.router.routes.append(Route("/second/{id}", other))
    client.get("/second/2")

    assert [exchange.route for exchange in seen] == ["/first", "/second/{id}"]


def test_an_application_without_routes() -> None:
    """It answers every path itself, like a vendor's that is mounted at the root."""
    assert RouteTemplates(answering())(http_scope("/v1/messages")) == "/{path}"


def test_middlewares_that_hold_each_other_have_no_router() -> None:
    """A chain that never ends is given up."""

    class Ring:
        app: object

    ring = Ring()
    ring.app = ring

    assert RouteTemplates(ring)(http_scope()) == "/{path}"


def test_an_endpoint_that_no_route_has() -> None:
    """Routes of other people's making can choose endpoints we cannot know; they cost nothing."""

    class Own(BaseRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            return Match.FULL, {"endpoint": object()}

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await answering()(scope, receive, send)

    assert labels(Starlette(routes=[Own()]), *["GET /x"] * 70) == ["__unmatched__"] * 70


def test_routes_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """A request goes on although its route cannot be told; the log says so once."""

    class Odd(Route):
        def __init__(self) -> None:
            super().__init__("/odd", page)
            self.path = 7  # type: ignore[assignment]

    assert labels(Starlette(routes=[Odd()]), "GET /odd", "GET /odd") == ["__unmatched__"] * 2
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "route failed with AttributeError"
    ]


def test_routers_behind_one_middleware_are_bounded() -> None:
    """Endless new routers, each seen once, are not all kept."""
    templates = RouteTemplates(answering())
    routers = [Router([Route("/x", page)]) for _ in range(20)]

    told = [templates({**http_scope("/x"), "router": r, "endpoint": page}) for r in routers]

    assert told == ["/x"] * 16 + ["__unmatched__"] * 4


@pytest.mark.anyio
async def test_other_servers_root_paths() -> None:
    """The prefix that a proxy strips is not part of the template, wherever it is written."""
    templates = RouteTemplates(Starlette(routes=[Route("/x/{y}", page)]))

    assert templates(http_scope("/api/x/1", root_path="/api")) == "/x/{y}"
    assert templates(http_scope("/x/1", root_path="/api")) == "/x/{y}"

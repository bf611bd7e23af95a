"""Route templates: what answered, as a label, in every way that routes can be nested."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Policy, RateLimitMiddleware
from tokenpulse_mw.exchange import RouteTemplates, has_route

from ..support.apps import answering
from ..support.asgi import http_scope
from .routes import CopyScope, every_middleware, labels_of, other, page


class Page(HTTPEndpoint):
    """An endpoint with a method for each method."""

    async def get(self, request: Request) -> Response:
        """Answer GET."""
        return PlainTextResponse("here")


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

    assert labels_of(
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

    assert labels_of(
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

    def app() -> Starlette:
        return Starlette(
            routes=[
                Host("{tenant}.example.org", Router([Route("/chat/{id}", page)])),
                Host("raw.example.com:80", answering()),
                Route("/{rest:path}", page),
            ]
        )

    requests = ["GET /chat/1", "GET /nowhere"]
    assert labels_of(app(), *requests, base_url="http://acme.example.org") == [
        "/chat/{id}",
        "/{path}",
    ]
    assert labels_of(app(), *requests, base_url="http://raw.example.com:80") == ["/{path}"] * 2
    assert labels_of(app(), *requests) == ["/{rest}"] * 2


@pytest.mark.parametrize(
    ("host", "template"),
    [
        (b"acme.example.org", "/chat/{id}"),
        (b"ACME.Example.org:8080", "/chat/{id}"),
        (b"[2001:db8::1]", "/v6/{id}"),
        (b"example.org", "/{rest}"),
        (b"", "/{rest}"),
        (b"\xff", "/{rest}"),
    ],
)
def test_a_request_answered_before_the_router_has_a_host(host: bytes, template: str) -> None:
    """It would have reached the routes of that host, and of no other."""
    templates = RouteTemplates(
        Starlette(
            routes=[
                Host("{tenant}.example.org", Router([Route("/chat/{id}", page)])),
                Host("[2001:db8::1]", Router([Route("/v6/{id}", page), Route("/chat/{id}", page)])),
                Route("/{rest:path}", page),
            ]
        )
    )
    path = "/v6/1" if host.startswith(b"[") else "/chat/1"

    assert templates(http_scope(path, headers=[(b"accept", b"*/*"), (b"host", host)])) == template


def test_a_scope_without_headers_may_be_for_any_host() -> None:
    """Who asks for a limit's key knows of none."""
    templates = RouteTemplates(
        Starlette(routes=[Host("a.example.org", Router([Route("/chat/{id}", page)]))])
    )

    assert templates({"method": "GET", "path": "/chat/1"}) == "/chat/{id}"


def test_mounted_applications_with_a_middleware_around_them() -> None:
    """Their routes are found all the same, whether the middleware lets a request pass or not."""
    inner = Starlette(routes=[Route("/chat/{model}", page)])
    app = Starlette(
        routes=[
            Mount("/v1", CORSMiddleware(inner, allow_origins=["*"])),
            Mount("/v2", CopyScope(inner)),
            Mount("/v3", RateLimitMiddleware(inner, policies=[Policy("1/day", cost=lambda s: 2)])),
        ]
    )

    assert labels_of(
        app, "GET /v1/chat/a", "GET /v1/no", "GET /v2/chat/a", "GET /v3/chat/a", "GET /v3/no"
    ) == [
        "/v1/chat/{model}",
        "/v1/{path}",
        "/v2/chat/{model}",
        "/v3/chat/{model}",
        "/v3/{path}",
    ]


def test_files(tmp_path: Path) -> None:
    """A directory is one route, whatever is in it or not."""
    (tmp_path / "a.txt").write_text("here")
    app = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))])

    assert (
        labels_of(app, "GET /static/a.txt", "GET /static/no", "POST /static/a.txt")
        == ["/static/{path}"] * 3
    )


def test_redirects_of_a_slash() -> None:
    """The router answers them itself: no route has."""
    app = Starlette(routes=[Route("/a/{id}", page), Mount("/m", routes=[Route("/b/", page)])])

    assert labels_of(app, "GET /a/1/", "GET /m", "GET /m/b") == [
        "__unmatched__",
        "__unmatched__",
        "/m/{path}",
    ]


def test_a_router_that_is_mounted_in_itself() -> None:
    """It has no end; where it comes back to itself it is one opaque mount."""
    app = Starlette(routes=[Route("/a/{id}", page)])
    app.mount("/again", app)

    assert labels_of(app, "GET /a/1", "GET /again/no", "GET /again/again/no") == [
        "/a/{id}",
        "/again/{path}",
        "/again/{path}",
    ]


def test_one_endpoint_under_several_paths() -> None:
    """Where an endpoint does not tell, the path does."""
    app = Starlette(
        routes=[
            Route("/a/{id}", page, methods=["POST"]),
            Route("/a/{name}", page),
            Mount("/b/{x}", routes=[Route("/{id}", page)]),
        ]
    )

    assert labels_of(app, "GET /a/1", "POST /a/1", "GET /b/2/3", "PUT /a/1") == [
        "/a/{name}",
        "/a/{id}",
        "/b/{x}/{id}",
        "/a/{id}",
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

    assert labels_of(
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


@every_middleware
def test_middlewares_in_between(middleware: Middleware) -> None:
    """What stands between us and the router does not hide the route."""
    app = Starlette(routes=[Route("/users/{id}", page)], middleware=[middleware])

    assert labels_of(app, "GET /users/1") == ["/users/{id}"]


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

    assert labels_of(
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


def test_a_request_answered_before_the_router_goes_where_a_router_sends_it() -> None:
    """To the first route of path and method, else of the path; it does not leave a mount again."""
    templates = RouteTemplates(
        Starlette(
            routes=[
                Route("/a/{x}", page, methods=["PUT"]),
                Route("/a/{y}", page, methods=["POST"]),
                Mount("/m", routes=[Route("/{x}", page, methods=["PUT"])]),
                Mount("/{any}", routes=[Route("/b/c", page)]),
                Route("/{rest:path}", page),
            ]
        )
    )
    asked = {
        "PUT /a/1": "/a/{x}",
        "POST /a/1": "/a/{y}",
        "GET /a/1": "/{any}/{path}",
        "GET /m/1": "/m/{x}",
        "GET /m/b/c": "/m/{path}",
        "GET /x/b/c": "/{any}/b/c",
        "GET /x/b/d": "/{any}/{path}",
        "GET /x": "/{rest}",
        "HEAD /x": "/{rest}",
        "DELETE /x": "/{rest}",
        "GET x": "__unmatched__",
    }

    told = [templates(http_scope(path, method=method)) for method, path in map(str.split, asked)]
    assert told == list(asked.values())


def test_convertors_with_groups_of_their_own() -> None:
    """A convertor's pattern may hold groups, which do not shift the routes after it."""
    app = Starlette(routes=[Route("/a/{x:float}", page), Route("/b", page), Route("/c", page)])
    app.add_middleware(RateLimitMiddleware, limit="1/day", headers=None)

    assert labels_of(app, "GET /a/1.5", "GET /a/1.5", "GET /b", "GET /c") == [
        "/a/{x}",
        "/a/{x}",
        "/b",
        "/c",
    ]


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

    assert labels_of(Starlette(routes=[Own()]), *["GET /x"] * 70) == ["__unmatched__"] * 70


def test_routes_that_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    """A request goes on although its route cannot be told; the log says so once."""

    class Odd(Route):
        def __init__(self) -> None:
            super().__init__("/odd", page)
            self.path = 7  # type: ignore[assignment]

    app = Starlette(routes=[Odd(), Route("/even", other)])

    assert labels_of(app, "GET /odd", "GET /odd", "GET /even") == ["__unmatched__"] * 2 + ["/even"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "route failed with AttributeError"
    ]


def test_a_router_that_cannot_be_read() -> None:
    """Whoever asks is told once; what it answers is unmatched."""

    class Closed:
        @property
        def routes(self) -> list[BaseRoute]:
            raise LookupError("not yet")

    closed = Closed()
    templates = RouteTemplates(answering())
    scope = {**http_scope("/x"), "router": closed, "endpoint": page}

    with pytest.raises(LookupError, match="not yet"):
        templates(scope)
    assert [templates(scope), templates(scope)] == ["__unmatched__"] * 2


def test_routers_behind_one_middleware_are_bounded() -> None:
    """Endless new routers, each seen once, are not all kept."""
    templates = RouteTemplates(answering())
    routers = [Router([Route("/x", page)]) for _ in range(259)]

    def told(router: Router) -> str:
        return templates({**http_scope("/x"), "router": router, "endpoint": page})

    assert [told(router) for router in routers[:256]] == ["/x"] * 256
    with pytest.raises(RuntimeError, match="more than 256 routers"):
        told(routers[256])
    assert [told(router) for router in routers[257:]] == ["__unmatched__"] * 2


@pytest.mark.anyio
async def test_other_servers_root_paths() -> None:
    """The prefix that a proxy strips is not part of the template, wherever it is written."""
    templates = RouteTemplates(Starlette(routes=[Route("/x/{y}", page)]))

    assert templates(http_scope("/api/x/1", root_path="/api")) == "/x/{y}"
    assert templates(http_scope("/x/1", root_path="/api")) == "/x/{y}"


@pytest.mark.parametrize(
    ("route", "is_served"),
    [
        (Route("/health", page), True),
        (Route("/health", page, methods=["POST"]), False),
        (Route("/{path:path}", page), False),
        (Route("/health/live", page), False),
        (WebSocketRoute("/health", answering()), False),
        (Mount("/health", answering()), True),
        (Mount("/health", routes=[Route("/", page)]), True),
        (Mount("/", answering()), False),
        (Mount("/", routes=[Route("/health", page)]), True),
        (Mount("/", CopyScope(Starlette(routes=[Route("/health", page)]))), True),
        (Mount("/", routes=[Host("a.example.org", answering())]), False),
        (Host("a.example.org", Router([Route("/health", page)])), False),
    ],
)
def test_whether_an_application_serves_a_path_itself(route: BaseRoute, is_served: bool) -> None:
    """By a page for just that path, or a mount there or above; what takes every path does not."""
    assert has_route([route], "/health") is is_served


def test_what_an_opaque_mount_may_serve() -> None:
    """Anything below it; a mounted application that can be seen serves what it has."""
    assert has_route([Mount("/api", answering())], "/api/status")
    assert not has_route([Mount("/api", routes=[Route("/other", page)])], "/api/status")
    assert not has_route([Mount("/api", answering())], "/apis")

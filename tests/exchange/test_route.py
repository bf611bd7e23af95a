"""Route templates for every way in which routes can be nested."""

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
    """An endpoint class."""

    async def get(self, request: Request) -> Response:
        """Respond to GET."""
        return PlainTextResponse("here")


def test_route_label_is_the_template_without_convertors() -> None:
    """The label of a 405 or an exception is the template too; without a route it is unmatched."""

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


def test_mount_prefix_is_part_of_the_template() -> None:
    """The prefixes of mounts are part of the template, with their parameters."""
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


def test_host_is_not_part_of_the_template() -> None:
    """The template of a route of a host is its path."""

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
def test_request_before_the_router_is_matched_by_host(host: bytes, template: str) -> None:
    """A request that no router processed is matched against the routes of its host."""
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


def test_scope_without_headers_matches_any_host() -> None:
    """A scope without headers, as for the key of a limit, is matched against every host."""
    templates = RouteTemplates(
        Starlette(routes=[Host("a.example.org", Router([Route("/chat/{id}", page)]))])
    )

    assert templates({"method": "GET", "path": "/chat/1"}) == "/chat/{id}"


def test_routes_of_a_mounted_application_are_found_through_middlewares() -> None:
    """The routes are found if the middleware passes a request and if it rejects it."""
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


def test_static_files_are_one_route(tmp_path: Path) -> None:
    """A directory of files has one label, for existing and missing files."""
    (tmp_path / "a.txt").write_text("here")
    app = Starlette(routes=[Mount("/static", StaticFiles(directory=tmp_path))])

    assert (
        labels_of(app, "GET /static/a.txt", "GET /static/no", "POST /static/a.txt")
        == ["/static/{path}"] * 3
    )


def test_redirect_to_another_slash_is_unmatched() -> None:
    """The router sends the redirect itself, so no route matches."""
    app = Starlette(routes=[Route("/a/{id}", page), Mount("/m", routes=[Route("/b/", page)])])

    assert labels_of(app, "GET /a/1/", "GET /m", "GET /m/b") == [
        "__unmatched__",
        "__unmatched__",
        "/m/{path}",
    ]


def test_router_mounted_in_itself_is_opaque() -> None:
    """The inner mount of a router that is mounted in itself has one label."""
    app = Starlette(routes=[Route("/a/{id}", page)])
    app.mount("/again", app)

    assert labels_of(app, "GET /a/1", "GET /again/no", "GET /again/again/no") == [
        "/a/{id}",
        "/again/{path}",
        "/again/{path}",
    ]


def test_endpoint_with_several_routes_is_matched_by_path() -> None:
    """The path and the method decide between several routes of one endpoint."""
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


def test_applications_mounted_in_fastapi_have_full_templates() -> None:
    """Applications with and without routes have full templates, also with a root path."""
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
def test_route_is_found_behind_middlewares(middleware: Middleware) -> None:
    """A middleware between ExchangeMiddleware and the router does not hide the route."""
    app = Starlette(routes=[Route("/users/{id}", page)], middleware=[middleware])

    assert labels_of(app, "GET /users/1") == ["/users/{id}"]


def test_rejected_request_has_the_template_it_would_have_reached() -> None:
    """A 429 has the template of the route it would have reached, without the root path."""
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


def test_request_before_the_router_is_matched_in_router_order() -> None:
    """The first route of path and method matches, else the first of the path; a mount is final."""
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
    expected = {
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

    labels = [
        templates(http_scope(path, method=method)) for method, path in map(str.split, expected)
    ]
    assert labels == list(expected.values())


def test_convertor_with_groups_does_not_shift_routes() -> None:
    """Groups in the pattern of a convertor do not change which route matches."""
    app = Starlette(routes=[Route("/a/{x:float}", page), Route("/b", page), Route("/c", page)])
    app.add_middleware(RateLimitMiddleware, limit="1/day", headers=None)

    assert labels_of(app, "GET /a/1.5", "GET /a/1.5", "GET /b", "GET /c") == [
        "/a/{x}",
        "/a/{x}",
        "/b",
        "/c",
    ]


def test_route_added_after_the_first_request_is_found() -> None:
    """A route that is added after the first request has its template."""
    seen: list[Exchange] = []
    app = Starlette(routes=[Route("/first", page)])
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app)

    client.get("/first")
    app.router.routes.append(Route("/second/{id}", other))
    client.get("/second/2")

    assert [exchange.route for exchange in seen] == ["/first", "/second/{id}"]


def test_application_without_routes_is_opaque() -> None:
    """An application without routes handles every path itself."""
    assert RouteTemplates(answering())(http_scope("/v1/messages")) == "/{path}"


def test_cyclic_chain_of_middlewares_has_no_router() -> None:
    """The search for a router ends in a cycle of `app` attributes."""

    class Ring:
        app: object

    ring = Ring()
    ring.app = ring

    assert RouteTemplates(ring)(http_scope()) == "/{path}"


def test_endpoint_without_a_route_is_unmatched() -> None:
    """A custom route can choose endpoints that no route has; their requests are unmatched."""

    class CustomRoute(BaseRoute):
        def matches(self, scope: Scope) -> tuple[Match, Scope]:
            return Match.FULL, {"endpoint": object()}

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            await answering()(scope, receive, send)

    assert labels_of(Starlette(routes=[CustomRoute()]), *["GET /x"] * 70) == ["__unmatched__"] * 70


def test_route_that_cannot_be_read_is_unmatched(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged once, and requests continue as unmatched."""

    class InvalidRoute(Route):
        def __init__(self) -> None:
            super().__init__("/odd", page)
            self.path = 7  # type: ignore[assignment]

    app = Starlette(routes=[InvalidRoute(), Route("/even", other)])

    assert labels_of(app, "GET /odd", "GET /odd", "GET /even") == ["__unmatched__"] * 2 + ["/even"]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "route failed with AttributeError"
    ]


def test_router_that_cannot_be_read_raises_once() -> None:
    """The error is raised once; later requests are unmatched."""

    class InvalidRouter:
        @property
        def routes(self) -> list[BaseRoute]:
            raise LookupError("not yet")

    router = InvalidRouter()
    templates = RouteTemplates(answering())
    scope = {**http_scope("/x"), "router": router, "endpoint": page}

    with pytest.raises(LookupError, match="not yet"):
        templates(scope)
    assert [templates(scope), templates(scope)] == ["__unmatched__"] * 2


def test_number_of_routers_is_bounded() -> None:
    """Routers beyond the limit are not indexed, and their requests are unmatched."""
    templates = RouteTemplates(answering())
    routers = [Router([Route("/x", page)]) for _ in range(259)]

    def label_of(router: Router) -> str:
        return templates({**http_scope("/x"), "router": router, "endpoint": page})

    assert [label_of(router) for router in routers[:256]] == ["/x"] * 256
    with pytest.raises(RuntimeError, match="more than 256 routers"):
        label_of(routers[256])
    assert [label_of(router) for router in routers[257:]] == ["__unmatched__"] * 2


def test_router_beyond_the_limit_is_not_prepared() -> None:
    """The application's own router is unmatched too if other routers came first."""
    app = Starlette(routes=[Route("/x", page)])
    templates = RouteTemplates(app)
    routers = [Router([Route("/x", page)]) for _ in range(256)]
    for router in routers:
        templates({**http_scope("/x"), "router": router, "endpoint": page})

    with pytest.raises(RuntimeError, match="more than 256 routers"):
        templates.prepare()
    templates.prepare()

    assert templates(http_scope("/x")) == "__unmatched__"


def test_routes_of_other_libraries_are_read_by_their_paths() -> None:
    """A route or mount that has only a path, and none of Starlette's patterns, has its template."""

    class OtherRoute(BaseRoute):
        def __init__(self, path: str, **fields: object) -> None:
            self.path = path
            self.__dict__.update(fields)

    templates = RouteTemplates(
        Router(
            [
                OtherRoute("/items/{id:int}", endpoint=page),
                OtherRoute("/{tenant}/deep", app=Router([Route("/{id}", other)])),
                OtherRoute("/raw", app=answering()),
            ]
        )
    )

    expected = {
        "/items/7": "/items/{id}",
        "/items/x": "__unmatched__",
        "/acme/deep/1": "/{tenant}/deep/{id}",
        "/acme/deep": "__unmatched__",
        "/raw/x/y": "/raw/{path}",
    }
    assert {path: templates(http_scope(path)) for path in expected} == expected


@pytest.mark.anyio
async def test_root_path_is_not_part_of_the_template() -> None:
    """A root path is removed if the path has it, and ignored otherwise."""
    templates = RouteTemplates(Starlette(routes=[Route("/x/{y}", page)]))

    assert templates(http_scope("/api/x/1", root_path="/api")) == "/x/{y}"
    assert templates(http_scope("/x/1", root_path="/api")) == "/x/{y}"


@pytest.mark.parametrize(
    ("route", "expected"),
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
def test_has_route_ignores_catch_all_routes_and_hosts(route: BaseRoute, expected: bool) -> None:
    """Only a GET route for exactly this path, or a mount at or above it, has the path."""
    assert has_route([route], "/health") is expected


def test_has_route_for_an_opaque_mount_is_true_below_it() -> None:
    """A mount without readable routes has every path below it; one with routes has only those."""
    assert has_route([Mount("/api", answering())], "/api/status")
    assert not has_route([Mount("/api", routes=[Route("/other", page)])], "/api/status")
    assert not has_route([Mount("/api", answering())], "/apis")

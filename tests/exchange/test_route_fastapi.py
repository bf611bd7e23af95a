"""Route templates of FastAPI applications, even if its private values change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi.routing
import pytest
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Policy, RateLimitMiddleware

from ..support.apps import answering
from .routes import every_middleware, labels_of, page

REJECTING = [Policy("1/day", cost=lambda scope: 2)]


def gateway(**options: Any) -> FastAPI:
    """Return an application with a direct route, an included one, and one that raises."""
    app = FastAPI(**options)
    models = APIRouter(prefix="/models")

    @models.get("/{name}")
    async def model(name: str) -> str:
        return name

    @app.get("/items/{id}")
    async def item(id: int) -> int:
        return id

    @app.get("/crash/{id}")
    async def crash(id: int) -> int:
        raise RuntimeError("no upstream")

    app.include_router(models, prefix="/v1")
    return app


def test_route_label_is_the_template_for_every_status() -> None:
    """The label is the template for 200, 405, 422 and an exception."""
    assert labels_of(
        gateway(),
        "GET /items/1",
        "POST /items/1",
        "GET /items/word",
        "GET /crash/1",
    ) == ["/items/{id}", "/items/{id}", "/items/{id}", "/crash/{id}"]


def test_request_without_a_route_is_unmatched() -> None:
    """A 404 and the redirect to another slash are unmatched."""
    assert (
        labels_of(gateway(), "GET /nowhere", "GET /items/1/", "GET /v1/models/a/")
        == ["__unmatched__"] * 3
    )


def test_documentation_and_starlette_routes_have_their_template() -> None:
    """Routes that only store their endpoint in the scope have their template."""
    app = gateway()
    app.add_route("/plain/{id:int}", page)

    assert labels_of(
        app, "GET /docs", "GET /redoc", "GET /openapi.json", "GET /plain/1", "POST /plain/1"
    ) == ["/docs", "/redoc", "/openapi.json", "/plain/{id}", "/plain/{id}"]


def test_included_routes_and_mounts_have_the_prefix() -> None:
    """Starlette routes and mounts of an included router have the prefix of each inclusion."""
    router = APIRouter()
    router.add_route("/plain/{id}", page)
    router.mount("/llm", answering())
    router.mount("/sub/{x}", Starlette(routes=[Route("/{id}", page)]))
    app = FastAPI()
    app.include_router(router, prefix="/one")
    app.include_router(router, prefix="/two/{tenant}")

    assert labels_of(
        app,
        "GET /one/plain/1",
        "GET /two/acme/plain/1",
        "GET /one/llm/v1/messages",
        "GET /two/acme/llm/v1/messages",
        "GET /one/sub/a/1",
        "GET /two/acme/sub/a/1",
        "GET /two/acme/sub/a/b/c",
    ) == [
        "/one/plain/{id}",
        "/two/{tenant}/plain/{id}",
        "/one/llm/{path}",
        "/two/{tenant}/llm/{path}",
        "/one/sub/{x}/{id}",
        "/two/{tenant}/sub/{x}/{id}",
        "/two/{tenant}/sub/{x}/{path}",
    ]


def test_host_of_an_included_router_has_the_prefix() -> None:
    """A host of an included router matches below the prefix only."""
    router = APIRouter()
    router.routes.append(Host("{x}.example.org", Router([Route("/hosted/{id}", page)])))
    app = gateway()
    app.include_router(router, prefix="/one")

    requests = ["GET /one/hosted/1", "GET /one/nowhere", "GET /items/1"]
    assert labels_of(app, *requests, base_url="http://a.example.org") == [
        "/one/hosted/{id}",
        "/one/{path}",
        "/items/{id}",
    ]


def test_nested_routers_have_all_prefixes() -> None:
    """Prefixes of nested routers add up, for each inclusion."""
    inner, middle = APIRouter(prefix="/inner"), APIRouter()

    @inner.post("/{id}")
    async def nested(id: int) -> int:
        return id

    middle.include_router(inner, prefix="/a")
    middle.include_router(inner, prefix="/b")
    app = FastAPI()
    app.include_router(middle, prefix="/x")
    app.include_router(middle)

    paths = ["/x/a/inner", "/x/b/inner", "/a/inner", "/b/inner"]
    assert labels_of(app, *[f"POST {path}/1" for path in paths]) == [
        f"{path}/{{id}}" for path in paths
    ]


def test_mounted_files_and_applications_have_full_templates(tmp_path: Path) -> None:
    """Static files have one label; a mounted application has its templates below the prefix."""
    (tmp_path / "a.txt").write_text("here")
    app = FastAPI()
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/t/{tenant}", gateway())
    app.mount("/deep/{a}", Starlette(routes=[Mount("/{b}", app=gateway())]))

    assert labels_of(
        app,
        "GET /static/a.txt",
        "GET /static/none.txt",
        "GET /t/acme/items/1",
        "GET /t/acme/v1/models/a",
        "GET /t/acme/docs",
        "GET /t/acme/nowhere",
        "GET /deep/1/2/v1/models/a",
        "GET /deep/1/2/nowhere",
    ) == [
        "/static/{path}",
        "/static/{path}",
        "/t/{tenant}/items/{id}",
        "/t/{tenant}/v1/models/{name}",
        "/t/{tenant}/docs",
        "/t/{tenant}/{path}",
        "/deep/{a}/{b}/v1/models/{name}",
        "/deep/{a}/{b}/{path}",
    ]


@every_middleware
def test_routes_are_found_behind_middlewares(middleware: Middleware) -> None:
    """A middleware before the router hides neither included nor mounted routes."""
    app = gateway(middleware=[middleware])
    app.mount("/t/{tenant}", gateway(middleware=[middleware]))

    assert labels_of(app, "GET /v1/models/a", "POST /items/1", "GET /t/acme/v1/models/a") == [
        "/v1/models/{name}",
        "/items/{id}",
        "/t/{tenant}/v1/models/{name}",
    ]


def responding(status: int) -> Middleware:
    """Return a middleware that responds to every request itself."""

    async def dispatch(request: Request, call: object) -> Response:
        return PlainTextResponse("no", status_code=status)

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)


@pytest.mark.parametrize("root", ["", "/proxy"])
@pytest.mark.parametrize(
    "middleware",
    [responding(401), Middleware(RateLimitMiddleware, policies=REJECTING)],
    ids=["401", "429"],
)
def test_rejected_request_has_the_template_it_would_have_reached(
    middleware: Middleware, root: str
) -> None:
    """A request rejected by a middleware has the template of the route it would have reached."""
    app = gateway(middleware=[middleware])
    app.mount("/t/{tenant}", gateway())

    requests = ["GET {}/v1/models/a", "POST {}/items/1", "GET {}/t/a/v1/models/b", "GET {}/no"]
    assert labels_of(app, *[request.format(root) for request in requests], root_path=root) == [
        "/v1/models/{name}",
        "/items/{id}",
        "/t/{tenant}/v1/models/{name}",
        "__unmatched__",
    ]


def test_cors_preflight_has_the_template_of_its_route() -> None:
    """A preflight has the template of the route that the browser will request."""
    app = gateway(middleware=[Middleware(CORSMiddleware, allow_origins=["*"])])
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])

    headers = {"origin": "http://a", "access-control-request-method": "GET"}
    TestClient(app).options("/v1/models/a", headers=headers)

    assert [(exchange.method, exchange.status, exchange.route) for exchange in seen] == [
        ("OPTIONS", 200, "/v1/models/{name}")
    ]


def test_request_rejected_in_a_mounted_application_has_its_template() -> None:
    """A request rejected by a middleware of a mounted application has that one's template."""
    app = FastAPI()
    app.mount("/t/{tenant}", gateway(middleware=[responding(429)]))

    assert labels_of(app, "GET /t/acme/v1/models/a", "GET /t/acme/nowhere") == [
        "/t/{tenant}/v1/models/{name}",
        "/t/{tenant}/{path}",
    ]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
@pytest.mark.parametrize("path", ["/proxy/v1/models/a", "/v1/models/a"])
@pytest.mark.parametrize("policies", [[Policy("9/day")], REJECTING], ids=["allowed", "rejected"])
def test_root_path_of_the_application_is_not_part_of_the_template(
    path: str, policies: list[Policy]
) -> None:
    """The `root_path` of FastAPI is removed, for accepted and rejected requests."""
    app = gateway(root_path="/proxy")
    seen: list[Exchange] = []
    limited = RateLimitMiddleware(app, policies=policies)
    client = TestClient(ExchangeMiddleware(limited, observers=[seen.append]))

    client.get(path)

    assert [exchange.route for exchange in seen] == ["/v1/models/{name}"]


def test_route_added_to_an_included_router_is_found() -> None:
    """A route that is added to an included router after the first request is found."""
    late = APIRouter(prefix="/late")
    app = gateway()
    app.include_router(late, prefix="/v2")
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app)
    client.get("/items/1")

    @late.get("/{id}")
    async def later(id: int) -> int:
        return id

    client.get("/v2/late/1")
    assert [exchange.route for exchange in seen] == ["/items/{id}", "/v2/late/{id}"]


def test_fastapi_that_copies_included_routes_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old versions of FastAPI copy included routes, and those have their template."""
    monkeypatch.delattr(fastapi.routing, "iter_route_contexts")
    app = FastAPI()

    @app.get("/v1/models/{name}")
    async def model(name: str) -> str:
        return name

    assert labels_of(app, "GET /v1/models/a", "GET /docs") == ["/v1/models/{name}", "/docs"]


class Unreadable:
    """An object whose every attribute raises."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is private")


def fails(routes: object) -> Iterator[object]:
    """Raise, as a function with other arguments does."""
    raise TypeError("unexpected arguments")


CHANGED_FUNCTIONS = {
    "missing": None,
    "raising": fails,
    "nothing": lambda routes: None,
    "numbers": lambda routes: [1, 2, 3],
    "strings": lambda routes: "abc",
    "unreadable objects": lambda routes: [Unreadable()],
    "not callable": 7,
}


@pytest.mark.parametrize("function", CHANGED_FUNCTIONS.values(), ids=CHANGED_FUNCTIONS)
def test_private_function_of_fastapi_that_fails_is_logged_at_most_once(
    function: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Responses are unchanged, later labels are right, and at most one line is logged."""
    if function is None:
        monkeypatch.delattr(fastapi.routing, "iter_route_contexts")
    else:
        monkeypatch.setattr(fastapi.routing, "iter_route_contexts", function)
    app = gateway()
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app)

    paths = ["/items/1", "/items/1", "/v1/models/a", "/v1/models/b", "/docs", "/no"]
    statuses = [client.get(path).status_code for path in paths]

    assert statuses == [200, 200, 200, 200, 200, 404]
    assert [exchange.route for exchange in seen[1:]] == [
        "/items/{id}",
        "/v1/models/{name}",
        "/v1/models/{name}",
        "/docs",
        "__unmatched__",
    ]
    assert len([r for r in caplog.records if r.name.startswith("tokenpulse_mw")]) <= 1


def invalid_values() -> list[object]:
    """Return values that a later FastAPI may store as `scope["fastapi"]`."""

    class Route:
        path_format = "/forged"
        original_route = None

    class Number:
        path_format = 7

    contexts: list[object] = [None, 7, "text", Unreadable(), Route(), Number()]
    return [
        None,
        7,
        "text",
        [],
        Unreadable(),
        {},
        *[{"effective_route_context": c} for c in contexts],
    ]


@pytest.mark.parametrize(
    "value", invalid_values(), ids=lambda value: repr(value).partition(" at 0x")[0]
)
def test_invalid_private_value_of_fastapi_is_ignored(
    value: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The response is unchanged, the label is found by the path, and at most one line is logged."""

    class StoringMiddleware:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def send_after(message: Any) -> None:
                scope["fastapi"], scope["endpoint"] = value, page  # of another route
                await send(message)

            await self.app(scope, receive, send_after)

    app = gateway(middleware=[Middleware(StoringMiddleware)])
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])

    responses = [TestClient(app).get("/items/1") for _ in range(2)]

    assert [response.text for response in responses] == ["1", "1"]
    assert {exchange.route for exchange in seen} <= {"/items/{id}", "__unmatched__"}
    assert len([r for r in caplog.records if r.name.startswith("tokenpulse_mw")]) <= 1


@pytest.mark.parametrize("has_function", [True, False])
def test_private_template_of_a_mounted_application_is_ignored(
    has_function: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The private template of FastAPI lacks the prefix of a mount, so it is not used."""
    app = FastAPI()
    app.mount("/t/{tenant}", gateway())
    if not has_function:
        monkeypatch.delattr(fastapi.routing, "iter_route_contexts")

    expected = "/t/{tenant}/v1/models/{name}" if has_function else "/t/{tenant}/{path}"
    assert labels_of(app, "GET /t/acme/v1/models/a") == [expected]

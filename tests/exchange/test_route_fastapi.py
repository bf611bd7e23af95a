"""Route templates on FastAPI, also where its inner workings are not what they were."""

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

REFUSES = [Policy("1/day", cost=lambda scope: 2)]


def gateway(**options: Any) -> FastAPI:
    """An application with a route of its own, an included one, and one that fails."""
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


def test_routes_of_the_application() -> None:
    """Whatever the answer: 200, 405, 422 or an exception."""
    assert labels_of(
        gateway(),
        "GET /items/1",
        "POST /items/1",
        "GET /items/word",
        "GET /crash/1",
    ) == ["/items/{id}", "/items/{id}", "/items/{id}", "/crash/{id}"]


def test_requests_that_no_route_takes() -> None:
    """404, and the redirect of a slash too many; the target of the redirect has its route."""
    assert (
        labels_of(gateway(), "GET /nowhere", "GET /items/1/", "GET /v1/models/a/")
        == ["__unmatched__"] * 3
    )


def test_pages_of_the_documentation_and_routes_of_starlette() -> None:
    """FastAPI tells of them nothing but the endpoint."""
    app = gateway()
    app.add_route("/plain/{id:int}", page)

    assert labels_of(
        app, "GET /docs", "GET /redoc", "GET /openapi.json", "GET /plain/1", "POST /plain/1"
    ) == ["/docs", "/redoc", "/openapi.json", "/plain/{id}", "/plain/{id}"]


def test_what_an_included_router_holds() -> None:
    """Plain routes and mounts have the prefix too, also where they are included twice."""
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


def test_hosts_of_an_included_router() -> None:
    """A host takes every path, so only its own are there; the prefix belongs to them."""
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


def test_routers_within_routers() -> None:
    """Prefixes add up, however deep, and each inclusion has its own."""
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


def test_files_and_sub_applications(tmp_path: Path) -> None:
    """A directory is one route; a sub-application tells its own, below its prefix."""
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
def test_middlewares_in_between(middleware: Middleware) -> None:
    """What stands between us and the router hides neither an included route nor a mounted one."""
    app = gateway(middleware=[middleware])
    app.mount("/t/{tenant}", gateway(middleware=[middleware]))

    assert labels_of(app, "GET /v1/models/a", "POST /items/1", "GET /t/acme/v1/models/a") == [
        "/v1/models/{name}",
        "/items/{id}",
        "/t/{tenant}/v1/models/{name}",
    ]


def answers(status: int) -> Middleware:
    """A middleware that answers everything itself."""

    async def dispatch(request: Request, call: object) -> Response:
        return PlainTextResponse("no", status_code=status)

    return Middleware(BaseHTTPMiddleware, dispatch=dispatch)


@pytest.mark.parametrize("root", ["", "/proxy"])
@pytest.mark.parametrize(
    "first",
    [answers(401), Middleware(RateLimitMiddleware, policies=REFUSES)],
    ids=["401", "429"],
)
def test_requests_answered_before_the_router(first: Middleware, root: str) -> None:
    """They have the template of the route that would have answered."""
    app = gateway(middleware=[first])
    app.mount("/t/{tenant}", gateway())

    requests = ["GET {}/v1/models/a", "POST {}/items/1", "GET {}/t/a/v1/models/b", "GET {}/no"]
    assert labels_of(app, *[each.format(root) for each in requests], root_path=root) == [
        "/v1/models/{name}",
        "/items/{id}",
        "/t/{tenant}/v1/models/{name}",
        "__unmatched__",
    ]


def test_preflights() -> None:
    """What CORS answers is for the route that the browser is about to ask."""
    app = gateway(middleware=[Middleware(CORSMiddleware, allow_origins=["*"])])
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])

    asks = {"origin": "http://a", "access-control-request-method": "GET"}
    TestClient(app).options("/v1/models/a", headers=asks)

    assert [(each.method, each.status, each.route) for each in seen] == [
        ("OPTIONS", 200, "/v1/models/{name}")
    ]


def test_a_sub_application_that_answers_before_its_router() -> None:
    """A limit inside of a mounted application is told by that application's routes."""
    app = FastAPI()
    app.mount("/t/{tenant}", gateway(middleware=[answers(429)]))

    assert labels_of(app, "GET /t/acme/v1/models/a", "GET /t/acme/nowhere") == [
        "/t/{tenant}/v1/models/{name}",
        "/t/{tenant}/{path}",
    ]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
@pytest.mark.parametrize("path", ["/proxy/v1/models/a", "/v1/models/a"])
@pytest.mark.parametrize("policies", [[Policy("9/day")], REFUSES], ids=["allowed", "refused"])
def test_an_application_with_a_root_path_of_its_own(path: str, policies: list[Policy]) -> None:
    """It is no part of the template, be it in the path or not, and whoever answers."""
    app = gateway(root_path="/proxy")
    seen: list[Exchange] = []
    limited = RateLimitMiddleware(app, policies=policies)
    client = TestClient(ExchangeMiddleware(limited, observers=[seen.append]))

    client.get(path)

    assert [each.route for each in seen] == ["/v1/models/{name}"]


def test_routes_that_are_added_later() -> None:
    """By a request that comes after them, also to a router that was included before."""
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
    assert [each.route for each in seen] == ["/items/{id}", "/v2/late/{id}"]


def test_an_application_from_before_routers_were_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where including copied the routes, they are found as they are."""
    monkeypatch.delattr(fastapi.routing, "iter_route_contexts")
    app = FastAPI()

    @app.get("/v1/models/{name}")
    async def model(name: str) -> str:
        return name

    assert labels_of(app, "GET /v1/models/a", "GET /docs") == ["/v1/models/{name}", "/docs"]


class Odd:
    """What nobody expects: it has every attribute, and none can be had."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} is private")


def fails(routes: object) -> Iterator[object]:
    """A function of another version."""
    raise TypeError("other arguments, please")


NOT_AS_IT_WAS = {
    "missing": None,
    "raising": fails,
    "nothing": lambda routes: None,
    "numbers": lambda routes: [1, 2, 3],
    "strings": lambda routes: "abc",
    "odd objects": lambda routes: [Odd()],
    "no function": 7,
}


@pytest.mark.parametrize("function", NOT_AS_IT_WAS.values(), ids=NOT_AS_IT_WAS)
def test_a_fastapi_whose_included_routers_cannot_be_read(
    function: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests are answered; after the first, labels_of are right; at most one failure is told."""
    if function is None:
        monkeypatch.delattr(fastapi.routing, "iter_route_contexts")
    else:
        monkeypatch.setattr(fastapi.routing, "iter_route_contexts", function)
    app = gateway()
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app)

    paths = ["/items/1", "/items/1", "/v1/models/a", "/v1/models/b", "/docs", "/no"]
    answers = [client.get(path).status_code for path in paths]

    assert answers == [200, 200, 200, 200, 200, 404]
    assert [each.route for each in seen[1:]] == [
        "/items/{id}",
        "/v1/models/{name}",
        "/v1/models/{name}",
        "/docs",
        "__unmatched__",
    ]
    assert len(caplog.records) <= 1


def garbage() -> list[object]:
    """What `scope["fastapi"]` may hold one day."""

    class Route:
        path_format = "/forged"
        original_route = None

    class Number:
        path_format = 7

    contexts: list[object] = [None, 7, "text", Odd(), Route(), Number()]
    return [None, 7, "text", [], Odd(), {}, *[{"effective_route_context": c} for c in contexts]]


@pytest.mark.parametrize("told", garbage(), ids=lambda told: repr(told).partition(" at 0x")[0])
def test_a_scope_whose_private_part_is_garbage(
    told: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is whole, the label is the path's, and at most one failure is told."""

    class Leaves:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def send_after(message: Any) -> None:
                scope["fastapi"], scope["endpoint"] = told, page  # nobody knows this endpoint
                await send(message)

            await self.app(scope, receive, send_after)

    app = gateway(middleware=[Middleware(Leaves)])
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])

    answers = [TestClient(app).get("/items/1") for _ in range(2)]

    assert [answer.text for answer in answers] == ["1", "1"]
    assert {each.route for each in seen} <= {"/items/{id}", "__unmatched__"}
    assert len(caplog.records) <= 1


@pytest.mark.parametrize("has_function", [True, False])
def test_a_mounted_application_is_not_mistaken_for_its_parent(
    has_function: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where FastAPI's own note lacks the prefix of a mount, it is not believed."""
    app = FastAPI()
    app.mount("/t/{tenant}", gateway())
    if not has_function:
        monkeypatch.delattr(fastapi.routing, "iter_route_contexts")

    expected = "/t/{tenant}/v1/models/{name}" if has_function else "/t/{tenant}/{path}"
    assert labels_of(app, "GET /t/acme/v1/models/a") == [expected]

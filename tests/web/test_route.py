"""Routes of this library in the list of an application's routes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import get_type_hints

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, Router
from starlette.schemas import SchemaGenerator
from starlette.testclient import TestClient

from tokenpulse_mw import Settings, TokenPulse
from tokenpulse_mw.web.route import OwnRoute

TOKEN = "a-token-of-enough-characters"


def gateway() -> TokenPulse:
    """Return a gateway with all endpoints."""
    settings = Settings(admin_token=TOKEN, metrics_token=TOKEN)
    return TokenPulse(settings=settings, credentials={"claude": True})


def listed(routes: Sequence[BaseRoute]) -> Iterator[Route]:
    """Yield the routes of an application, as a tool that lists them does."""
    for route in routes:
        if isinstance(route, Mount):
            yield from listed(route.routes)
        elif isinstance(route, Route) and route.methods:
            yield route


@pytest.mark.parametrize(
    "read",
    [
        lambda route: route.endpoint.__name__,
        lambda route: f"{route.endpoint.__module__}.{route.endpoint.__qualname__}",
        lambda route: ", ".join(sorted(route.methods)),
        lambda route: len(inspect.signature(route.endpoint).parameters) == 1,
        lambda route: issubclass(get_type_hints(route.endpoint)["return"], Response),
        lambda route: inspect.iscoroutinefunction(route.endpoint),
        lambda route: inspect.getsourcefile(route.endpoint),
        lambda route: route.endpoint.__code__.co_firstlineno,
        lambda route: route.path_format.startswith("/"),
    ],
    ids=["name", "module", "methods", "signature", "hints", "async", "source", "code", "path"],
)
def test_application_reads_its_routes(read: Callable[[Route], object]) -> None:
    """An application can read each of its routes as it can read those of FastAPI's own pages."""
    app = FastAPI()
    gateway().install(app)

    @app.get("/routes")
    async def get_routes() -> list[bool]:
        return [bool(read(route)) for route in listed(app.routes)]

    with TestClient(app) as client:
        answer = client.get("/routes")

    assert answer.status_code == 200
    ours = [read(route) for route in listed(app.routes) if isinstance(route, OwnRoute)]
    assert len(ours) > 20
    assert all(ours)


def test_names_of_the_application_are_not_shadowed() -> None:
    """The application finds its own routes by their names, which ours do not repeat."""
    pulse, app = gateway(), FastAPI()
    routes = [route for route in pulse.routes if isinstance(route, Route)]
    names = {route.endpoint.__name__ for route in routes}
    names |= {route.name.removeprefix("tokenpulse:") for route in routes}
    for name in names:
        app.add_route(f"/own/{name}", lambda request: PlainTextResponse(""), name=name)
    pulse.install(app)

    assert {name: app.url_path_for(name) for name in names} == {
        name: f"/own/{name}" for name in names
    }
    assert app.url_path_for("tokenpulse:metrics") == "/metrics"
    assert app.url_path_for("tokenpulse:health_ready") == "/health/ready"


def test_schemas_of_the_application_contain_only_its_own_paths() -> None:
    """Neither FastAPI nor the generator of Starlette lists the endpoints of this library."""
    app = FastAPI()

    @app.get("/chat")
    async def chat() -> str:
        """Answer.

        ---
        responses: {}
        """
        return ""

    gateway().install(app)

    assert list(app.openapi()["paths"]) == ["/chat"]
    schema = SchemaGenerator({}).get_schema([*gateway().routes, Route("/own", chat)])
    assert list(schema["paths"]) == ["/own"]


@pytest.mark.parametrize(("for_all", "expected"), [(True, "own"), (False, "catch-all")])
def test_route_for_all_methods_precedes_a_catch_all(for_all: bool, expected: str) -> None:
    """Only a route for all methods also answers those that it does not list."""

    async def own(request: Request) -> Response:
        return JSONResponse("own")

    async def catch_all(request: Request) -> Response:
        return JSONResponse("catch-all")

    route = OwnRoute("/own", own, name="own", for_all=for_all)
    methods = ["GET", "POST"]
    client = TestClient(Router([route, Route("/{path:path}", catch_all, methods=methods)]))

    assert client.get("/own").json() == "own"
    assert client.post("/own").json() == expected
    assert route.methods == {"GET", "HEAD"}

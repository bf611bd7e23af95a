"""Cost of route templates: independent of the number of routes, and bounded."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Host, Mount, Route, Router
from starlette.types import Scope

from tokenpulse_mw.exchange import RouteTemplates

from ..support.asgi import http_scope
from ..support.calls import calls
from ..support.waiting import max_cpu_time
from .routes import page

pytestmark = pytest.mark.slow


def plain(number: int) -> BaseRoute:
    """Return a route with its own endpoint."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(number))

    return Route(f"/route/{number}/{{id}}", endpoint)


def starlette(routes: int) -> Starlette:
    """Return an application whose last route has the endpoint `page`."""
    return Starlette(routes=[*map(plain, range(routes - 1)), Route("/last/{id}", page)])


def fastapi(routes: int) -> FastAPI:
    """Return a FastAPI application with the routes of `starlette`."""
    app = FastAPI(openapi_url=None)
    app.router.routes.extend(starlette(routes).routes)
    return app


def mounted(routes: int) -> Starlette:
    """Return the application of `starlette` below a mount with a parameter."""
    return Starlette(routes=[Mount("/{tenant}", app=starlette(routes))])


def routed(app: Starlette) -> Scope:
    """Return the scope of a request that the router of `app` passed to `page`."""
    return {**http_scope("/last/1"), "router": app.router, "endpoint": page}


@pytest.mark.parametrize("make", [starlette, fastapi, mounted])
def test_routed_request_costs_one_lookup(
    make: Callable[[int], Starlette],
) -> None:
    """A request with a known endpoint is not matched, for any number of routes."""

    def cost(routes: int) -> int:
        app = make(routes)
        templates = RouteTemplates(app)
        templates(routed(app))
        scope = routed(app)
        return calls(lambda: templates(scope))

    assert cost(3) == cost(300) <= 4


@pytest.mark.parametrize("make", [starlette, fastapi, mounted])
@pytest.mark.parametrize("path", ["/last/1", "/t/last/1", "/nowhere"])
def test_request_before_the_router_is_matched_once(
    make: Callable[[int], Starlette], path: str
) -> None:
    """Later requests cost the same for any number of routes."""

    def costs(routes: int) -> list[int]:
        templates = RouteTemplates(make(routes))
        return [calls(lambda: templates(http_scope(path))) for _ in range(3)]

    few, many = costs(3), costs(300)
    assert few[1:] == many[1:]
    assert few[1] == few[2]


def with_hosts(routes: int) -> Starlette:
    """Return an application with the routes of `starlette` after one of a host."""
    return Starlette(routes=[Host("a.example", Router([])), *starlette(routes).routes])


@pytest.mark.parametrize("make", [starlette, fastapi, mounted, with_hosts])
@pytest.mark.parametrize("path", ["/last/{}", "/t/route/1/{}", "/nowhere/{}", "/route/{}/7", "/{}"])
def test_new_path_is_compared_with_routes_of_its_segments_only(
    make: Callable[[int], Starlette], path: str
) -> None:
    """The first match of a path costs the same for any number of routes."""

    def cost(routes: int) -> int:
        templates = RouteTemplates(make(routes))
        templates(http_scope(path.format("first")))
        return calls(lambda: templates(http_scope(path.format("second"))))

    assert cost(3) == cost(300) < 100


def test_routes_are_compared_by_as_many_segments_as_they_have() -> None:
    """A path of a million segments costs as many comparisons as one of ten."""
    templates = RouteTemplates(starlette(300))

    def cost(segments: int) -> int:
        scope = http_scope("/route/299" + "/x" * segments)
        return calls(lambda: templates(scope))

    cost(10)
    assert cost(1000) == cost(1_000_000)


def test_unmatched_request_is_not_matched_again() -> None:
    """A request for which the router found no route costs the same for any number of routes."""

    def cost(routes: int) -> int:
        app = starlette(routes)
        templates = RouteTemplates(app)
        scope = {**http_scope("/wp-login.php"), "router": app.router}
        templates(scope)
        return calls(lambda: templates(scope))

    assert cost(3) == cost(300)


def test_cache_of_matches_is_bounded() -> None:
    """New paths and methods do not use more memory without end."""
    templates = RouteTemplates(starlette(3))

    def allocated_blocks(first: int, last: int) -> int:
        before = sys.getallocatedblocks()
        for number in range(first, last):
            templates(http_scope(f"/probe/{number}"))
            templates(http_scope(f"/{number}" + "x" * 600))
            templates(http_scope("/", method=f"M{number}"))
        return sys.getallocatedblocks() - before

    allocated_blocks(0, 2000)
    assert allocated_blocks(2000, 6000) < 8000  # 12,000 requests, of at least two blocks each


def test_long_path_or_method_is_not_cached() -> None:
    """Requests with a long path or method use no memory after their end."""
    templates = RouteTemplates(starlette(3))
    tracemalloc.start()
    try:
        for number in range(100):
            templates(http_scope(f"/{number}" + "x" * 60_000))
            templates(http_scope("/", method=f"{number}" + "x" * 60_000))
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert allocated < 1_000_000  # bytes; they would be twelve million


@pytest.mark.slow
def test_unknown_endpoints_rebuild_the_index_a_bounded_number_of_times() -> None:
    """An application with a new endpoint for each request causes a bounded number of rebuilds."""
    app = starlette(300)
    templates = RouteTemplates(app)

    def cost() -> int:
        scope = {**routed(app), "endpoint": lambda request: None}
        return calls(lambda: templates(scope))

    costs = [cost() for _ in range(100)]

    assert costs[10] > 1000
    assert max(costs[-30:]) < 50


def test_unknown_endpoint_rebuilds_the_index_once() -> None:
    """The routes are read again for the first request of an unknown endpoint only."""
    app = starlette(300)
    templates = RouteTemplates(app)
    templates(routed(app))
    scope = {**routed(app), "endpoint": lambda request: None}

    costs = [calls(lambda: templates(scope)) for _ in range(3)]

    assert costs[0] > 1000
    assert costs[1] == costs[2] < 50


HARD: dict[str, list[BaseRoute]] = {
    "mounts of paths": [
        Mount("/{a:path}", routes=[Mount("/{b:path}", routes=[Route("/x/{c:path}/y", page)])])
    ],
    "many mounts": [Mount(f"/{{a:path}}/{n}", routes=[Route("/x", page)]) for n in range(30)],
    "two words": [Route("/{a}-{b}/y", page)],
    "several paths in one": [Route("/{a:path}/{b:path}/{c:path}/y", page)],
    "paths and words": [Route("/{a:path}-{b}/y", page), Route("/{a}-{b}-{c}-{d}/y", page)],
    "words and numbers": [Route("/{a}{b}{c:int}{d:float}/y", page)],
}


@pytest.mark.parametrize("text", ["/", "-", "1", "a/-1"])
@pytest.mark.parametrize("end", ["", "\n", "\n/y!", "/z"])
@pytest.mark.parametrize("routes", HARD.values(), ids=HARD)
def test_matching_time_is_linear_in_the_path(routes: list[BaseRoute], text: str, end: str) -> None:
    """Megabytes of path match quickly, although quadratic matching would take hours."""
    templates = RouteTemplates(Starlette(routes=routes))

    with max_cpu_time(20):
        for length in (2**7, 2**9, 2**12, 2**16, 2**20):
            templates(http_scope("/" + text * (length // len(text)) + end))


@pytest.mark.parametrize("method", ["", "x" * 65536, "GET /", "G\nE\nT", ".*", "|", "\0"])
def test_method_is_compared_literally(method: str) -> None:
    """Special characters in a method have no meaning for the match."""
    templates = RouteTemplates(
        Starlette(routes=[Route("/a/{x}", page), Route("/a/{y}", page, methods=["POST"])])
    )

    assert templates(http_scope("/a/1", method=method)) == "/a/{x}"
    assert templates(http_scope("/b/1", method=method)) == "__unmatched__"


def test_long_path_of_an_unambiguous_route_is_matched() -> None:
    """Only routes with several ambiguous parameters do not match long paths."""
    templates = RouteTemplates(
        Starlette(
            routes=[
                Route("/files/{path:path}", page),
                Route("/{tenant}/raw/{path:path}", page),
                Route("/from/{a:path}/to/{b:path}", page),
            ]
        )
    )
    long = "x/" * 5000

    assert templates(http_scope("/files/" + long)) == "/files/{path}"
    assert templates(http_scope("/acme/raw/" + long)) == "/{tenant}/raw/{path}"
    assert templates(http_scope("/from/x/to/" + "y" * 400)) == "/from/{a}/to/{b}"
    assert templates(http_scope("/from/x/to/" + long)) == "__unmatched__"


def test_lookup_is_cheaper_than_half_a_match_of_the_router() -> None:
    """A look-up makes less than half of the calls of one match of a route."""
    app = starlette(3)
    templates = RouteTemplates(app)
    scope, route = routed(app), app.routes[-1]

    assert templates(scope) == "/last/{id}"
    assert calls(lambda: templates(scope)) < calls(lambda: route.matches(scope)) / 2

"""What telling a route costs: the same with 3 routes and 300, and bounded whatever is asked."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Scope

from tokenpulse_mw.exchange import RouteTemplates

from ..support.asgi import http_scope
from ..support.calls import calls
from ..support.waiting import at_most
from .routes import page


def plain(number: int) -> BaseRoute:
    """A route with an endpoint of its own."""

    async def endpoint(request: Request) -> Response:
        return PlainTextResponse(str(number))

    return Route(f"/route/{number}/{{id}}", endpoint)


def starlette(routes: int) -> Starlette:
    """An application; the last of its routes is `page`."""
    return Starlette(routes=[*map(plain, range(routes - 1)), Route("/last/{id}", page)])


def fastapi(routes: int) -> FastAPI:
    """The same on FastAPI."""
    app = FastAPI(openapi_url=None)
    app.router.routes.extend(starlette(routes).routes)
    return app


def mounted(routes: int) -> Starlette:
    """The same, below a mount with a parameter."""
    return Starlette(routes=[Mount("/{tenant}", app=starlette(routes))])


def routed(app: Starlette) -> Scope:
    """The scope of a request that `app`'s router gave to `page`."""
    return {**http_scope("/last/1"), "router": app.router, "endpoint": page}


@pytest.mark.parametrize("make", [starlette, fastapi, mounted])
def test_a_request_that_a_route_answered_costs_the_same_with_any_number_of_routes(
    make: Callable[[int], Starlette],
) -> None:
    """Nothing is matched: it takes one look-up."""

    def cost(routes: int) -> int:
        app = make(routes)
        templates = RouteTemplates(app)
        templates(routed(app))
        scope = routed(app)
        return calls(lambda: templates(scope))

    assert cost(3) == cost(300) <= 4


@pytest.mark.parametrize("make", [starlette, fastapi, mounted])
@pytest.mark.parametrize("path", ["/last/1", "/t/last/1", "/nowhere"])
def test_a_request_answered_before_the_router_is_matched_once(
    make: Callable[[int], Starlette], path: str
) -> None:
    """From the second on it costs the same with any number of routes."""

    def costs(routes: int) -> list[int]:
        templates = RouteTemplates(make(routes))
        return [calls(lambda: templates(http_scope(path))) for _ in range(3)]

    few, many = costs(3), costs(300)
    assert few[1:] == many[1:]
    assert few[1] == few[2]


def test_a_request_that_the_router_found_no_route_for_is_not_matched_again() -> None:
    """Whoever probes paths costs the same with any number of routes."""

    def cost(routes: int) -> int:
        app = starlette(routes)
        templates = RouteTemplates(app)
        scope = {**http_scope("/wp-login.php"), "router": app.router}
        templates(scope)
        return calls(lambda: templates(scope))

    assert cost(3) == cost(300)


def test_what_is_remembered_is_bounded() -> None:
    """Endless new paths and methods, long ones and short ones, take no more memory than some."""
    templates = RouteTemplates(starlette(3))

    def ask(first: int, last: int) -> int:
        before = sys.getallocatedblocks()
        for number in range(first, last):
            templates(http_scope(f"/probe/{number}"))
            templates(http_scope(f"/{number}" + "x" * 600))
            templates(http_scope("/", method=f"M{number}"))
        return sys.getallocatedblocks() - before

    ask(0, 2000)
    assert ask(2000, 6000) < 8000  # 12,000 requests, of at least two blocks each


def test_what_is_long_is_not_remembered() -> None:
    """A path as long as servers let it grow is gone with its request, as is such a method."""
    templates = RouteTemplates(starlette(3))
    tracemalloc.start()
    try:
        for number in range(100):
            templates(http_scope(f"/{number}" + "x" * 60_000))
            templates(http_scope("/", method=f"{number}" + "x" * 60_000))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert kept < 1_000_000  # bytes; they would be twelve million


@pytest.mark.slow
def test_endpoints_that_no_route_has_do_not_have_the_routes_read_for_ever() -> None:
    """An application that makes an endpoint for each request costs a bounded number of readings."""
    app = starlette(300)
    templates = RouteTemplates(app)

    def ask() -> int:
        scope = {**routed(app), "endpoint": lambda request: None}
        return calls(lambda: templates(scope))

    costs = [ask() for _ in range(100)]

    assert costs[10] > 1000
    assert max(costs[-30:]) < 50


def test_an_endpoint_that_no_route_has_is_looked_for_once() -> None:
    """The routes are read again for the first request that it answers, and no other."""
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
def test_no_path_takes_more_than_its_length(routes: list[BaseRoute], text: str, end: str) -> None:
    """A megabyte is told in no time: where the work grew with its square, it would take hours."""
    templates = RouteTemplates(Starlette(routes=routes))

    with at_most(20):
        for length in (2**7, 2**9, 2**12, 2**16, 2**20):
            templates(http_scope("/" + text * (length // len(text)) + end))


@pytest.mark.parametrize("method", ["", "x" * 65536, "GET /", "G\nE\nT", ".*", "|", "\0"])
def test_no_method_is_taken_for_another(method: str) -> None:
    """It is compared, and never made a part of a pattern."""
    templates = RouteTemplates(
        Starlette(routes=[Route("/a/{x}", page), Route("/a/{y}", page, methods=["POST"])])
    )

    assert templates(http_scope("/a/1", method=method)) == "/a/{x}"
    assert templates(http_scope("/b/1", method=method)) == "__unmatched__"


def test_a_long_path_of_a_usual_route_is_told() -> None:
    """Its length matters only where parameters could share it out in too many ways."""
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


def test_telling_a_matched_route_is_a_small_part_of_matching_it() -> None:
    """Our look-up calls less than half as much as one route's own match."""
    app = starlette(3)
    templates = RouteTemplates(app)
    scope, route = routed(app), app.routes[-1]

    assert templates(scope) == "/last/{id}"
    assert calls(lambda: templates(scope)) < calls(lambda: route.matches(scope)) / 2

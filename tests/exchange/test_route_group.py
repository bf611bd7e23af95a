"""Route groups: routes that a router matches in one step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.testclient import TestClient

from tokenpulse_mw.exchange import RouteGroup, has_route


async def name_route(request: Request) -> Response:
    """Return the path of the route and its parameters."""
    return PlainTextResponse(f"{request.scope['route'].path} {request.path_params}")


PATHS = ("/health", "/admin/alerts/{id}", "/admin/alerts/silences", "/admin/{rest:path}")
REQUESTS = (
    *("/health", "/health/", "/admin", "/admin/", "/admin/alerts/7", "/admin/alerts/silences"),
    *("/admin/x/y", "/chat", "", "/admin/alerts/{id}"),
)


@given(
    st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(("GET", "POST"))), max_size=6),
    st.sampled_from(REQUESTS),
    st.sampled_from(("GET", "POST", "PUT")),
    st.sampled_from(("", "/root")),
)
def test_group_matches_like_its_routes_in_a_row(
    declared: list[tuple[str, str]], path: str, method: str, root: str
) -> None:
    """A group selects the route that a router selects among the same routes."""
    routes = [Route(path, name_route, methods=[method]) for path, method in declared]
    scope = {"type": "http", "method": method, "path": root + path, "root_path": root}
    expected: tuple[Any, Any] = Match.NONE, None
    for route in routes:
        match, _ = route.matches(scope)
        if match.value > expected[0].value:
            expected = match, route

    match, child_scope = RouteGroup(routes).matches(scope)

    assert (match, child_scope.get("route")) == expected


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/health", 200, "/health {}"),
        ("GET", "/items/7", 200, "/items/{id} {'id': '7'}"),
        ("POST", "/health", 405, "Method Not Allowed"),
        ("GET", "/own", 200, "/own {}"),
        ("POST", "/items/own", 200, "/items/own {}"),
    ],
)
def test_group_in_an_application_serves_its_paths_only(
    method: str, path: str, status: int, text: str
) -> None:
    """The routes after a group serve other paths, and methods that the group does not have."""
    group = RouteGroup([Route("/health", name_route), Route("/items/{id}", name_route)])
    own = [Route("/own", name_route), Route("/items/own", name_route, methods=["POST"])]
    app = Starlette(routes=[group, *own])

    response = TestClient(app).request(method, path)

    assert (response.status_code, response.text) == (status, text)


def test_group_is_listed_like_a_mount() -> None:
    """Tools that list routes, such as those of an application, find the routes of a group."""
    group = RouteGroup([Route("/health", name_route, name="health")])
    app = Starlette(routes=[group])

    listed = [
        (route.path + inner.path)
        for route in app.routes
        if isinstance(route, Mount)
        for inner in route.routes
        if isinstance(inner, Route)
    ]

    assert listed == ["/health"]
    assert app.url_path_for("health") == "/health"
    assert has_route(app.routes, "/health")
    assert not has_route(app.routes, "/chat")

"""Agreement of RouteTemplates with the router, for generated routes and paths."""

from __future__ import annotations

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, StringConvertor
from starlette.routing import (
    BaseRoute,
    Host,
    Match,
    Mount,
    Route,
    Router,
    WebSocketRoute,
    compile_path,
)
from starlette.types import Receive, Scope, Send

from tokenpulse_mw.exchange import RouteTemplates

from ..support.apps import answering
from ..support.asgi import drive, http_scope


class Endpoint:
    """An endpoint that handles every request; each instance has its own id."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)


SEGMENTS = ["a", "b", "{%s}", "{%s:int}", "{%s:path}", "a-{%s}", "1"]
METHODS = st.sampled_from(["GET", "POST", "HEAD", "BREW"])


@st.composite
def templates(draw: st.DrawFn, max_size: int = 3) -> str:
    """Generate the path of a route with unique parameter names."""
    segments = draw(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=max_size))
    names = iter("xyz")
    named = [segment % next(names) if "%" in segment else segment for segment in segments]
    return "/" + "/".join(named) + draw(st.sampled_from(["", "/"]))


leaves = st.builds(
    lambda path, methods: Route(path, Endpoint(), methods=methods),
    templates(),
    st.none() | st.lists(METHODS, min_size=1, max_size=2),
) | st.builds(lambda path: Mount(path, Endpoint()), templates(1))
trees: st.SearchStrategy[BaseRoute] = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda path, routes: Mount(path, routes=routes), templates(2), st.lists(inner))
        | st.builds(
            lambda host, routes: Host(host, Router(routes)),
            st.sampled_from(["a.example", "{name}.example"]),
            st.lists(inner),
        )
    ),
    max_leaves=8,
)
flat = st.lists(
    st.builds(
        lambda path, methods: Route(path, Endpoint(), methods=methods),
        templates(),
        st.none() | st.lists(METHODS, min_size=1, max_size=2),
    )
    | st.builds(lambda path: WebSocketRoute(path, Endpoint()), templates())
    | st.builds(lambda path: Mount(path, Endpoint()), templates(2)),
    max_size=20,
)
paths = st.lists(st.sampled_from(["a", "b", "1", "a-b", "", "%", "x"]), max_size=6).map(
    lambda segments: "/" + "/".join(segments)
)


@pytest.mark.slow
@settings(max_examples=100)
@given(
    routes=st.lists(trees, max_size=5),
    path=paths,
    method=METHODS,
    host=st.sampled_from([b"a.example", b"B.Example:80", b"other"]),
    root=st.sampled_from(["", "/root"]),
)
def test_template_is_the_same_before_and_after_the_router(
    routes: list[BaseRoute], path: str, method: str, host: bytes, root: str
) -> None:
    """A request that is rejected before the router has the label it would have had after it."""
    app = Starlette(routes=routes)
    scope = http_scope(root + path, method=method, headers=[(b"host", host)], root_path=root)
    before = RouteTemplates(app)(scope)

    routed = dict(scope)
    anyio.run(drive, app, routed)

    assert RouteTemplates(app)(routed) == before
    assert RouteTemplates(Router(routes))(scope) == before


@settings(max_examples=300)
@given(routes=flat, path=paths, method=METHODS, kind=st.sampled_from(["http", "websocket"]))
def test_template_is_that_of_the_first_route_that_matches(
    routes: list[Route | WebSocketRoute | Mount], path: str, method: str, kind: str
) -> None:
    """The index of segments finds the route that a search through all routes finds."""
    scope = {**http_scope(path, method=method), "type": kind}
    matches = [(route.matches(scope)[0], route) for route in routes]
    full = [route for match, route in matches if match is Match.FULL]
    partial = [route for match, route in matches if match is Match.PARTIAL]
    first = next(iter(full + partial), None)

    expected = "__unmatched__"
    if first is not None:
        expected = compile_path(first.path)[1] + ("/{path}" if isinstance(first, Mount) else "")
    assert RouteTemplates(Router(routes))(scope) == expected


class Dotted(StringConvertor):
    """A convertor of a subclass, which also matches slashes."""

    regex = "[a-z/]+"


@settings(max_examples=300)
@given(
    path=st.lists(
        st.sampled_from(["a", "b", "", "a-b", "{x}", "{y:dotted}", "{{", "a\n"]), max_size=4
    ).map(lambda segments: "/" + "/".join(segments)),
    text=st.text("ab/-{\n", max_size=8).map("/{}".format),
)
def test_route_is_found_for_every_path_that_its_pattern_matches(path: str, text: str) -> None:
    """Custom convertors, braces and line feeds are found, as with the pattern of the route."""
    CONVERTOR_TYPES["dotted"] = Dotted()
    try:
        route = Route(path, Endpoint())
    except ValueError:  # the same parameter twice
        return
    finally:
        del CONVERTOR_TYPES["dotted"]

    found = RouteTemplates(Router([route]))(http_scope(text))

    assert (found == route.path_format) == bool(route.path_regex.match(text))

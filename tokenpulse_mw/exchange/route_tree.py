"""An application's routes as a tree, read from their public attributes and walked as a router does.

Nothing here is called while a request is answered by a route that is known: the tree is for the
one reading of the routes, and for requests that no router saw.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from starlette.convertors import FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor
from starlette.routing import Route, WebSocketRoute, compile_path

OPAQUE = "/{path}"


_MAX_MIDDLEWARES = 100  # middlewares around a router


# Parameters that can share out the same characters are tried in every way to do so, squared or
# worse in the length of the path: where a route has such, its longer paths are not tried at all.
_MAX_MATCH_STEPS = 512**2


_NOTHING = re.compile("(?!)")


_ALL_SCOPE_TYPES: tuple[str, ...] = ("http", "websocket")


_WITHIN_SEGMENT = (StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor)


class RouteNode(NamedTuple):
    """A route, or a mount or host with what is in it.

    Attributes:
        endpoint: What a router leaves in the scope for it.
        template: Of the whole path to it; a mount's and a host's ends with `OPAQUE`.
        scope_types: The types of scopes it takes.
        methods: Those it takes; none where it takes all.
        pattern: What the path must match from where its mount ends, or the host's name.
        literal: How each such path begins.
        max_chars: Characters of the longest path that is tried.
        children: What is in a mount or host, as far as it can be seen; None for a route.
        is_host: It is found by the host's name, whatever the path.
    """

    endpoint: Any
    template: str
    scope_types: tuple[str, ...] = _ALL_SCOPE_TYPES
    methods: frozenset[str] = frozenset()
    pattern: re.Pattern[str] = _NOTHING
    literal: str = ""
    max_chars: int = sys.maxsize
    children: tuple[RouteNode, ...] | None = None
    is_host: bool = False


class RouteQuery(NamedTuple):
    """What a router looks at in a request; the host is None where nobody knows it."""

    scope_type: str
    method: str
    host: str | None


def find_router(app: Any) -> Any | None:
    """Whatever has `routes` along the `app` attributes from `app` on, if anything has."""
    for _ in range(_MAX_MIDDLEWARES):
        if app is None or hasattr(app, "routes"):
            return app
        app = getattr(app, "app", None)
    return None


def read_routes(routes: Iterable[Any], problems: list[Exception]) -> tuple[RouteNode, ...]:
    """The tree of `routes`; what cannot be read is left out, and `problems` is told why."""
    return tuple(_read(routes, "", problems, ()))


def walk(places: Iterable[RouteNode]) -> Iterator[RouteNode]:
    """All of `places` with all that is in them."""
    for place in places:
        yield place
        yield from walk(place.children or ())


def match(places: Iterable[RouteNode], asked: RouteQuery, path: str) -> str | None:
    """The template of the place that a router chooses for `path`; None where it finds none.

    Like a router, it takes the first route of the path and method, and the first of the path
    alone if there is none; what is in a mount is not left again.
    """
    other_method: str | None = None
    for place in places:
        # Rules out nearly all of the others, at a third of what it takes to call and match.
        if not path.startswith(place.literal):
            continue
        rest = _rest(place, asked, path)
        if rest is None:
            continue
        if place.children is not None:
            return match(place.children, asked, rest) or place.template
        if not place.methods or asked.method in place.methods:
            return place.template
        other_method = other_method or place.template
    return other_method


def _rest(place: RouteNode, asked: RouteQuery, path: str) -> str | None:
    """What of `path` is left when it has come to `place`, or None where it does not."""
    if asked.scope_type not in place.scope_types or len(path) > place.max_chars:
        return None
    if place.is_host:
        return path if asked.host is None or place.pattern.match(asked.host) else None
    match = place.pattern.match(path)
    return path[match.end() :] if match else None


def _read(
    routes: Iterable[Any], above: str, problems: list[Exception], seen: tuple[int, ...]
) -> Iterator[RouteNode]:
    for route in routes:
        try:
            for each in _resolved(route):
                yield _node(each, above, problems, (*seen, id(routes)))
        except Exception as error:  # noqa: BLE001 - a route can be of anyone's making
            problems.append(error)


def _resolved(route: Any) -> Iterable[Any]:
    """`route`; or, if it is a router that FastAPI included, that router's routes in full."""
    if getattr(route, "path", None) is not None:
        return (route,)
    fastapi_routing = sys.modules.get("fastapi.routing")  # not imported for those who do without
    resolve: Callable[[Any], Iterable[Any]] | None = getattr(
        fastapi_routing, "iter_route_contexts", None
    )
    return resolve([route]) if resolve else (route,)


def _node(route: Any, above: str, problems: list[Exception], seen: tuple[int, ...]) -> RouteNode:
    path, host = getattr(route, "path", None), getattr(route, "host", None)
    if path is not None and getattr(route, "endpoint", None) is not None:
        return _leaf(route, path, above)
    app = getattr(route, "app", None)
    template = above + ("" if path is None else compile_path(path)[1])
    routes = getattr(route, "routes", None) or getattr(find_router(app), "routes", None) or ()
    # A router that is mounted in itself has no end, so it is opaque there.
    inner = () if id(routes) in seen else tuple(_read(routes, template, problems, seen))
    place = RouteNode(app, template + OPAQUE, children=inner, is_host=host is not None)
    if host is not None:
        return place._replace(pattern=compile_path(host)[0])
    return place if path is None else place._replace(**_path_fields(path, "(?=/)"))


def _leaf(route: Any, path: str, above: str) -> RouteNode:
    original = getattr(route, "original_route", route)
    kinds = _ALL_SCOPE_TYPES
    if isinstance(original, WebSocketRoute):
        kinds = ("websocket",)
    elif isinstance(original, Route):
        kinds = ("http",)
    methods = frozenset(getattr(route, "methods", None) or ())
    template = above + compile_path(path)[1]
    return RouteNode(route.endpoint, template, kinds, methods, **_path_fields(path, "$"))


def _path_fields(path: str, end: str) -> dict[str, Any]:
    """Those fields of a place that tell which paths fit `path`."""
    regex, template, convertors = compile_path(path)
    pattern = re.compile(regex.pattern.removesuffix("$") + end)
    crossing = sum(not isinstance(each, _WITHIN_SEGMENT) for each in convertors.values())
    beside = max(segment.count("{") for segment in template.split("/"))
    parameters = max(1, crossing) + max(0, beside - 1)
    longest = sys.maxsize if parameters == 1 else int(_MAX_MATCH_STEPS ** (1 / parameters))
    return {"pattern": pattern, "literal": path.partition("{")[0], "max_chars": longest}

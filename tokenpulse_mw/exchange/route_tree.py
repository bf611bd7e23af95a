"""Tree of an application's routes, matched in the order of a router.

The tree is read from public attributes, once for each router. It is not used for requests that
a known endpoint handled.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from starlette.convertors import FloatConvertor, IntegerConvertor, StringConvertor, UUIDConvertor
from starlette.routing import Route, WebSocketRoute, compile_path

from .route_group import RouteGroup

OPAQUE = "/{path}"

_MAX_MIDDLEWARES = 100  # around a router
# A pattern in which several parameters can match the same characters takes quadratic time or
# worse. Longer paths are not matched against the route of such a pattern.
_MAX_MATCH_STEPS = 512**2
_MATCHES_NOTHING = re.compile("(?!)")
_ALL_SCOPE_TYPES: tuple[str, ...] = ("http", "websocket")
_WITHIN_SEGMENT = (StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor)


class RouteNode(NamedTuple):
    """A route, or a mount or host with its routes.

    Attributes:
        endpoint: The object that a router stores in the scope for it.
        template: Template of the whole path; that of a mount or host ends with `OPAQUE`.
        scope_types: Types of scopes that it handles.
        methods: Methods that it handles; empty if it handles all.
        pattern: Pattern of the path below the mount, or of the host.
        literal: Prefix of every path that matches.
        max_chars: Length of the longest path that is matched.
        children: Routes of a mount or host, those that can be read; None for a route.
        is_host: True if it is matched by the host and not by the path.
    """

    endpoint: Any
    template: str
    scope_types: tuple[str, ...] = _ALL_SCOPE_TYPES
    methods: frozenset[str] = frozenset()
    pattern: re.Pattern[str] = _MATCHES_NOTHING
    literal: str = ""
    max_chars: int = sys.maxsize
    children: tuple[RouteNode, ...] | None = None
    is_host: bool = False

    @property
    def is_readable(self) -> bool:
        """Return True if the requests that it matches are known."""
        return self.pattern is not _MATCHES_NOTHING


class RouteQuery(NamedTuple):
    """The parts of a request that select a route, except the path; `host` None matches any."""

    scope_type: str
    method: str
    host: str | None


def find_router(app: Any) -> Any | None:
    """Return the first object with `routes` along the `app` attributes of `app`, or None."""
    for _ in range(_MAX_MIDDLEWARES):
        if app is None or hasattr(app, "routes"):
            return app
        app = getattr(app, "app", None)
    return None


def read_routes(routes: Iterable[Any], problems: list[Exception]) -> tuple[RouteNode, ...]:
    """Return the tree of `routes`; errors of routes that cannot be read go to `problems`."""
    return tuple(_read(routes, "", problems, ()))


def walk(nodes: Iterable[RouteNode]) -> Iterator[RouteNode]:
    """Yield `nodes` and all nodes below them."""
    for node in nodes:
        yield node
        yield from walk(node.children or ())


def match(nodes: Iterable[RouteNode], query: RouteQuery, path: str) -> str | None:
    """Return the template of the route that a router chooses for `path`, or None.

    Like a router, choose the first route that matches path and method, else the first that
    matches the path. Once a mount matches, only its routes are tried.
    """
    other_method: str | None = None
    for node in nodes:
        # Three times faster than the call and the match, and excludes nearly all other routes.
        if not path.startswith(node.literal):
            continue
        rest = _rest(node, query, path)
        if rest is None:
            continue
        if node.children is not None:
            return match(node.children, query, rest) or node.template
        if not node.methods or query.method in node.methods:
            return node.template
        other_method = other_method or node.template
    return other_method


def _rest(node: RouteNode, query: RouteQuery, path: str) -> str | None:
    """Return the part of `path` below `node`, or None if `node` does not match."""
    if query.scope_type not in node.scope_types or len(path) > node.max_chars:
        return None
    if node.is_host:
        return path if query.host is None or node.pattern.match(query.host) else None
    match = node.pattern.match(path)
    return path[match.end() :] if match else None


def _read(
    routes: Iterable[Any], above: str, problems: list[Exception], seen: tuple[int, ...]
) -> Iterator[RouteNode]:
    for route in routes:
        try:
            for resolved in _resolve(route):
                yield _node(resolved, above, problems, (*seen, id(routes)))
        except Exception as error:  # noqa: BLE001 - a third-party route may raise anything
            problems.append(error)


def _resolve(route: Any) -> Iterable[Any]:
    """Return `route`, or the routes of a group or of a router that FastAPI included."""
    if isinstance(route, RouteGroup):
        return route.routes
    if getattr(route, "path", None) is not None:
        return (route,)
    fastapi_routing = sys.modules.get("fastapi.routing")  # FastAPI is optional
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
    # A router mounted in itself would be endless, so the inner mount is opaque.
    children = () if id(routes) in seen else tuple(_read(routes, template, problems, seen))
    node = RouteNode(app, template + OPAQUE, children=children, is_host=host is not None)
    if host is not None:
        return node._replace(pattern=compile_path(host)[0])
    return node if path is None else node._replace(**_path_fields(path, "(?=/)"))


def _leaf(route: Any, path: str, above: str) -> RouteNode:
    original = getattr(route, "original_route", route)
    scope_types = _ALL_SCOPE_TYPES
    if isinstance(original, WebSocketRoute):
        scope_types = ("websocket",)
    elif isinstance(original, Route):
        scope_types = ("http",)
    methods = frozenset(getattr(route, "methods", None) or ())
    template = above + compile_path(path)[1]
    return RouteNode(route.endpoint, template, scope_types, methods, **_path_fields(path, "$"))


def _path_fields(path: str, end: str) -> dict[str, Any]:
    """Return the fields of a node that determine which paths match the template `path`."""
    regex, template, convertors = compile_path(path)
    pattern = re.compile(regex.pattern.removesuffix("$") + end)
    crossing = sum(not isinstance(kind, _WITHIN_SEGMENT) for kind in convertors.values())
    in_segment = max(segment.count("{") for segment in template.split("/"))
    parameters = max(1, crossing) + max(0, in_segment - 1)
    max_chars = sys.maxsize if parameters == 1 else int(_MAX_MATCH_STEPS ** (1 / parameters))
    return {"pattern": pattern, "literal": path.partition("{")[0], "max_chars": max_chars}

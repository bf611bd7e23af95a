"""Tree of an application's routes, in the order of a router.

The tree is read from public attributes, once for each router. Patterns that the routes have
compiled are used; others are compiled when a path is first compared with them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.convertors import (
    Convertor,
    FloatConvertor,
    IntegerConvertor,
    StringConvertor,
    UUIDConvertor,
)
from starlette.routing import PARAM_REGEX, Route, WebSocketRoute, compile_path

from .route_group import RouteGroup

OPAQUE = "/{path}"

_MAX_MIDDLEWARES = 100  # around a router
# A pattern in which several parameters can match the same characters takes quadratic time or
# worse. Longer paths are not matched against the route of such a pattern.
_MAX_MATCH_STEPS = 512**2
_MATCHES_NOTHING = re.compile("(?!)")
_ALL_SCOPE_TYPES: tuple[str, ...] = ("http", "websocket")
_HTTP, _WEBSOCKET = ("http",), ("websocket",)
_WITHIN_SEGMENT = frozenset(
    kind.regex for kind in (StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor)
)
_BELOW_MOUNT = "/(?P<path>.*)$"  # end of the pattern of a mount

_Pattern = re.Pattern[str] | str
_Convertors = Mapping[str, Convertor[Any]]


@dataclass(slots=True, kw_only=True)
class RouteNode:
    """A route, or a mount or host with its routes.

    Attributes:
        endpoint: The object that a router stores in the scope for it.
        template: Template of the whole path; that of a mount or host ends with `OPAQUE`.
        scope_types: Types of scopes that it handles.
        methods: Methods that it handles; empty if it handles all.
        pattern: Pattern of the path below the mount, or of the host; text if it is not compiled.
        path: Template of the path below the mount.
        crossing: Names of the parameters in `path` that can match a slash.
        max_chars: Length of the longest path that is matched.
        children: Routes of a mount or host, those that can be read; None for a route.
        is_host: True if it is matched by the host and not by the path.
    """

    endpoint: Any
    template: str
    scope_types: tuple[str, ...] = _ALL_SCOPE_TYPES
    methods: frozenset[str] = frozenset()
    pattern: _Pattern = _MATCHES_NOTHING
    path: str = ""
    crossing: tuple[str, ...] = ()
    max_chars: int = sys.maxsize
    children: tuple[RouteNode, ...] | None = None
    is_host: bool = False

    @property
    def is_readable(self) -> bool:
        """Return True if the requests that it matches are known."""
        return self.pattern is not _MATCHES_NOTHING

    def match(self, text: str) -> re.Match[str] | None:
        """Match the beginning of a path, or a host."""
        pattern = self.pattern
        if isinstance(pattern, str):
            pattern = self.pattern = re.compile(pattern)
        return pattern.match(text)


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
        if node.children:
            yield from walk(node.children)


def _read(
    routes: Iterable[Any], above: str, problems: list[Exception], seen: tuple[int, ...]
) -> Iterator[RouteNode]:
    seen = (*seen, id(routes))
    for route in routes:
        try:
            for resolved in _resolve(route):
                yield _node(resolved, above, problems, seen)
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
    pattern, path, convertors = _mount_path(route, path)
    template = above + path
    routes = getattr(route, "routes", None) or getattr(find_router(app), "routes", None) or ()
    # A router mounted in itself would be endless, so the inner mount is opaque.
    children = () if id(routes) in seen else tuple(_read(routes, template, problems, seen))
    if host is not None:
        pattern = _host_pattern(route, host)
    crossing = _crossing(convertors)
    return RouteNode(
        endpoint=app,
        template=template + OPAQUE,
        pattern=pattern,
        path=path,
        crossing=crossing,
        max_chars=_max_chars(path, convertors, crossing),
        children=children,
        is_host=host is not None,
    )


def _leaf(route: Any, path: str, above: str) -> RouteNode:
    original = getattr(route, "original_route", route)
    scope_types = _ALL_SCOPE_TYPES
    if isinstance(original, WebSocketRoute):
        scope_types = _WEBSOCKET
    elif isinstance(original, Route):
        scope_types = _HTTP
    pattern, path, convertors = _route_path(route, path)
    crossing = _crossing(convertors)
    return RouteNode(
        endpoint=route.endpoint,
        template=above + path,
        scope_types=scope_types,
        methods=frozenset(getattr(route, "methods", None) or ()),
        pattern=pattern,
        path=path,
        crossing=crossing,
        max_chars=_max_chars(path, convertors, crossing),
    )


def _route_path(route: Any, path: str) -> tuple[_Pattern, str, _Convertors]:
    """Return pattern, template and convertors of a route with this path."""
    if _is_compiled(route, path):
        return route.path_regex, route.path_format, route.param_convertors
    return compile_path(path)


def _mount_path(route: Any, path: str | None) -> tuple[_Pattern, str, _Convertors]:
    """Return pattern, template and convertors of a mount with this path; None matches nothing."""
    if path is None:
        return _MATCHES_NOTHING, "", {}
    if _is_compiled(route, path, OPAQUE):
        regex, template = route.path_regex, route.path_format.removesuffix(OPAQUE)
        convertors = {**route.param_convertors}
        del convertors["path"]
    else:
        regex, template, convertors = compile_path(path)
    # Compiling takes most of the time to read a mount, so it is left to the first match.
    text = regex.pattern.removesuffix(_BELOW_MOUNT).removesuffix("$")
    return text + "(?=/)", template, convertors


def _is_compiled(route: Any, path: object, below: str = "") -> bool:
    """Return True if `route` has the pattern of `path`, as routes of Starlette and FastAPI do."""
    if not isinstance(path, str) or not isinstance(getattr(route, "path_regex", None), re.Pattern):
        return False
    template = PARAM_REGEX.sub(r"{\1}", path) if ":" in path else path
    return getattr(route, "path_format", None) == template + below


def _host_pattern(route: Any, host: str) -> re.Pattern[str]:
    compiled = getattr(route, "host_regex", None)
    return compiled if isinstance(compiled, re.Pattern) else compile_path(host)[0]


def _crossing(convertors: _Convertors) -> tuple[str, ...]:
    """Return the names of the parameters that can match a slash."""
    return tuple([name for name, kind in convertors.items() if kind.regex not in _WITHIN_SEGMENT])


def _max_chars(template: str, convertors: _Convertors, crossing: tuple[str, ...]) -> int:
    """Return the length of the longest path that is matched with a route."""
    if len(convertors) < 2:
        return sys.maxsize
    in_segment = max(segment.count("{") for segment in template.split("/"))
    parameters = max(1, len(crossing)) + max(0, in_segment - 1)
    return sys.maxsize if parameters == 1 else int(_MAX_MATCH_STEPS ** (1 / parameters))

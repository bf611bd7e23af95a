"""The template of the route that answered, told from the application's own routes.

Routers leave the endpoint they chose in the scope; an index from endpoint to full template, made
once from the public route tree, turns it into a label with no second matching. Requests that
were answered before a router saw them are matched once, behind a bounded cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachetools import LRUCache
from starlette.types import Scope

from .route_tree import OPAQUE, RouteNode, RouteQuery, find_router, match, read_routes, walk
from .scope import without_root

UNMATCHED = "__unmatched__"


_MAX_ROUTERS = 256  # behind one middleware


class RouteTemplates:
    """Tells the template for any request that passed a middleware.

    Args:
        app: What the middleware wraps; its router is looked for along `app` attributes, so that
            a request which no router saw can still be told.
    """

    def __init__(self, app: Any) -> None:
        app = find_router(app)
        self._router = getattr(app, "router", app)  # which is what the scope will hold
        self._root: str = getattr(app, "root_path", "")
        self._indexes: dict[int, RouteIndex] = {}
        self._is_full = False
        self._usual: Any = None  # the router that came first, and usually the only one
        self._by_endpoint: dict[int, str] = {}

    def __call__(self, scope: Scope) -> str:
        """The template of the route that answered, or would have; of a WebSocket its handshake's.

        Raises:
            Exception: Some of the routes cannot be read. It is raised once for a router; from
                then on, requests for those routes are `__unmatched__`.
        """
        if "router" not in scope:
            if self._router is None:  # an application without routes, which answers every path
                return OPAQUE
        elif scope["router"] is self._usual:
            try:
                return self._by_endpoint[id(scope["endpoint"])]
            except KeyError:
                pass
        return self._look_up(scope)

    def _look_up(self, scope: Scope) -> str:
        router = scope.get("router", self._router)
        index = self._indexes.get(id(router)) or self._index(router)
        return (index and index.template(scope, self._path(scope))) or UNMATCHED

    def _index(self, router: Any) -> RouteIndex | None:
        if len(self._indexes) >= _MAX_ROUTERS:
            if self._is_full:
                return None
            self._is_full = True
            raise RuntimeError(f"there are more than {_MAX_ROUTERS} routers: no more are read")
        index = self._indexes[id(router)] = RouteIndex(router)
        if self._usual is None:
            self._usual, self._by_endpoint = router, index.by_endpoint
        if index.problems:
            raise index.problems[0]
        return index

    def _path(self, scope: Scope) -> str:
        """The path that the outermost router is asked for."""
        # A mount below us has added itself to root_path, and kept the original.
        root: str = scope.get("app_root_path", scope.get("root_path", ""))
        if not root:  # FastAPI has one of its own, and a request may not have come so far
            root = self._root
        path: str = scope["path"]
        return without_root(path, root) if root else path


def has_route(routes: Iterable[Any], path: str) -> bool:
    """Whether one of `routes` is there for GET on just this path, or is mounted on or above it.

    A catch-all is there for no path in particular, nor is what serves one host alone.
    """
    return any(_has_route(place, path) for place in read_routes(routes, []))


def _has_route(place: RouteNode, path: str) -> bool:
    if place.is_host or "http" not in place.scope_types:
        return False
    if place.children is None:
        return place.template == path and (not place.methods or "GET" in place.methods)
    prefix = place.template.removesuffix(OPAQUE)
    above = prefix and not place.children and path.startswith(prefix + "/")
    return prefix == path or above or any(_has_route(each, path) for each in place.children)


_CACHED_MATCHES = 1024


_MAX_CACHED_CHARS = 512  # characters; what is longer is matched without being remembered


_MAX_UNKNOWN_ENDPOINTS = 64  # endpoints that no route has; bounds what endless new ones cost


class RouteIndex:
    """Templates of one router's routes, by endpoint and by path.

    Args:
        router: Anything with `routes`: a Starlette or FastAPI application, or a router.

    Attributes:
        by_endpoint: The template for the id of each endpoint that alone tells it.
        problems: Why some of the routes could not be read.
    """

    def __init__(self, router: Any) -> None:
        self.router = router
        self.by_endpoint: dict[int, str] = {}
        self.problems: list[Exception] = []
        # Endpoints are kept, since an id is good while they live. Where one has several routes,
        # or is an application with routes of its own, the path must tell.
        self._endpoints: dict[int, RouteNode] = {}
        self._unknown: dict[int, Any] = {}
        self._matches: LRUCache[tuple[str, str, str | None, str], str] = LRUCache(_CACHED_MATCHES)
        self._read()

    def template(self, scope: Scope, path: str) -> str:
        """The template for a request that the router may have seen; empty where none matches."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # The router leaves itself in the scope: having seen the request, it found no route.
            return "" if "router" in scope else self._match(scope, path)
        if not self._knows(endpoint):
            return _fastapi_template(scope) or self._match(scope, path)
        return self.by_endpoint.get(id(endpoint)) or self._match(scope, path)

    def _knows(self, endpoint: Any) -> bool:
        key, unknown = id(endpoint), self._unknown
        if (
            key not in self._endpoints
            and key not in unknown
            and len(unknown) < _MAX_UNKNOWN_ENDPOINTS
        ):
            self._read()  # routes may have been added
            if key not in self._endpoints:
                unknown[key] = endpoint
        return key in self._endpoints

    def _read(self) -> None:
        self._nodes: tuple[RouteNode, ...] = ()
        self.problems.clear()
        try:
            self._nodes = read_routes(self.router.routes, self.problems)
        except Exception as error:  # noqa: BLE001 - a router can be of anyone's making
            self.problems.append(error)
        for known in (self._endpoints, self.by_endpoint, self._matches):
            known.clear()
        for place in walk(self._nodes):
            key = id(place.endpoint)
            first = self._endpoints.setdefault(key, place)
            if first is place and not place.children:
                self.by_endpoint[key] = place.template
            elif first.template != place.template:
                self.by_endpoint.pop(key, None)
        self._has_hosts = any(place.is_host for place in walk(self._nodes))

    def _match(self, scope: Scope, path: str) -> str:
        host = _host(scope) if self._has_hosts else ""
        key = (scope.get("type", "http"), scope.get("method", "GET"), host, path)
        found = self._matches.get(key)
        if found is None:
            found = match(self._nodes, RouteQuery(*key[:3]), path) or ""
            if sum(len(each or "") for each in key) <= _MAX_CACHED_CHARS:
                self._matches[key] = found
        return found


def _host(scope: Scope) -> str | None:
    """The name of the host that is asked, without its port."""
    if "headers" not in scope:
        return None
    named = (value for name, value in scope["headers"] if name == b"host")
    host: str = next(named, b"").decode("latin-1").lower()
    return host if host.endswith("]") else host.partition(":")[0]


def _fastapi_template(scope: Scope) -> str | None:
    """What FastAPI notes of an included route, in places that are private and may change."""
    told = scope.get("fastapi")
    context = told.get("effective_route_context") if isinstance(told, dict) else None
    template = getattr(context, "path_format", None)
    if not template or not isinstance(template, str) or "app_root_path" in scope:
        return None  # below a mount its prefix would be missing
    return template if getattr(context, "original_route", None) is scope.get("route") else None

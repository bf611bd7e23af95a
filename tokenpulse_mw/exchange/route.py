"""Templates of routes, looked up by the endpoint that the router stored in the scope.

An index from endpoint to full template is built once from the application's public routes, when
the application has started or else at the first request, so that nothing is matched twice. A
request rejected before the router is matched here, and the result is cached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cachetools import LRUCache
from starlette.types import Scope

from .route_table import RouteQuery, RouteTable
from .route_tree import OPAQUE, RouteNode, find_router, read_routes, walk
from .scope import request_headers, without_root

UNMATCHED = "__unmatched__"

_MAX_ROUTERS = 256  # behind one middleware
_MAX_UNKNOWN_ENDPOINTS = 64  # endpoints without a route, each of which causes a new index
_MAX_CACHED_MATCHES = 1024
_MAX_CACHED_CHARS = 512  # a longer request is matched but not cached


class RouteTemplates:
    """Resolves the template of the route of a request.

    Args:
        app: The application that the middleware wraps. Its router is found by following `app`
            attributes; a request that no router has processed is matched against it.
    """

    def __init__(self, app: Any) -> None:
        app = find_router(app)
        self._router = getattr(app, "router", app)  # the object that the scope will hold
        self._root: str = getattr(app, "root_path", "")
        self._indexes: dict[int, RouteIndex] = {}
        self._is_full = False
        self._main_router: Any = None  # the first router, and usually the only one
        self._by_endpoint: dict[int, str] = {}

    def __call__(self, scope: Scope) -> str:
        """Return the template of the route that handled the request, or would have.

        Raises:
            Exception: Some of the routes cannot be read. Raised once for each router; after
                that, requests for those routes are `__unmatched__`.
        """
        if "router" not in scope:
            if self._router is None:  # an application without routes handles every path
                return OPAQUE
        elif scope["router"] is self._main_router:
            try:
                return self._by_endpoint[id(scope["endpoint"])]
            except KeyError:
                pass
        return self._look_up(scope)

    def prepare(self) -> None:
        """Read the routes of the application before the first request.

        Raises:
            Exception: Some of the routes cannot be read; it is not raised again.
        """
        router = self._router
        if router is not None and id(router) not in self._indexes:
            index = self._index(router)
            if index is not None:
                index.table()

    def _look_up(self, scope: Scope) -> str:
        router = scope.get("router", self._router)
        index = self._indexes.get(id(router)) or self._index(router)
        return (index and index.template(scope, self._path(scope))) or UNMATCHED

    def _index(self, router: Any) -> RouteIndex | None:
        if len(self._indexes) >= _MAX_ROUTERS:
            if self._is_full:
                return None
            self._is_full = True
            raise RuntimeError(
                f"more than {_MAX_ROUTERS} routers: routes of others are __unmatched__"
            )
        index = self._indexes[id(router)] = RouteIndex(router)
        if self._main_router is None:
            self._main_router, self._by_endpoint = router, index.by_endpoint
        if index.problems:
            raise index.problems[0]
        return index

    def _path(self, scope: Scope) -> str:
        """Return the path that the outermost router matches."""
        # A mount has extended root_path, and stored the original as app_root_path.
        root: str = scope.get("app_root_path", scope.get("root_path", ""))
        if not root:  # FastAPI sets its root_path only if the request reaches it
            root = self._root
        path: str = scope["path"]
        return without_root(path, root) if root else path


def has_route(routes: Iterable[Any], path: str) -> bool:
    """Return True if one of `routes` handles GET for `path`, or is a mount at or above it.

    Catch-all routes and routes of one host are ignored.
    """
    return any(_has_route(node, path) for node in read_routes(routes, []))


def _has_route(node: RouteNode, path: str) -> bool:
    if node.is_host or "http" not in node.scope_types:
        return False
    if node.children is None:
        return node.template == path and (not node.methods or "GET" in node.methods)
    prefix = node.template.removesuffix(OPAQUE)
    above = prefix and not node.children and path.startswith(prefix + "/")
    return prefix == path or above or any(_has_route(child, path) for child in node.children)


def exact_reads(routes: Iterable[Any], paths: Iterable[str]) -> frozenset[tuple[str, str]]:
    """Return the methods, GET or HEAD, and `paths` for which a router chooses an exact route.

    An exact route is declared with this path, without parameters. Empty if some route cannot be
    read, or depends on the host, because it could take the request.
    """
    problems: list[Exception] = []
    nodes = read_routes(routes, problems)
    if problems or any(node.is_host or not node.is_readable for node in walk(nodes)):
        return frozenset()
    table = RouteTable(nodes)
    return frozenset(
        (method, path)
        for path in paths
        for method in ("GET", "HEAD")
        if table.match(RouteQuery("http", method, None), path) == path
    )


class RouteIndex:
    """Templates of one router's routes, by endpoint and by path.

    Args:
        router: An object with `routes`: a Starlette or FastAPI application, or a router.

    Attributes:
        by_endpoint: Template by id of the endpoint, for endpoints with a single template.
        problems: Errors of routes that could not be read.
    """

    def __init__(self, router: Any) -> None:
        self.router = router
        self.by_endpoint: dict[int, str] = {}
        self.problems: list[Exception] = []
        # Keeps the endpoints alive, so that their ids stay unique. If an endpoint has several
        # routes, or is an application with routes, the path is matched.
        self._endpoints: dict[int, RouteNode] = {}
        self._unknown: dict[int, Any] = {}
        self._table: RouteTable | None = None  # built when a path is matched
        self._matches: LRUCache[tuple[str, str, str | None, str], str] = LRUCache(
            _MAX_CACHED_MATCHES
        )
        self._read()

    def table(self) -> RouteTable:
        """Return the table of the routes by path."""
        if self._table is None:
            self._table = RouteTable(self._nodes)
        return self._table

    def template(self, scope: Scope, path: str) -> str:
        """Return the template for a request; empty if no route matches."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # A router that found no route has stored only itself in the scope.
            return "" if "router" in scope else self._match(scope, path)
        if not self._is_indexed(endpoint):
            return _fastapi_template(scope) or self._match(scope, path)
        return self.by_endpoint.get(id(endpoint)) or self._match(scope, path)

    def _is_indexed(self, endpoint: Any) -> bool:
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
        self._table = None
        self.problems.clear()
        try:
            self._nodes = read_routes(self.router.routes, self.problems)
        except Exception as error:  # noqa: BLE001 - a third-party router may raise anything
            self.problems.append(error)
        self._has_hosts = False
        for index in (self._endpoints, self.by_endpoint, self._matches):
            index.clear()
        for node in walk(self._nodes):
            self._has_hosts |= node.is_host
            key = id(node.endpoint)
            first = self._endpoints.setdefault(key, node)
            if first is node and not node.children:
                self.by_endpoint[key] = node.template
            elif first.template != node.template:
                self.by_endpoint.pop(key, None)

    def _match(self, scope: Scope, path: str) -> str:
        host = _host(scope) if self._has_hosts else ""
        key = (scope.get("type", "http"), scope.get("method", "GET"), host, path)
        template = self._matches.get(key)
        if template is None:
            template = self.table().match(RouteQuery(*key[:3]), path) or ""
            if sum(len(part or "") for part in key) <= _MAX_CACHED_CHARS:
                self._matches[key] = template
        return template


def _host(scope: Scope) -> str | None:
    """Return the host of the request without its port; None if the scope has no headers."""
    if "headers" not in scope:
        return None
    values = (value for name, value in request_headers(scope) if name == b"host")
    host: str = next(values, b"").decode("latin-1").lower()
    return host if host.endswith("]") else host.partition(":")[0]


def _fastapi_template(scope: Scope) -> str | None:
    """Return the template of an included route from private values of FastAPI, or None."""
    private = scope.get("fastapi")
    context = private.get("effective_route_context") if isinstance(private, dict) else None
    template = getattr(context, "path_format", None)
    if not template or not isinstance(template, str) or "app_root_path" in scope:
        return None  # the prefix of a mount would be missing
    return template if getattr(context, "original_route", None) is scope.get("route") else None

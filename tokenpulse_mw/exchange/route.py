"""The template of the route that answered, told from the application's own routes.

Routers leave the endpoint they chose in the scope; an index from endpoint to full template, made
once from the public route tree, turns it into a label with no second matching. Requests that
were answered before a router saw them are matched once, behind a bounded cache.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from starlette.types import Scope

from .path import without_root
from .route_index import RouteIndex
from .tree import OPAQUE, Place, find_router, read

UNMATCHED = "__unmatched__"

_MOST_ROUTERS = 256  # behind one middleware


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
        if len(self._indexes) >= _MOST_ROUTERS:
            if self._is_full:
                return None
            self._is_full = True
            raise RuntimeError(f"there are more than {_MOST_ROUTERS} routers: no more are read")
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


def serves(routes: Iterable[Any], path: str) -> bool:
    """Whether one of `routes` is there for GET on just this path, or is mounted on or above it.

    A catch-all is there for no path in particular, nor is what serves one host alone.
    """
    return any(_serves(place, path) for place in read(routes, []))


def _serves(place: Place, path: str) -> bool:
    if place.is_host or "http" not in place.kinds:
        return False
    if place.inner is None:
        return place.template == path and (not place.methods or "GET" in place.methods)
    prefix = place.template.removesuffix(OPAQUE)
    above = prefix and not place.inner and path.startswith(prefix + "/")
    return prefix == path or above or any(_serves(each, path) for each in place.inner)

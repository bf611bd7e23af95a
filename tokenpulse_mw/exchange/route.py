"""The template of the route that answered, told from the application's own routes.

Routers leave the endpoint they chose in the scope; an index from endpoint to full template, made
once from the public route tree, turns it into a label with no second matching. Requests that
were answered before a router saw them are matched once, behind a bounded cache.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cachetools import LRUCache
from starlette.routing import Host, WebSocketRoute, compile_path
from starlette.types import Scope

from .path import without_root

UNMATCHED = "__unmatched__"
OPAQUE = "/{path}"

_CACHED_MATCHES = 1024
_LONGEST_PATH = 512  # characters; a longer path is matched without being remembered
_MOST_ROUTERS = 16  # behind one middleware
_LONGEST_CHAIN = 100  # middlewares around a router
_MOST_REBUILDS = 64  # for routes that were added later; bounds what endless new endpoints cost


class _Candidate(NamedTuple):
    endpoint: Any
    template: str
    pattern: str
    methods: Iterable[str] = ()
    is_mount: bool = False


class RouteTemplates:
    """Tells the template for any request that passed a middleware.

    Args:
        app: What the middleware wraps; its router is looked for along `app` attributes, so that
            a request which no router saw can still be told.
    """

    def __init__(self, app: Any) -> None:
        self._router = _find_router(app)
        self._indexes: dict[int, RouteIndex | None] = {}

    def __call__(self, scope: Scope) -> str:
        """The template of the route that answered, or would have.

        Raises:
            Exception: The router's routes cannot be read. It is raised once for a router, whose
                requests are `__unmatched__` from then on.
        """
        router = scope.get("router", self._router)
        if router is None:  # an application without routes, which answers every path itself
            return OPAQUE
        key = id(router)
        if key not in self._indexes and len(self._indexes) < _MOST_ROUTERS:
            self._indexes[key] = None
            self._indexes[key] = RouteIndex(router)
        index = self._indexes.get(key)
        return index.template(scope) if index else UNMATCHED


class RouteIndex:
    """Templates of one router's routes, by endpoint and by path.

    Args:
        router: Anything with `routes`: a Starlette or FastAPI application, or a router.
    """

    def __init__(self, router: Any) -> None:
        self.router = router
        self._rebuilds = -1
        self._matches: LRUCache[tuple[str, str], str] = LRUCache(_CACHED_MATCHES)
        self._build()

    def template(self, scope: Scope) -> str:
        """The template for a request that the router may have seen."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # The router leaves itself in the scope: having seen the request, it found no route.
            return UNMATCHED if "router" in scope else self._match(scope)
        found = self._by_endpoint.get(id(endpoint))
        if found is None and self._rebuilds < _MOST_REBUILDS:
            self._build()
            found = self._by_endpoint.get(id(endpoint))
        if found is None:
            return getattr(scope.get("route"), "path_format", UNMATCHED)
        return found[1] or self._match(scope)

    def _build(self) -> None:
        self._rebuilds += 1
        # The endpoint is kept beside its template, since an id is only good while it lives.
        # A template of None: several routes share the endpoint, and the path must tell.
        self._by_endpoint: dict[int, tuple[Any, str | None]] = {}
        candidates = list(_candidates(self.router.routes, "", ""))
        for endpoint, template, *_ in candidates:
            _, known = self._by_endpoint.get(id(endpoint), (endpoint, template))
            self._by_endpoint[id(endpoint)] = (endpoint, template if known == template else None)
        self._pattern, self._templates = _combined(candidates)
        self._matches.clear()

    def _match(self, scope: Scope) -> str:
        # A mount below us has added itself to root_path, and kept the original.
        root = scope.get("app_root_path", scope.get("root_path", ""))
        key = (scope["method"], without_root(scope["path"], root) if root else scope["path"])
        found = self._matches.get(key)
        if found is None:
            match = self._pattern.fullmatch(" ".join(key))
            # The branch's own group is closed last, whatever groups a convertor has.
            marker = match.lastgroup if match else None
            found = self._templates[int(marker[1:])] if marker else UNMATCHED
            if len(key[1]) <= _LONGEST_PATH and len(key[0]) <= _LONGEST_PATH:
                self._matches[key] = found
        return found


def serves(routes: Iterable[Any], path: str) -> bool:
    """Whether one of `routes` is there for GET on just this path, or is mounted on or above it.

    A catch-all is there for no path in particular, nor is what serves one host alone.
    """
    for each in _candidates([each for each in routes if not isinstance(each, Host)], "", ""):
        prefix = each.template.removesuffix(OPAQUE)
        mounted = each.is_mount and prefix and (path + "/").startswith(prefix + "/")
        if mounted or (each.template == path and (not each.methods or "GET" in each.methods)):
            return True
    return False


def _find_router(app: Any) -> Any | None:
    for _ in range(_LONGEST_CHAIN):
        if app is None or hasattr(app, "routes"):
            return app
        app = getattr(app, "app", None)
    return None


def _candidates(routes: Iterable[Any], template: str, pattern: str) -> Iterator[_Candidate]:
    """Every route below `routes` in matching order; a mount comes after what is in it."""
    for route in _flat(routes):
        if isinstance(getattr(route, "original_route", route), WebSocketRoute):
            continue
        path = getattr(route, "path", None)
        inner = getattr(route, "routes", None) or ()
        if path is None:  # Host, and routes of other people's making
            yield from _candidates(inner, template, pattern)
            if (app := getattr(route, "app", None)) is not None:
                yield _Candidate(app, template + OPAQUE, pattern + "/.*")
            continue
        own_pattern, own_template = _compiled(path)
        yield from _candidates(inner, template + own_template, pattern + own_pattern)
        template_here, pattern_here = template + own_template, pattern + own_pattern
        endpoint = getattr(route, "endpoint", None)
        if endpoint is None:
            app = getattr(route, "app", None)
            yield _Candidate(app, template_here + OPAQUE, pattern_here + "/.*", is_mount=not inner)
        else:
            methods = sorted(getattr(route, "methods", None) or ())
            yield _Candidate(endpoint, template_here, pattern_here, methods)


def _flat(routes: Iterable[Any]) -> Iterable[Any]:
    """`routes`, with each router that FastAPI included resolved into routes of full path."""
    fastapi_routing = sys.modules.get("fastapi.routing")  # not imported for those who do without
    resolve: Callable[[Any], Iterable[Any]] | None = getattr(
        fastapi_routing, "iter_route_contexts", None
    )
    return resolve(list(routes)) if resolve else routes


def _compiled(path: str) -> tuple[str, str]:
    """A path's pattern without groups, and its template without convertors."""
    regex, template, _ = compile_path(path)
    pattern = re.sub(r"\(\?P<\w+>", "(?:", regex.pattern)
    return pattern.removeprefix("^").removesuffix("$"), template


def _combined(candidates: list[_Candidate]) -> tuple[re.Pattern[str], list[str]]:
    """One pattern over "METHOD path"; the name of the group that matched tells the template.

    Routes that take the method come first, as in a router; then those that only fit the path.
    """
    wanted = [("|".join(map(re.escape, each.methods)) or "[^ ]+", each) for each in candidates]
    wanted += [("[^ ]+", each) for each in candidates if each.methods]
    branches = [
        f"(?:{methods}) {each.pattern}(?P<t{number}>)"
        for number, (methods, each) in enumerate(wanted)
    ]
    return re.compile("|".join(branches) or r"(?!)"), [each.template for _, each in wanted]

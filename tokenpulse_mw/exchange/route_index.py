"""Which template each endpoint of a router has, and which each path that no router saw."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from .tree import Asked, Place, every, find, read

_CACHED_MATCHES = 1024
_LONGEST_CACHED = 512  # characters; what is longer is matched without being remembered
_MOST_UNKNOWN = 64  # endpoints that no route has; bounds what endless new ones cost


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
        self._kept: dict[int, Place] = {}
        self._unknown: dict[int, Any] = {}
        self._matches: dict[tuple[str, str, str | None, str], str] = {}
        self._read()

    def template(self, scope: Scope, path: str) -> str:
        """The template for a request that the router may have seen; empty where none matches."""
        endpoint = scope.get("endpoint")
        if endpoint is None:
            # The router leaves itself in the scope: having seen the request, it found no route.
            return "" if "router" in scope else self._match(scope, path)
        if not self._knows(endpoint):
            return _told_by_fastapi(scope) or self._match(scope, path)
        return self.by_endpoint.get(id(endpoint)) or self._match(scope, path)

    def _knows(self, endpoint: Any) -> bool:
        key, unknown = id(endpoint), self._unknown
        if key not in self._kept and key not in unknown and len(unknown) < _MOST_UNKNOWN:
            self._read()  # routes may have been added
            if key not in self._kept:
                unknown[key] = endpoint
        return key in self._kept

    def _read(self) -> None:
        self._places: tuple[Place, ...] = ()
        self.problems.clear()
        try:
            self._places = read(self.router.routes, self.problems)
        except Exception as error:  # noqa: BLE001 - a router can be of anyone's making
            self.problems.append(error)
        for known in (self._kept, self.by_endpoint, self._matches):
            known.clear()
        for place in every(self._places):
            key = id(place.endpoint)
            first = self._kept.setdefault(key, place)
            if first is place and not place.inner:
                self.by_endpoint[key] = place.template
            elif first.template != place.template:
                self.by_endpoint.pop(key, None)
        self._has_hosts = any(place.is_host for place in every(self._places))

    def _match(self, scope: Scope, path: str) -> str:
        host = _host(scope) if self._has_hosts else ""
        key = (scope.get("type", "http"), scope.get("method", "GET"), host, path)
        found = self._matches.get(key)
        if found is None:
            found = find(self._places, Asked(*key[:3]), path) or ""
            if sum(len(each or "") for each in key) <= _LONGEST_CACHED:
                if len(self._matches) >= _CACHED_MATCHES:
                    self._matches.clear()  # each that is still in use costs one match more
                self._matches[key] = found
        return found


def _host(scope: Scope) -> str | None:
    """The name of the host that is asked, without its port."""
    if "headers" not in scope:
        return None
    named = (value for name, value in scope["headers"] if name == b"host")
    host: str = next(named, b"").decode("latin-1").lower()
    return host if host.endswith("]") else host.partition(":")[0]


def _told_by_fastapi(scope: Scope) -> str | None:
    """What FastAPI notes of an included route, in places that are private and may change."""
    told = scope.get("fastapi")
    context = told.get("effective_route_context") if isinstance(told, dict) else None
    template = getattr(context, "path_format", None)
    if not template or not isinstance(template, str) or "app_root_path" in scope:
        return None  # below a mount its prefix would be missing
    return template if getattr(context, "original_route", None) is scope.get("route") else None

"""Routes that a router matches in one step."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.routing import Match, Mount, Route
from starlette.types import Receive, Scope, Send

from .scope import app_path


class RouteGroup(Mount):
    """Routes for which a router looks up the path once, instead of matching each route.

    Tools that list the routes of an application find them in a `Mount` without a prefix. Unlike
    a `Mount`, the group leaves all other paths to the routes after it.

    Args:
        routes: Routes in the order of their precedence.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        routes = list(routes)
        super().__init__("", routes=routes)
        self._by_path = {
            path: [route for route in routes if route.path_regex.match(path)]
            for path in {route.path for route in routes if "{" not in route.path}
        }
        self._with_parameters = [route for route in routes if "{" in route.path]
        self._prefixes = tuple({route.path.partition("{")[0] for route in self._with_parameters})

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return the first full match of a route, else the first partial one."""
        path = app_path(scope) if scope.get("root_path") else scope.get("path", "")
        routes = self._by_path.get(path)
        if routes is None:
            if not path.startswith(self._prefixes):
                return Match.NONE, {}
            routes = self._with_parameters
        found: tuple[Match, Scope] = Match.NONE, {}
        for route in routes:
            match, child_scope = route.matches(scope)
            if match.value > found[0].value:
                found = match, {**child_scope, "route": route}
        return found

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request by the route that `matches` has selected."""
        await scope["route"].handle(scope, receive, send)

"""Route of an endpoint of this library in an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class OwnRoute(Route):
    """Route that applications can read and list as they do with those of FastAPI's own pages.

    Its endpoint is a function, its methods are a set, its name does not collide with a name of the
    application, and it is not in the OpenAPI schema of the application.

    Args:
        path: Path of the route.
        endpoint: Async function of the request.
        methods: The methods of the endpoint.
        name: Name of the route, which gets the prefix `tokenpulse:`.
        for_all: Whether the endpoint also answers requests with other methods, so that none of
            them reaches a catch-all route of the application.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        name: str,
        methods: Iterable[str] = ("GET",),
        for_all: bool = False,
    ) -> None:
        super().__init__(
            path,
            endpoint,
            methods=list(methods),
            name=f"tokenpulse:{name}",
            include_in_schema=False,
        )
        self._for_all = for_all

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how the request matches the route."""
        match, child_scope = super().matches(scope)
        if match is Match.PARTIAL and self._for_all:
            match = Match.FULL
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if self._for_all:
            await self.app(scope, receive, send)
        else:
            await super().handle(scope, receive, send)

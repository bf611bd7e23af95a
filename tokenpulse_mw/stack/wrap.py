"""Middlewares that add endpoints and a lifespan to an application without routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ..exchange import app_path
from ..lifespan import run_lifespan


class RoutesBefore:
    """Middleware that serves the endpoints and passes every other path to the application."""

    def __init__(self, app: ASGIApp, *, routes: list[Route]) -> None:
        self.app = app
        self._router = Router(routes, redirect_slashes=False)
        self._paths = {route.path for route in routes}
        prefixes = {route.path.partition("{")[0] for route in routes if "{" in route.path}
        self._prefixes = tuple(prefixes)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request to the endpoints or to the application."""
        if scope["type"] == "http":
            path: str = app_path(scope) if scope.get("root_path") else scope["path"]
            if path in self._paths or path.startswith(self._prefixes):
                return self._router(scope, receive, send)
        return self.app(scope, receive, send)


class WithLifespan:
    """Middleware that runs a lifespan around that of the application."""

    def __init__(
        self, app: ASGIApp, *, lifespan: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self.app = app
        self._lifespan = lifespan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run both lifespans, or pass the request on."""
        if scope["type"] == "lifespan":
            await run_lifespan(self.app, self._lifespan, scope, receive, send)
        else:
            await self.app(scope, receive, send)

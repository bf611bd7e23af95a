"""Endpoints, middlewares, labels and scopes for tests of routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware

from ..support.asgi import http_scope


async def page(request: Request) -> Response:
    """Respond with a text."""
    return PlainTextResponse("here")


async def other(request: Request) -> Response:
    """Respond with another text."""
    return PlainTextResponse("there")


def labels_of(app: Any, *requests: str, **options: Any) -> list[str]:
    """Return the route label of each request "METHOD path" to `app`."""
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False, **options)
    for request in requests:
        method, path = request.split()
        client.request(method, path)
    return [exchange.route for exchange in seen]


class AppEndpoint:
    """An endpoint of a route that runs the ASGI application `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        await self.app(scope, receive, send)


class CopyScope:
    """A middleware that passes a copy of the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with a copy of the scope."""
        await self.app(dict(scope), receive, send)


async def pass_through(
    request: Request, call: Callable[[Request], Awaitable[Response]]
) -> Response:
    """A function middleware that changes nothing."""
    return await call(request)


every_middleware = pytest.mark.parametrize(
    "middleware",
    [
        Middleware(CopyScope),
        Middleware(GZipMiddleware),
        Middleware(BaseHTTPMiddleware, dispatch=pass_through),
    ],
    ids=["copies the scope", "gzip", "base http"],
)


def websocket_scope(path: str) -> Scope:
    """Return the scope of a handshake, which has no method."""
    scope: dict[str, Any] = {**http_scope(path), "type": "websocket"}
    del scope["method"]
    return scope

"""Endpoints and middlewares for tests of routes, and the labels that requests get."""

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


async def page(request: Request) -> Response:
    """An endpoint."""
    return PlainTextResponse("here")


async def other(request: Request) -> Response:
    """Another endpoint."""
    return PlainTextResponse("there")


def labels(app: Any, *requests: str, **options: Any) -> list[str]:
    """The route label of each "METHOD path" asked of `app`."""
    seen: list[Exchange] = []
    app.add_middleware(ExchangeMiddleware, observers=[seen.append])
    client = TestClient(app, raise_server_exceptions=False, follow_redirects=False, **options)
    for request in requests:
        method, path = request.split()
        client.request(method, path)
    return [exchange.route for exchange in seen]


class CopiesScope:
    """A middleware that hands a copy of the scope on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        await self.app(dict(scope), receive, send)


async def passes(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
    """A function middleware that changes nothing."""
    return await call(request)


every_middleware = pytest.mark.parametrize(
    "between",
    [
        Middleware(CopiesScope),
        Middleware(GZipMiddleware),
        Middleware(BaseHTTPMiddleware, dispatch=passes),
    ],
    ids=["copies the scope", "gzip", "base http"],
)

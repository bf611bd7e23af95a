"""Routes are read when the application has started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from tokenpulse_mw import Exchange, ExchangeMiddleware, Settings, TokenPulse

from .routes import page


class ReadRoute(Route):
    """A route that counts how often its endpoint is read."""

    reads = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "endpoint":
            self.reads += 1
        return super().__getattribute__(name)


def measured(app: Starlette) -> ASGIApp:
    """Return `app` in an exchange."""
    return ExchangeMiddleware(app)


def installed(app: Starlette) -> ASGIApp:
    """Return `app` with a TokenPulse."""
    TokenPulse(settings=Settings(), limit="1/day").install(app)
    return app


def wrapped(app: Starlette) -> ASGIApp:
    """Return `app` in a TokenPulse."""
    return TokenPulse(settings=Settings(), limit="1/day").wrap(app)


@pytest.mark.parametrize("around", [measured, installed, wrapped])
def test_requests_after_the_start_read_no_routes(
    around: Callable[[Starlette], ASGIApp],
) -> None:
    """The index exists when the server accepts the first request."""
    route = ReadRoute("/items/{id}", page)
    app = around(Starlette(routes=[route, Route("/other", page)]))

    with TestClient(app) as client:
        before = route.reads
        client.get("/other")
        client.get("/other/rejected/before/the/router")
        after = route.reads

    assert before == after > 0


def test_route_added_in_the_lifespan_of_the_application_is_read() -> None:
    """The routes are read when the application reports that it has started."""
    seen: list[Exchange] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.router.routes.append(Route("/late/{id}", page))
        yield

    async def rejects(request: Request, call: object) -> Response:
        return PlainTextResponse("no", 401)

    app = Starlette(
        lifespan=lifespan,
        middleware=[
            Middleware(ExchangeMiddleware, observers=[seen.append]),
            Middleware(BaseHTTPMiddleware, dispatch=rejects),
        ],
    )

    with TestClient(app) as client:
        client.get("/late/1")

    assert [(exchange.status, exchange.route) for exchange in seen] == [(401, "/late/{id}")]


def test_route_that_cannot_be_read_does_not_stop_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is logged once, at the start, and the other routes have their template."""
    seen: list[Exchange] = []

    class InvalidRoute(Route):
        def __init__(self) -> None:
            super().__init__("/odd", page)
            self.path = 7  # type: ignore[assignment]

    app = Starlette(
        routes=[InvalidRoute(), Route("/even", page)],
        middleware=[Middleware(ExchangeMiddleware, observers=[seen.append])],
    )

    with TestClient(app) as client:
        logged = [record.getMessage().split(":")[0] for record in caplog.records]
        client.get("/even")
        client.get("/odd/before")

    assert logged == ["route failed with AttributeError"]
    assert len(caplog.records) == 1
    assert [exchange.route for exchange in seen] == ["/even", "__unmatched__"]


def test_only_the_outermost_of_stacked_middlewares_reads_the_routes() -> None:
    """Stacked middlewares share one recorder, so the others need no index."""

    def reads(middlewares: int) -> int:
        route = ReadRoute("/items/{id}", page)
        stacked = [Middleware(ExchangeMiddleware)] * middlewares
        with TestClient(Starlette(routes=[route], middleware=stacked)):
            return route.reads

    assert reads(3) == reads(1)


def test_application_without_routes_starts() -> None:
    """An application that has no routes is not read."""
    started = list[str]()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        started.append("app")
        yield

    inner = Starlette(lifespan=lifespan)

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    with TestClient(ExchangeMiddleware(opaque)):
        assert started == ["app"]


def test_second_start_keeps_the_index() -> None:
    """An application that is started again is not read again."""
    route = ReadRoute("/items/{id}", page)
    app = ExchangeMiddleware(Starlette(routes=[route]))

    with TestClient(app):
        first = route.reads
    with TestClient(app):
        assert route.reads == first > 0

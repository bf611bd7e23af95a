"""Messages that an outer layer changes in place, and headers that can be read only once."""

from __future__ import annotations

import json
from collections.abc import Iterable

import anyio
import pytest
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, TokenUsage

from ..support.asgi import drive, http_scope

BODY = {
    "choices": [{"message": {"content": "x" * 600}}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 4},
}


def gateway(response: Response) -> tuple[Starlette, list[Exchange]]:
    """Return an application with an exchange middleware, and the exchanges that it records."""
    exchanges: list[Exchange] = []

    async def chat(request: Request) -> Response:
        return response

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    app.add_middleware(ExchangeMiddleware, observers=[exchanges.append])
    return app, exchanges


def test_response_compressed_by_an_outer_layer_is_metered() -> None:
    """GZipMiddleware replaces the body and the headers in the message itself."""
    app, exchanges = gateway(JSONResponse(BODY))
    app.add_middleware(GZipMiddleware)

    response = TestClient(app).post("/chat", headers={"accept-encoding": "gzip"})

    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == BODY
    (exchange,) = exchanges
    assert (exchange.usage, exchange.usage_source) == (TokenUsage(9, 4), "reported")


def test_error_in_a_response_compressed_by_an_outer_layer_is_found() -> None:
    """The outcome of a 200 with an error in its body is `error`, even if it is compressed."""
    app, exchanges = gateway(JSONResponse({"error": {"message": "x" * 600, "type": "overloaded"}}))
    app.add_middleware(GZipMiddleware)

    TestClient(app).post("/chat", headers={"accept-encoding": "gzip"})

    assert [exchange.outcome for exchange in exchanges] == ["error"]


def test_provider_header_removed_by_an_outer_layer_is_recorded() -> None:
    """A layer that hides `x-tokenpulse-provider` from clients does not hide it from us."""
    app, exchanges = gateway(JSONResponse(BODY, headers={"x-tokenpulse-provider": "claude"}))

    class HideProvider:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def hiding(message: Message) -> None:
                if message["type"] == "http.response.start":
                    del MutableHeaders(scope=message)["x-tokenpulse-provider"]
                await send(message)

            await self.app(scope, receive, hiding)

    app.add_middleware(HideProvider)

    response = TestClient(app).post("/chat")

    assert "x-tokenpulse-provider" not in response.headers
    assert [exchange.provider for exchange in exchanges] == ["claude"]


def test_denial_of_a_websocket_changed_by_an_outer_layer_is_recorded() -> None:
    """The status and the provider of a denied handshake are those of the application."""
    exchanges: list[Exchange] = []

    async def deny(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"x-tokenpulse-provider", b"claude")]
        start = {"type": "websocket.http.response.start", "status": 401, "headers": headers}
        await send(start)
        await send({"type": "websocket.http.response.body", "body": b"no"})

    async def emptying(message: Message) -> None:
        message.pop("status", None)
        message.pop("headers", None)
        message.clear()

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    app = ExchangeMiddleware(deny, observers=[exchanges.append])
    scope = {"type": "websocket", "path": "/ws", "headers": [], "subprotocols": []}
    anyio.run(app, scope, receive, emptying)

    assert [(exchange.status, exchange.provider) for exchange in exchanges] == [(401, "claude")]


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_headers_may_be_any_iterable(kind: type, method: str) -> None:
    """A generator of headers, as Sanic sends, reaches the client and is recorded."""
    exchanges: list[Exchange] = []
    body = json.dumps(BODY).encode()

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        pairs: Iterable[tuple[bytes, bytes]] = kind(
            [(b"content-type", b"application/json"), (b"x-tokenpulse-provider", b"claude")]
        )
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await send({"type": "http.response.body", "body": body})

    app = ExchangeMiddleware(vendor, observers=[exchanges.append])
    answer = anyio.run(drive, app, http_scope("/chat", method=method))

    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-tokenpulse-provider"] == "claude"
    assert [exchange.provider for exchange in exchanges] == ["claude"]
    assert [exchange.usage for exchange in exchanges] == [
        TokenUsage(9, 4) if method == "POST" else None
    ]


@pytest.mark.parametrize("start", [{}, {"status": 200, "headers": None}, {"status": None}])
def test_malformed_start_is_passed_on_unchanged(
    start: Message, caplog: pytest.LogCaptureFixture
) -> None:
    """The server reports what is wrong with a message; recording it does not fail the request."""
    sent: list[Message] = []

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body"})

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise NotImplementedError

    app = ExchangeMiddleware(vendor, observers=[lambda exchange: None])
    anyio.run(app, http_scope("/chat", method="POST"), receive, send)

    assert sent[0] == {"type": "http.response.start", **start}

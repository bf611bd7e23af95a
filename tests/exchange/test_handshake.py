"""A WebSocket's handshake is one exchange; what follows it passes unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    Policy,
    RateLimitMiddleware,
    annotate,
    annotated,
)

ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}
TEXT: Message = {"type": "websocket.send", "text": "hi"}
DENIAL: list[Message] = [
    {"type": "websocket.http.response.start", "status": 401},
    {"type": "websocket.http.response.body", "body": b"who", "more_body": True},
    {"type": "websocket.http.response.body", "body": b"?"},
]


def saying(*messages: Message) -> ASGIApp:
    """An application that sends just these."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


async def connect(
    app: ASGIApp,
    *,
    coming: Iterable[Message] = ({"type": "websocket.connect"},),
    on_send: Callable[[Message], object] = lambda message: None,
) -> list[Message]:
    """Open one WebSocket; gives what the server was sent."""
    sent: list[Message] = []
    left = iter(coming)

    async def receive() -> Message:
        return next(left, {"type": "websocket.disconnect", "code": 1006})

    async def send(message: Message) -> None:
        on_send(message)
        sent.append(message)

    await app({"type": "websocket", "path": "/claude/live", "headers": []}, receive, send)
    return sent


@pytest.mark.parametrize(
    ("messages", "status"),
    [([ACCEPT, TEXT, TEXT, CLOSE], 101), ([CLOSE], 403), (DENIAL, 401)],
    ids=["accepted", "closed", "denied"],
)
@pytest.mark.anyio
async def test_a_handshake_is_one_exchange(messages: list[Message], status: int) -> None:
    """However it is answered; and every message reaches the server as it was sent."""
    seen: list[Exchange] = []

    sent = await connect(ExchangeMiddleware(saying(*messages), observers=[seen.append]))

    assert sent == messages
    assert [(each.method, each.status, each.outcome) for each in seen] == [
        ("GET", status, "complete")
    ]
    assert seen[0].provider == "claude"
    assert (seen[0].usage, seen[0].usage_source) == (None, None)


@pytest.mark.anyio
async def test_a_handshake_ends_where_it_is_accepted() -> None:
    """How long people stay is not how long they waited."""
    seen: list[Exchange] = []
    ended: list[int] = []

    await connect(
        ExchangeMiddleware(saying(ACCEPT, TEXT, CLOSE), observers=[seen.append]),
        on_send=lambda message: ended.append(len(seen)),
    )

    assert ended == [0, 1, 1]


@pytest.mark.anyio
async def test_a_client_that_leaves_before_it_is_answered() -> None:
    """Is one that left before there was a status."""
    seen: list[Exchange] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    await connect(ExchangeMiddleware(waits, observers=[seen.append]))

    assert [(each.status, each.outcome) for each in seen] == [(499, "client_disconnect")]


@pytest.mark.anyio
async def test_a_client_that_is_gone_when_it_is_answered() -> None:
    """The server says so by an OSError, which stays the application's."""
    seen: list[Exchange] = []

    def gone(message: Message) -> None:
        raise OSError("the client has left")

    with pytest.raises(OSError, match="has left"):
        await connect(ExchangeMiddleware(saying(ACCEPT), observers=[seen.append]), on_send=gone)

    assert [(each.status, each.outcome) for each in seen] == [(499, "client_disconnect")]


@pytest.mark.anyio
async def test_an_application_that_fails_before_it_answers() -> None:
    """Is an error of ours, as for HTTP."""
    seen: list[Exchange] = []

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no upstream")

    with pytest.raises(RuntimeError, match="no upstream"):
        await connect(ExchangeMiddleware(fails, observers=[seen.append]))

    assert [(each.status, each.outcome) for each in seen] == [(500, "error")]


@pytest.mark.anyio
async def test_a_message_without_what_it_needs_passes() -> None:
    """It is the server's to complain of; ours is only to be counted."""
    failed: list[str] = []

    class Watcher:
        def __call__(self, exchange: Exchange) -> None:
            """Nothing."""

        def failed(self, component: str) -> None:
            """Note it."""
            failed.append(component)

    broken: Message = {"type": "websocket.http.response.start"}

    sent = await connect(ExchangeMiddleware(saying(broken, CLOSE), observers=[Watcher()]))

    assert sent == [broken, CLOSE]
    assert failed == ["exchange"]


def test_a_handshake_is_counted_by_its_route(metrics: HttpMetrics) -> None:
    """In the same families as requests."""

    async def chat(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hi")
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/{vendor}/live", chat)])
    app.add_middleware(ExchangeMiddleware, observers=[metrics])

    with TestClient(app).websocket_connect("/claude/live") as websocket:
        assert websocket.receive_text() == "hi"

    labels = {"method": "GET", "route": "/{vendor}/live", "status": "101", "provider": "claude"}
    assert metrics.registry.get_sample_value("tokenpulse_http_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("tokenpulse_http_requests_in_progress") == 0


def test_a_handshake_can_be_limited_by_what_was_annotated(metrics: HttpMetrics) -> None:
    """The denial has the rate limit's headers, and both are counted."""

    class Tenants:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, master="acme")
            await self.app(scope, receive, send)

    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    routes = Starlette(routes=[WebSocketRoute("/live", accept)])
    policy = Policy("1/minute", key=annotated("master"), name="tenant")
    limited = RateLimitMiddleware(routes, policies=[policy])
    client = TestClient(ExchangeMiddleware(Tenants(limited), observers=[metrics]))

    with client.websocket_connect("/live"):
        pass
    with pytest.raises(WebSocketDisconnect) as denied, client.websocket_connect("/live"):
        pass

    assert denied.value.headers["ratelimit"].startswith('"tenant";r=0')  # type: ignore[attr-defined]
    labels = {"method": "GET", "route": "/live", "status": "429", "provider": "unknown"}
    assert metrics.registry.get_sample_value("tokenpulse_http_requests_total", labels) == 1


@pytest.mark.anyio
async def test_a_cancelled_handshake_is_told() -> None:
    """Which is how a server ends what it cannot wait for."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as whole:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            whole.cancel()
            await anyio.sleep_forever()

        await connect(ExchangeMiddleware(app, observers=[seen.append]))

    assert [(each.status, each.outcome) for each in seen] == [(499, "client_disconnect")]

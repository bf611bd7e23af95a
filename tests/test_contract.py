"""Guarantees of every middleware of this library, alone and combined."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import (
    AlertEngine,
    AlertMiddleware,
    Exchange,
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    MetricsMiddleware,
    Policy,
    RateLimitMiddleware,
    RequestIdMiddleware,
    Settings,
    TokenPulse,
)

from .support.apps import streaming
from .support.asgi import drive, http_scope

Wrap = Callable[[ASGIApp], ASGIApp]


def exchange(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in the exchange middleware alone."""
    return ExchangeMiddleware(app, observers=[lambda exchange: None])


def rate_limit(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in a rate limit alone."""
    return RateLimitMiddleware(app, limit="1000000/day")


def policies(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in several limits, some of which hold a reservation during the request."""
    return RateLimitMiddleware(
        app,
        policies=[
            Policy("1000000/day", name="requests"),
            Policy("1000000/day", name="tokens", tokens=10),
            Policy(InFlight(10), name="at-once"),
        ],
    )


def metrics(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in the metrics alone."""
    return MetricsMiddleware(app, metrics=HttpMetrics(CollectorRegistry()))


def alerts(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in the alerts alone."""
    return AlertMiddleware(app, engine=AlertEngine())


def request_ids(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in the request ids alone."""
    return RequestIdMiddleware(app)


def stacked(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in several separate middlewares."""
    return exchange(metrics(rate_limit(alerts(app))))


def everything(app: ASGIApp) -> ASGIApp:
    """Wrap `app` in all middlewares, as `TokenPulse` does."""
    return TokenPulse(
        settings=Settings(limit="1000000/day", access_log=True),
        metrics=HttpMetrics(CollectorRegistry()),
    ).wrap(app)


every_middleware = pytest.mark.parametrize(
    "wrap", [exchange, rate_limit, policies, metrics, alerts, request_ids, stacked, everything]
)
POST = http_scope("/claude/v1/messages", method="POST")
ADDED_HEADERS = (b"ratelimit", b"x-request-id")


def without_added_headers(message: Message) -> Message:
    """Return `message` without the headers that this library adds."""
    if message["type"] != "http.response.start":
        return message
    headers = [pair for pair in message.get("headers", ()) if not pair[0].startswith(ADDED_HEADERS)]
    return {**message, "headers": headers}


@every_middleware
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(chunks=st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_stream_is_sent_unchanged(wrap: Wrap, chunks: list[bytes], anyio_backend: str) -> None:
    """The server receives the messages that the application sent, in their order."""
    app = streaming(chunks)

    async def compare() -> None:
        bare, wrapped = await drive(app, dict(POST)), await drive(wrap(app), dict(POST))
        assert wrapped.chunks == bare.chunks == chunks
        assert [without_added_headers(message) for message in wrapped.messages] == bare.messages

    anyio.run(compare, backend=anyio_backend)


@every_middleware
@pytest.mark.anyio
async def test_message_is_sent_before_send_returns(wrap: Wrap) -> None:
    """The server has a chunk when the application's `send` returns."""
    sent: list[str] = []
    sent_before: list[list[str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        sent_before.append(sent.copy())
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        sent_before.append(sent.copy())
        await send({"type": "http.response.body", "body": b"2"})

    await drive(wrap(app), dict(POST), on_send=lambda message: sent.append(message["type"]))

    assert sent_before == [
        ["http.response.start"],
        ["http.response.start", "http.response.body"],
    ]


@every_middleware
@pytest.mark.parametrize("kind", ["lifespan", "websocket", "something.new"])
@pytest.mark.anyio
async def test_scope_of_another_type_is_passed_unchanged(wrap: Wrap, kind: str) -> None:
    """Lifespan, WebSocket and unknown scopes reach the application unchanged."""
    seen: list[Scope] = []
    prefix = "tokenpulse_mw."
    received: list[Message] = [{"type": f"{kind}.startup"}, {"type": f"{kind}.shutdown"}]
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({name: value for name, value in scope.items() if not name.startswith(prefix)})
        while received:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    async def receive() -> Message:
        return received.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await wrap(app)({"type": kind, "path": "/ws", "headers": []}, receive, send)

    assert seen == [{"type": kind, "path": "/ws", "headers": []}]
    assert sent == [{"type": f"{kind}.{event}.complete"} for event in ("startup", "shutdown")]


@every_middleware
@pytest.mark.anyio
async def test_exception_before_the_headers_reaches_the_server(wrap: Wrap) -> None:
    """The exception of the application is raised unchanged, and nothing is sent."""
    error = RuntimeError("before")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    response = await drive(wrap(app), dict(POST))

    assert response.error is error
    assert response.messages == []


@every_middleware
@pytest.mark.anyio
async def test_exception_after_the_headers_reaches_the_server(wrap: Wrap) -> None:
    """The exception is raised unchanged after the messages that were sent."""
    error = RuntimeError("after")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"data: 1\n\n"], ends=False)(scope, receive, send)
        raise error

    response = await drive(wrap(app), dict(POST))

    assert response.error is error
    assert response.chunks == [b"data: 1\n\n"]


@every_middleware
@pytest.mark.anyio
async def test_response_start_without_headers_is_sent(wrap: Wrap) -> None:
    """ASGI allows `http.response.start` without `headers`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    response = await drive(wrap(app), dict(POST))

    assert response.error is None
    assert (response.status, response.body) == (204, b"")


@every_middleware
@pytest.mark.anyio
async def test_messages_of_extensions_are_sent_unchanged(wrap: Wrap) -> None:
    """Early hints, trailers and unknown messages reach the server unchanged."""
    messages: list[Message] = [
        {"type": "http.response.early_hint", "links": [b"</style.css>"]},
        {"type": "http.response.start", "status": 200, "headers": [], "trailers": True},
        {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
        {"type": "http.response.body", "body": memoryview(b"data: 1\n\n")},
        {"type": "http.response.trailers", "headers": [(b"x", b"y")]},
        {"type": "http.response.debug", "info": {"template": None}},
    ]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    response = await drive(wrap(app), dict(POST))

    assert response.error is None
    assert [without_added_headers(message) for message in response.messages] == messages


@every_middleware
@pytest.mark.anyio
async def test_request_body_is_received_unchanged(wrap: Wrap) -> None:
    """The application receives the body messages of the server, and then the disconnect."""
    messages: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
    ]
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            received.append(message)

    await drive(wrap(app), dict(POST), received=messages)

    assert received == messages


@every_middleware
@pytest.mark.anyio
async def test_cancellation_reaches_the_application(wrap: Wrap) -> None:
    """A server that cancels a request cancels the application, which can clean up."""
    cleanups: list[bool] = []
    started = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleanups.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, wrap(app), dict(POST))
        await started.wait()
        tasks.cancel_scope.cancel()

    assert cleanups == [True]


@pytest.mark.anyio
async def test_cancelled_request_is_a_client_disconnect() -> None:
    """A cancelled request is recorded once: as 499, or with the status that was sent."""
    seen: list[Exchange] = []

    for chunks in ([], [b"data: 1\n\n"]):
        started = anyio.Event()

        async def app(
            scope: Scope,
            receive: Receive,
            send: Send,
            chunks: list[bytes] = chunks,
            started: anyio.Event = started,
        ) -> None:
            if chunks:
                await streaming(chunks, ends=False)(scope, receive, send)
            started.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive, ExchangeMiddleware(app, observers=[seen.append]), http_scope())
            await started.wait()
            tasks.cancel_scope.cancel()

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [
        (499, "client_disconnect"),
        (200, "client_disconnect"),
    ]


@every_middleware
@pytest.mark.anyio
async def test_message_of_the_application_is_not_modified(wrap: Wrap) -> None:
    """Headers are added to a copy, so that an application can reuse its messages."""
    start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start)
        await send({"type": "http.response.body"})

    wrapped = wrap(app)
    first, second = await drive(wrapped, dict(POST)), await drive(wrapped, dict(POST))

    assert start == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert len(first.messages[0]["headers"]) == len(second.messages[0]["headers"])

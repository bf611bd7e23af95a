"""What every middleware of this library, alone or with the others, promises an application."""

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
    """The exchange alone."""
    return ExchangeMiddleware(app, observers=[lambda exchange: None])


def rate_limit(app: ASGIApp) -> ASGIApp:
    """The rate limit alone."""
    return RateLimitMiddleware(app, limit="1000000/day")


def policies(app: ASGIApp) -> ASGIApp:
    """Several limits, some of which hold something until the request is over."""
    return RateLimitMiddleware(
        app,
        policies=[
            Policy("1000000/day", name="requests"),
            Policy("1000000/day", name="tokens", tokens=10),
            Policy(InFlight(10), name="at-once"),
        ],
    )


def metrics(app: ASGIApp) -> ASGIApp:
    """The metrics alone."""
    return MetricsMiddleware(app, metrics=HttpMetrics(CollectorRegistry()))


def alerts(app: ASGIApp) -> ASGIApp:
    """The alerts alone."""
    return AlertMiddleware(app, engine=AlertEngine())


def request_ids(app: ASGIApp) -> ASGIApp:
    """The request ids alone."""
    return RequestIdMiddleware(app)


def stacked(app: ASGIApp) -> ASGIApp:
    """Each as a middleware of its own, around the others."""
    return exchange(metrics(rate_limit(alerts(app))))


def everything(app: ASGIApp) -> ASGIApp:
    """All of it, as `TokenPulse` wraps an application."""
    return TokenPulse(
        settings=Settings(limit="1000000/day", access_log=True),
        metrics=HttpMetrics(CollectorRegistry()),
    ).wrap(app)


every_middleware = pytest.mark.parametrize(
    "wrap", [exchange, rate_limit, policies, metrics, alerts, request_ids, stacked, everything]
)
POST = http_scope("/claude/v1/messages", method="POST")


OURS = (b"ratelimit", b"x-request-id")


def without_our_headers(message: Message) -> Message:
    """A message as it was before our headers came to it."""
    if message["type"] != "http.response.start":
        return message
    kept = [pair for pair in message.get("headers", ()) if not pair[0].startswith(OURS)]
    return {**message, "headers": kept}


@every_middleware
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(chunks=st.lists(st.binary(max_size=200), min_size=1, max_size=20))
def test_streams_pass_byte_for_byte_and_boundary_for_boundary(
    wrap: Wrap, chunks: list[bytes], anyio_backend: str
) -> None:
    """The server is given the very messages that the application sent, in their order."""
    app = streaming(chunks)

    async def both() -> None:
        bare, wrapped = await drive(app, dict(POST)), await drive(wrap(app), dict(POST))
        assert wrapped.chunks == bare.chunks == chunks
        assert [without_our_headers(each) for each in wrapped.messages] == bare.messages

    anyio.run(both, backend=anyio_backend)


@every_middleware
@pytest.mark.anyio
async def test_every_message_is_sent_before_the_next_is_made(wrap: Wrap) -> None:
    """Nothing is held back: a chunk is with the server when the application's send returns."""
    sent: list[str] = []
    waiting: list[list[str]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting.append(sent.copy())
        await send({"type": "http.response.body", "body": b"1", "more_body": True})
        waiting.append(sent.copy())
        await send({"type": "http.response.body", "body": b"2"})

    await drive(wrap(app), dict(POST), on_send=lambda message: sent.append(message["type"]))

    assert waiting == [
        ["http.response.start"],
        ["http.response.start", "http.response.body"],
    ]


@every_middleware
@pytest.mark.parametrize("kind", ["lifespan", "websocket", "something.new"])
@pytest.mark.anyio
async def test_other_scopes_pass_untouched(wrap: Wrap, kind: str) -> None:
    """Lifespan, WebSocket and what ASGI may yet bring reach the application as they came."""
    seen: list[Scope] = []
    ours = "tokenpulse_mw."
    coming: list[Message] = [{"type": f"{kind}.startup"}, {"type": f"{kind}.shutdown"}]
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append({name: value for name, value in scope.items() if not name.startswith(ours)})
        while coming:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})

    async def receive() -> Message:
        return coming.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await wrap(app)({"type": kind, "path": "/ws", "headers": []}, receive, send)

    assert seen == [{"type": kind, "path": "/ws", "headers": []}]
    assert sent == [{"type": f"{kind}.{each}.complete"} for each in ("startup", "shutdown")]


@every_middleware
@pytest.mark.anyio
async def test_an_exception_before_the_head_is_the_servers(wrap: Wrap) -> None:
    """What the application raises is raised, the very same, and nothing is sent in its name."""
    error = RuntimeError("before")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    answer = await drive(wrap(app), dict(POST))

    assert answer.error is error
    assert answer.messages == []


@every_middleware
@pytest.mark.anyio
async def test_an_exception_after_the_head_is_the_servers(wrap: Wrap) -> None:
    """What was sent stays sent, and the exception goes on its way."""
    error = RuntimeError("after")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"data: 1\n\n"], ends=False)(scope, receive, send)
        raise error

    answer = await drive(wrap(app), dict(POST))

    assert answer.error is error
    assert answer.chunks == [b"data: 1\n\n"]


@every_middleware
@pytest.mark.anyio
async def test_a_head_without_headers_is_legal(wrap: Wrap) -> None:
    """ASGI lets `headers` be missing in `http.response.start`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    answer = await drive(wrap(app), dict(POST))

    assert answer.error is None
    assert (answer.status, answer.body) == (204, b"")


@every_middleware
@pytest.mark.anyio
async def test_messages_of_extensions_pass(wrap: Wrap) -> None:
    """Early hints, trailers and messages that nobody knows reach the server unchanged."""
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

    answer = await drive(wrap(app), dict(POST))

    assert answer.error is None
    assert [without_our_headers(each) for each in answer.messages] == messages


@every_middleware
@pytest.mark.anyio
async def test_the_request_reaches_the_application_whole(wrap: Wrap) -> None:
    """Body messages come as the server gave them, and then that the client has left."""
    coming: list[Message] = [
        {"type": "http.request", "body": b"a", "more_body": True},
        {"type": "http.request", "body": b"b", "more_body": False},
    ]
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            got.append(message)

    await drive(wrap(app), dict(POST), received=coming)

    assert got == coming


@every_middleware
@pytest.mark.anyio
async def test_cancellation_reaches_the_application(wrap: Wrap) -> None:
    """A server that gives a request up cancels it, and the application can clean up."""
    cleaned: list[bool] = []
    begun = anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive, wrap(app), dict(POST))
        await begun.wait()
        tasks.cancel_scope.cancel()

    assert cleaned == [True]


@pytest.mark.anyio
async def test_a_cancelled_request_is_a_client_that_has_left() -> None:
    """It is recorded once: 499 without a head, the status on the wire with one."""
    seen: list[Exchange] = []

    for chunks in ([], [b"data: 1\n\n"]):
        begun = anyio.Event()

        async def app(
            scope: Scope,
            receive: Receive,
            send: Send,
            chunks: list[bytes] = chunks,
            begun: anyio.Event = begun,
        ) -> None:
            if chunks:
                await streaming(chunks, ends=False)(scope, receive, send)
            begun.set()
            await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drive, ExchangeMiddleware(app, observers=[seen.append]), http_scope())
            await begun.wait()
            tasks.cancel_scope.cancel()

    assert [(each.status, each.outcome) for each in seen] == [
        (499, "client_disconnect"),
        (200, "client_disconnect"),
    ]


@every_middleware
@pytest.mark.anyio
async def test_a_message_that_the_application_uses_again_is_not_changed(wrap: Wrap) -> None:
    """Headers are added to a copy, so that an application may keep its messages."""
    head: Message = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(head)
        await send({"type": "http.response.body"})

    wrapped = wrap(app)
    first, second = await drive(wrapped, dict(POST)), await drive(wrapped, dict(POST))

    assert head == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert len(first.messages[0]["headers"]) == len(second.messages[0]["headers"])

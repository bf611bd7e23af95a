"""Recorders: callbacks, WebSocket handshakes, and metering of streams."""

from __future__ import annotations

import gc
import logging
from collections.abc import Awaitable, Callable, Iterable
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
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
    TokenUsage,
    annotate,
    keys,
)
from tokenpulse_mw.exchange import drop_exchange, recorder_of
from tokenpulse_mw.usage import UsageMeter, meter_for

from ..support.apps import answering, event, raising, silent, streaming
from ..support.asgi import Answer, drive, http_scope

CHAT = b'{"model":"gpt-demo","usage":{"prompt_tokens":3,"completion_tokens":5}}'


class Callback:
    """A callback that calls two functions."""

    def __init__(
        self,
        finished: Callable[[Exchange], object] = lambda exchange: None,
        close: Callable[[], object] = lambda: None,
        *,
        needs_close: bool = True,
    ) -> None:
        self._finished = finished
        self._close = close
        self.needs_close = needs_close

    def finished(self, exchange: Exchange) -> None:
        """Call the first function."""
        self._finished(exchange)

    async def close(self) -> None:
        """Call the second function."""
        await anyio.lowlevel.checkpoint()
        self._close()


def with_callbacks(app: ASGIApp, *functions: Callable[[Exchange], object]) -> ASGIApp:
    """Return `app` with a callback for each of `functions`, added to every exchange."""

    async def adding_callbacks(scope: Scope, receive: Receive, send: Send) -> None:
        recorder = recorder_of(scope)
        assert recorder is not None
        for function in functions:
            recorder.add_callback(Callback(function))
        await app(scope, receive, send)

    return adding_callbacks


async def post(app: ASGIApp, **more: Any) -> Answer:
    """Send a POST request, whose response is metered."""
    return await drive(app, http_scope(method="POST"), **more)


@pytest.mark.anyio
@pytest.mark.parametrize("needs_close", [True, False])
async def test_only_callbacks_that_need_it_are_closed(needs_close: bool) -> None:
    """A callback that has settled everything at the end of the exchange is not closed."""
    calls: list[str] = []
    callback = Callback(
        lambda exchange: calls.append("finished"),
        lambda: calls.append("closed"),
        needs_close=needs_close,
    )

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        recorder = recorder_of(scope)
        assert recorder is not None
        recorder.add_callback(callback)
        await answering(CHAT)(scope, receive, send)

    await post(ExchangeMiddleware(app))

    assert calls == (["finished", "closed"] if needs_close else ["finished"])


@pytest.mark.anyio
async def test_callback_receives_the_exchange_of_its_request() -> None:
    """A callback receives the same complete exchange as the observers, for one request only."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []
    apps: list[ASGIApp] = [with_callbacks(answering(CHAT), seen.append), answering(CHAT)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await apps.pop(0)(scope, receive, send)

    wrapped = ExchangeMiddleware(app, observers=[observed.append])
    await post(wrapped)
    await post(wrapped)

    assert [len(seen), len(observed)] == [1, 2]
    assert seen[0] is observed[0]
    assert seen[0].usage is not None
    assert (seen[0].usage.total, seen[0].route, seen[0].outcome) == (8, "/{path}", "complete")


@pytest.mark.anyio
async def test_callbacks_run_in_order_after_the_observers() -> None:
    """Callbacks run at the last byte, before background tasks."""
    order: list[str] = []

    async def with_background_work(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        order.append("in the background")

    app = with_callbacks(
        with_background_work,
        lambda exchange: order.append("first"),
        lambda exchange: order.append("second"),
    )
    await post(ExchangeMiddleware(app, observers=[lambda exchange: order.append("observer")]))

    assert order == ["observer", "first", "second", "in the background"]


@pytest.mark.parametrize(
    ("app", "outcome", "status"),
    [
        (raising, "error", 500),
        (silent, "error", 500),
        (streaming([b"a"], ends=False), "truncated", 200),
        (answering(status=404), "complete", 404),
    ],
    ids=["raising", "silent", "truncated", "complete"],
)
@pytest.mark.anyio
async def test_callback_runs_once_for_every_outcome(
    app: ASGIApp, outcome: str, status: int
) -> None:
    """A callback runs once for complete, failed, truncated and missing responses."""
    seen: list[Exchange] = []

    await post(ExchangeMiddleware(with_callbacks(app, seen.append)))

    assert [(exchange.outcome, exchange.status) for exchange in seen] == [(outcome, status)]


@pytest.mark.anyio
async def test_callback_runs_for_a_cancelled_request() -> None:
    """A server cancels the request of a client that has left, and callbacks still run."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as cancel_scope:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            cancel_scope.cancel()
            await anyio.sleep_forever()

        await post(ExchangeMiddleware(with_callbacks(app, seen.append)))

    assert [(exchange.outcome, exchange.status) for exchange in seen] == [
        ("client_disconnect", 499)
    ]


@pytest.mark.anyio
async def test_callback_runs_for_a_dropped_exchange() -> None:
    """Callbacks release what they hold, while observers are not notified of the end."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await answering(CHAT)(scope, receive, send)

    await post(
        ExchangeMiddleware(with_callbacks(dropping, seen.append), observers=[observed.append])
    )

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [(200, "complete")]
    assert seen[0].usage is not None
    assert observed == []


@pytest.mark.anyio
async def test_observer_cannot_join_a_dropped_exchange_with_callbacks(metrics: HttpMetrics) -> None:
    """A dropped exchange with callbacks is not measured by inner middlewares."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(CHAT), observers=[metrics, seen.append])

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await inner(scope, receive, send)

    await post(
        ExchangeMiddleware(with_callbacks(dropping, lambda exchange: None), observers=[metrics])
    )

    assert seen == []
    assert b"tokenpulse_http_requests_in_progress 0.0\n" in metrics.render()


@pytest.mark.anyio
async def test_callback_added_after_the_end_does_not_run() -> None:
    """A callback that is added after the end of the exchange does not run."""
    seen: list[Exchange] = []

    async def too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await with_callbacks(silent, seen.append)(scope, receive, send)

    await post(ExchangeMiddleware(too_late))

    assert seen == []


@pytest.mark.parametrize(
    "app", [answering(b"whole"), raising, silent], ids=["whole", "raising", "silent"]
)
@pytest.mark.anyio
async def test_callback_closes_last_despite_cancellation(app: ASGIApp) -> None:
    """`close` is awaited after the application has ended, and is shielded from cancellation."""
    order: list[str] = []

    with anyio.CancelScope() as cancel_scope:

        async def adding_callback(scope: Scope, receive: Receive, send: Send) -> None:
            recorder = recorder_of(scope)
            assert recorder is not None
            recorder.add_callback(
                Callback(lambda exchange: order.append("finished"), lambda: order.append("closed"))
            )
            try:
                await app(scope, receive, send)
            finally:
                cancel_scope.cancel()
                order.append("returned")

        await post(ExchangeMiddleware(adding_callback))

    assert sorted(order) == ["closed", "finished", "returned"]
    assert order[-1] == "closed"


@pytest.mark.anyio
async def test_callback_that_raises_is_isolated(
    caplog: pytest.LogCaptureFixture, metrics: HttpMetrics
) -> None:
    """The response is complete, the next callback runs, and the error is logged and counted."""
    seen: list[Exchange] = []

    def fails(*exchange: Exchange) -> None:
        raise RuntimeError("disk full")

    async def adding_callbacks(scope: Scope, receive: Receive, send: Send) -> None:
        recorder = recorder_of(scope)
        assert recorder is not None
        for callback in (Callback(fails, fails), Callback(seen.append)):
            recorder.add_callback(callback)
        await answering(b"whole")(scope, receive, send)

    app = ExchangeMiddleware(adding_callbacks, observers=[metrics])
    with caplog.at_level(logging.ERROR):
        responses = [await post(app) for _ in range(2)]

    assert [(response.body, response.error) for response in responses] == [(b"whole", None)] * 2
    assert len(seen) == 2
    assert [record.args for record in caplog.records] == [("Callback", "RuntimeError")]
    labels = {"component": "Callback"}
    assert metrics.registry.get_sample_value("tokenpulse_internal_errors_total", labels) == 4


ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}
TEXT: Message = {"type": "websocket.send", "text": "hi"}
DENIAL: list[Message] = [
    {"type": "websocket.http.response.start", "status": 401},
    {"type": "websocket.http.response.body", "body": b"who", "more_body": True},
    {"type": "websocket.http.response.body", "body": b"?"},
]


def sending(*messages: Message) -> ASGIApp:
    """Return an application that sends `messages`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


async def connect(
    app: ASGIApp,
    *,
    received: Iterable[Message] = ({"type": "websocket.connect"},),
    on_send: Callable[[Message], object] = lambda message: None,
) -> list[Message]:
    """Open a WebSocket, and return the messages that the server was sent."""
    sent: list[Message] = []
    messages = iter(received)

    async def receive() -> Message:
        return next(messages, {"type": "websocket.disconnect", "code": 1006})

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
async def test_handshake_is_one_exchange(messages: list[Message], status: int) -> None:
    """An accepted, closed or denied handshake is one exchange, and its messages are unchanged."""
    seen: list[Exchange] = []

    sent = await connect(ExchangeMiddleware(sending(*messages), observers=[seen.append]))

    assert sent == messages
    assert [(exchange.method, exchange.status, exchange.outcome) for exchange in seen] == [
        ("GET", status, "complete")
    ]
    assert seen[0].provider == "claude"
    assert (seen[0].usage, seen[0].usage_source) == (None, None)


@pytest.mark.anyio
async def test_exchange_of_a_websocket_ends_when_it_is_accepted() -> None:
    """The duration of the connection is not measured."""
    seen: list[Exchange] = []
    ended: list[int] = []

    await connect(
        ExchangeMiddleware(sending(ACCEPT, TEXT, CLOSE), observers=[seen.append]),
        on_send=lambda message: ended.append(len(seen)),
    )

    assert ended == [0, 1, 1]


@pytest.mark.anyio
async def test_websocket_disconnect_before_the_handshake_is_499() -> None:
    """A client that leaves before its handshake is accepted or closed is recorded as 499."""
    seen: list[Exchange] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            pass

    await connect(ExchangeMiddleware(waits, observers=[seen.append]))

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [
        (499, "client_disconnect")
    ]


@pytest.mark.anyio
async def test_websocket_send_that_raises_oserror_is_499() -> None:
    """An OSError of the server is a client disconnect, and reaches the application."""
    seen: list[Exchange] = []

    def raise_oserror(message: Message) -> None:
        raise OSError("the client has left")

    with pytest.raises(OSError, match="has left"):
        await connect(
            ExchangeMiddleware(sending(ACCEPT), observers=[seen.append]), on_send=raise_oserror
        )

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [
        (499, "client_disconnect")
    ]


@pytest.mark.anyio
async def test_websocket_application_that_raises_is_500() -> None:
    """An exception before the handshake ends is recorded as 500."""
    seen: list[Exchange] = []

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("no upstream")

    with pytest.raises(RuntimeError, match="no upstream"):
        await connect(ExchangeMiddleware(fails, observers=[seen.append]))

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [(500, "error")]


@pytest.mark.anyio
async def test_invalid_websocket_message_is_sent_unchanged() -> None:
    """An invalid message is sent to the server, and its error is reported."""
    components: list[str] = []

    class ErrorRecorder:
        def __call__(self, exchange: Exchange) -> None:
            """Ignore the exchange."""

        def on_error(self, component: str) -> None:
            """Record the component."""
            components.append(component)

    invalid: Message = {"type": "websocket.http.response.start"}

    sent = await connect(ExchangeMiddleware(sending(invalid, CLOSE), observers=[ErrorRecorder()]))

    assert sent == [invalid, CLOSE]
    assert components == ["exchange"]


def test_handshake_is_counted_by_route(metrics: HttpMetrics) -> None:
    """A handshake is counted in the same metric as HTTP requests."""

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


def open_websockets(metrics: HttpMetrics) -> float | None:
    """Return the gauge of open WebSockets."""
    return metrics.registry.get_sample_value("tokenpulse_websocket_connections")


def denying(message: Message) -> None:
    """Raise, as a server does if the client has left, for any message after the handshake."""
    if message["type"] == "websocket.send":
        raise OSError("the client has left")


@pytest.mark.parametrize("end", ["closes", "client leaves", "send fails", "returns", "raises"])
@pytest.mark.anyio
async def test_accepted_websocket_counts_until_it_ends(metrics: HttpMetrics, end: str) -> None:
    """It ends once, when one side closes it, or when the application returns or raises."""
    counts: list[float | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        counts.append(open_websockets(metrics))
        if end == "closes":
            await send(CLOSE)
        elif end == "client leaves":
            await receive()
        elif end == "send fails":
            with pytest.raises(OSError, match="has left"):
                await send(TEXT)
        counts.append(open_websockets(metrics))
        if end == "raises":
            raise RuntimeError("no upstream")

    assert open_websockets(metrics) == 0
    inner = ExchangeMiddleware(app, observers=[metrics])
    outer = ExchangeMiddleware(inner, observers=[metrics])
    if end == "raises":
        with pytest.raises(RuntimeError, match="no upstream"):
            await connect(outer)
    else:
        await connect(outer, on_send=denying)

    assert counts == [1, 1 if end in ("returns", "raises") else 0]
    assert open_websockets(metrics) == 0


@pytest.mark.anyio
async def test_cancelled_websocket_is_not_open(metrics: HttpMetrics) -> None:
    """A server cancels the application, for example when it shuts down."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(ACCEPT)
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connect, ExchangeMiddleware(app, observers=[metrics]))
        await anyio.wait_all_tasks_blocked()
        counts = [open_websockets(metrics)]
        tasks.cancel_scope.cancel()

    assert [*counts, open_websockets(metrics)] == [1, 0]


@pytest.mark.parametrize("messages", [[CLOSE], DENIAL], ids=["closed", "denied"])
@pytest.mark.anyio
async def test_rejected_websocket_is_not_counted_as_open(
    metrics: HttpMetrics, messages: list[Message]
) -> None:
    """Only an accepted WebSocket is a connection."""
    counts: list[float | None] = []

    await connect(
        ExchangeMiddleware(sending(*messages), observers=[metrics]),
        on_send=lambda message: counts.append(open_websockets(metrics)),
    )

    assert {*counts, open_websockets(metrics)} == {0}


@pytest.mark.anyio
async def test_websocket_accepted_after_the_client_left_is_not_open(metrics: HttpMetrics) -> None:
    """A server ignores the handshake of a client that has left."""
    counts: list[float | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await receive()
        await send(ACCEPT)
        counts.append(open_websockets(metrics))

    await connect(ExchangeMiddleware(app, observers=[metrics]))

    assert counts == [0]


@pytest.mark.anyio
async def test_excluded_websocket_is_not_counted_as_open(metrics: HttpMetrics) -> None:
    """`drop_exchange` keeps a WebSocket out of all statistics."""
    counts: list[float | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await send(ACCEPT)
        counts.append(open_websockets(metrics))
        await send(CLOSE)

    await connect(ExchangeMiddleware(app, observers=[metrics]))

    assert [*counts, open_websockets(metrics)] == [0, 0]


def test_handshake_is_limited_by_an_annotation(metrics: HttpMetrics) -> None:
    """A denied handshake has the headers of the rate limit, and is counted as 429."""

    class Tenants:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, tenant="acme")
            await self.app(scope, receive, send)

    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    routes = Starlette(routes=[WebSocketRoute("/live", accept)])
    policy = Policy("1/minute", key=keys.annotation("tenant"), name="tenant")
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
async def test_cancelled_handshake_is_a_client_disconnect() -> None:
    """A handshake that the server cancels is recorded as 499."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as cancel_scope:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            cancel_scope.cancel()
            await anyio.sleep_forever()

        await connect(ExchangeMiddleware(app, observers=[seen.append]))

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [
        (499, "client_disconnect")
    ]


HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}
CHAT_STREAM = [
    event(choices=[{"delta": {"content": "to"}}], usage=None),
    event(choices=[{"delta": {"content": "ken"}}], usage=None),
    event(choices=[], usage={"prompt_tokens": 9, "completion_tokens": 2}),
    b"data: [DONE]\n\n",
]
VERSIONS = ("2.3", "2.4")  # `send` of 2.4 may raise, so its streams need a coroutine


def post_scope(version: str = "2.3") -> Scope:
    """Return the scope of a POST from a server of this ASGI version."""
    asgi = {"version": "3.0", "spec_version": version}
    return {**http_scope("/codex/chat", method="POST"), "asgi": asgi}


def chunk(body: bytes, *, more: bool = True) -> Message:
    """Return one body message of a stream."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def receive_empty() -> Message:
    """Return a request without a body."""
    return {"type": "http.request"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "chunks", [CHAT_STREAM, [CHAT_STREAM[0], b"".join(CHAT_STREAM[1:])], [b"".join(CHAT_STREAM)]]
)
@pytest.mark.anyio
async def test_stream_is_metered_in_any_chunking(version: str, chunks: list[bytes]) -> None:
    """The usage does not depend on the chunks; a single chunk has no time of a first token."""
    seen: list[Exchange] = []

    response = await drive(
        ExchangeMiddleware(streaming(chunks), observers=[seen.append]), post_scope(version)
    )

    assert response.chunks == chunks
    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")
    assert (seen[0].time_to_first_token is not None) is (len(chunks) > 1)


@given(count=st.integers(0, len(CHAT_STREAM)), version=st.sampled_from(VERSIONS))
@pytest.mark.anyio
async def test_truncated_stream_is_metered_up_to_its_last_chunk(count: int, version: str) -> None:
    """The last chunk before the application returns is metered too."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(streaming(CHAT_STREAM[:count], ends=False), observers=[seen.append]),
        post_scope(version),
    )

    assert seen[0].outcome == "truncated"
    assert seen[0].usage == (TokenUsage(9, 2) if count >= 3 else None)
    assert seen[0].usage_source == ("partial" if count >= 3 else "missing")


@pytest.mark.parametrize("version", VERSIONS)
@given(as_views=st.lists(st.booleans(), min_size=len(CHAT_STREAM), max_size=len(CHAT_STREAM)))
@pytest.mark.anyio
async def test_stream_of_bytes_and_memoryviews_is_metered_in_order(
    version: str, as_views: list[bool]
) -> None:
    """The usage does not depend on the types of the chunks."""
    seen: list[Exchange] = []
    whole = b"".join(CHAT_STREAM)
    first, rest = len(CHAT_STREAM[0]), (len(whole) - len(CHAT_STREAM[0])) // 3 + 1
    cuts = [0, first, first + rest, first + 2 * rest, len(whole)]
    chunks: list[Any] = [
        memoryview(whole[start:end]) if as_view else whole[start:end]
        for (start, end), as_view in zip(pairwise(cuts), as_views, strict=True)
    ]

    await drive(ExchangeMiddleware(streaming(chunks), observers=[seen.append]), post_scope(version))

    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")


@pytest.mark.anyio
async def test_recorder_releases_the_meter_at_the_end() -> None:
    """A finished recorder holds no meter, because background tasks may keep it alive."""
    is_meter: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(CHAT_STREAM)(scope, receive, send)
        referents = gc.get_referents(recorder_of(scope))
        is_meter.extend(hasattr(referent, "account") for referent in referents)

    await drive(ExchangeMiddleware(app), post_scope())

    assert True not in is_meter


@pytest.mark.parametrize(
    ("content_type", "chunks"),
    [
        (b"text/event-stream", CHAT_STREAM),
        (b"text/plain", CHAT_STREAM),
        (b"application/octet-stream", [b"PK", b"\x03", b"\x04", b""]),
        (b"image/png", [b"\x89", b"PNG", b"\r", b""]),
    ],
)
@pytest.mark.anyio
async def test_chunk_of_a_stream_needs_no_coroutine(
    content_type: bytes, chunks: list[bytes]
) -> None:
    """Once no more times are recorded, the awaitable of the server's `send` is returned."""
    start = {**HEAD, "headers": [(b"content-type", content_type)]}
    awaitables: list[Awaitable[None]] = []
    are_same: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (start, *map(chunk, chunks[:3]), chunk(chunks[3], more=False)):
            awaitable = send(message)
            are_same.append(awaitable in awaitables)
            await awaitable

    async def sent() -> None:
        """Do nothing."""

    def send(message: Message) -> Awaitable[None]:
        awaitables.append(sent())
        return awaitables[-1]

    await ExchangeMiddleware(app)(post_scope(), receive_empty, send)

    assert are_same == [False, False, True, True, False]


class CountingMeter:
    """A meter that counts the bytes that it has read."""

    awaits_output = False

    def __init__(self, inner: UsageMeter) -> None:
        self.account = inner.account
        self.metered = 0

    def feed(self, chunk: bytes) -> None:
        """Count the bytes of the chunk."""
        self.metered += len(chunk)

    def finish(self, *, complete: bool) -> None:
        """Do nothing."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 100_000])
@pytest.mark.anyio
async def test_chunk_is_metered_after_it_was_sent_and_at_most_64_kib_wait(
    size: int, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short chunks are metered several at a time, and a chunk above 2 KiB at once."""
    meters: list[CountingMeter] = []
    sent, waiting, ahead = 0, [0], [0]

    def make_counting(content_type: bytes, encoding: bytes) -> UsageMeter:
        meter = meter_for(content_type, encoding)
        assert meter is not None
        meters.append(CountingMeter(meter))
        return meters[-1]

    async def send(message: Message) -> None:
        nonlocal sent
        if meters:
            waiting.append(sent - meters[0].metered)
            ahead.append(meters[0].metered - sent)
        sent += len(message.get("body", b""))

    monkeypatch.setattr("tokenpulse_mw.exchange.recorder.meter_for", make_counting)
    app = ExchangeMiddleware(streaming([b"x" * size] * 100))

    await app(post_scope(version), receive_empty, send)

    assert meters[0].metered == sent == 100 * size
    assert max(ahead) == 0
    assert max(waiting) <= (64 * 1024 if size <= 2048 else 0)


class FailingMeter:
    """A meter that raises after `left` chunks, or at the end."""

    awaits_output = False

    def __init__(self, inner: UsageMeter, left: int) -> None:
        self.account = inner.account
        self.left = left

    def feed(self, chunk: bytes) -> None:
        """Raise after `left` chunks."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("invalid chunk")

    def finish(self, *, complete: bool) -> None:
        """Raise."""
        raise RuntimeError("invalid end")


@pytest.mark.parametrize("left", [0, 2, 100])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.anyio
async def test_meter_that_raises_leaves_the_response_unchanged(
    version: str, left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream is complete, the exchange has no usage, and the error is logged once."""

    def make_failing(content_type: bytes, encoding: bytes) -> UsageMeter:
        meter = meter_for(content_type, encoding)
        assert meter is not None
        return FailingMeter(meter, left)

    monkeypatch.setattr("tokenpulse_mw.exchange.recorder.meter_for", make_failing)
    seen: list[Exchange] = []
    app: ASGIApp = streaming([*CHAT_STREAM, *CHAT_STREAM])

    response = await drive(ExchangeMiddleware(app, observers=[seen.append]), post_scope(version))

    assert response.chunks == [*CHAT_STREAM, *CHAT_STREAM]
    assert [(exchange.outcome, exchange.usage) for exchange in seen] == [("complete", None)]
    assert len(caplog.records) == 1

"""The tap: who may look at one exchange, and when they are told that it is over."""

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


class Watching:
    """A watcher that passes on what it is told."""

    def __init__(
        self,
        finished: Callable[[Exchange], object] = lambda exchange: None,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._finished = finished
        self._close = close

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over."""
        self._finished(exchange)

    async def close(self) -> None:
        """The application is gone."""
        await anyio.lowlevel.checkpoint()
        self._close()


def watched(app: ASGIApp, *watchers: Callable[[Exchange], object]) -> ASGIApp:
    """`app`, with `watchers` of the end of each of its exchanges."""

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        tap = recorder_of(scope)
        assert tap is not None
        for watcher in watchers:
            tap.add_callback(Watching(watcher))
        await app(scope, receive, send)

    return watching


async def ask(app: ASGIApp, **more: Any) -> Answer:
    """Ask something that a model may answer."""
    return await drive(app, http_scope(method="POST"), **more)


@pytest.mark.anyio
async def test_a_watcher_is_given_the_exchange_of_its_request() -> None:
    """It is settled: usage and all. The next request has watchers of its own."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []
    inner: list[ASGIApp] = [watched(answering(CHAT), seen.append), answering(CHAT)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await inner.pop(0)(scope, receive, send)

    outer = ExchangeMiddleware(app, observers=[observed.append])
    await ask(outer)
    await ask(outer)

    assert [len(seen), len(observed)] == [1, 2]
    assert seen[0] is observed[0]
    assert seen[0].usage is not None
    assert (seen[0].usage.total, seen[0].route, seen[0].outcome) == (8, "/{path}", "complete")


@pytest.mark.anyio
async def test_watchers_are_told_in_their_order_and_after_the_observers() -> None:
    """At the last byte, and not when the application is done with its background tasks."""
    told: list[str] = []

    async def works_on(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        told.append("in the background")

    app = watched(works_on, lambda each: told.append("first"), lambda each: told.append("second"))
    await ask(ExchangeMiddleware(app, observers=[lambda each: told.append("observer")]))

    assert told == ["observer", "first", "second", "in the background"]


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
async def test_a_watcher_is_told_once_however_it_ends(
    app: ASGIApp, outcome: str, status: int
) -> None:
    """Complete or not, with an answer or without."""
    seen: list[Exchange] = []

    await ask(ExchangeMiddleware(watched(app, seen.append)))

    assert [(each.outcome, each.status) for each in seen] == [(outcome, status)]


@pytest.mark.anyio
async def test_a_watcher_is_told_of_a_cancelled_request() -> None:
    """Which is how a server ends the request of a client that has left."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as whole:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            whole.cancel()
            await anyio.sleep_forever()

        await ask(ExchangeMiddleware(watched(app, seen.append)))

    assert [(each.outcome, each.status) for each in seen] == [("client_disconnect", 499)]


@pytest.mark.anyio
async def test_a_dropped_exchange_still_has_watchers() -> None:
    """What they hold has to be given back; observers are told that it was dropped, and no more."""
    seen: list[Exchange] = []
    observed: list[Exchange] = []

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await answering(CHAT)(scope, receive, send)

    await ask(ExchangeMiddleware(watched(dropping, seen.append), observers=[observed.append]))

    assert [(each.status, each.outcome) for each in seen] == [(200, "complete")]
    assert seen[0].usage is not None
    assert observed == []


@pytest.mark.anyio
async def test_nobody_joins_a_dropped_exchange(metrics: HttpMetrics) -> None:
    """A probe that has watchers goes on, and is still no traffic to those inside."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(CHAT), observers=[metrics, seen.append])

    async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await inner(scope, receive, send)

    await ask(ExchangeMiddleware(watched(dropping, lambda each: None), observers=[metrics]))

    assert seen == []
    assert b"tokenpulse_http_requests_in_progress 0.0\n" in metrics.render()


@pytest.mark.anyio
async def test_nothing_is_told_of_an_exchange_that_is_over() -> None:
    """Who comes too late has nothing to wait for."""
    seen: list[Exchange] = []

    async def too_late(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await watched(silent, seen.append)(scope, receive, send)

    await ask(ExchangeMiddleware(too_late))

    assert seen == []


@pytest.mark.parametrize(
    "app", [answering(b"whole"), raising, silent], ids=["whole", "raising", "silent"]
)
@pytest.mark.anyio
async def test_a_watcher_may_take_time_when_the_application_is_gone(app: ASGIApp) -> None:
    """It is closed last, also where the request was cancelled meanwhile."""
    told: list[str] = []

    with anyio.CancelScope() as whole:

        async def watching(scope: Scope, receive: Receive, send: Send) -> None:
            tap = recorder_of(scope)
            assert tap is not None
            tap.add_callback(
                Watching(lambda exchange: told.append("over"), lambda: told.append("closed"))
            )
            try:
                await app(scope, receive, send)
            finally:
                whole.cancel()
                told.append("gone")

        await ask(ExchangeMiddleware(watching))

    assert sorted(told) == ["closed", "gone", "over"]
    assert told[-1] == "closed"


@pytest.mark.anyio
async def test_a_watcher_that_fails_harms_nobody(
    caplog: pytest.LogCaptureFixture, metrics: HttpMetrics
) -> None:
    """The answer is whole, the next watcher is told, the log has it once, and it is counted."""
    seen: list[Exchange] = []

    def fails(*exchange: Exchange) -> None:
        raise RuntimeError("no disk")

    async def watching(scope: Scope, receive: Receive, send: Send) -> None:
        tap = recorder_of(scope)
        assert tap is not None
        for watcher in (Watching(fails, fails), Watching(seen.append)):
            tap.add_callback(watcher)
        await answering(b"whole")(scope, receive, send)

    app = ExchangeMiddleware(watching, observers=[metrics])
    with caplog.at_level(logging.ERROR):
        answers = [await ask(app) for _ in range(2)]

    assert [(answer.body, answer.error) for answer in answers] == [(b"whole", None)] * 2
    assert len(seen) == 2
    assert [record.args for record in caplog.records] == [("Watching", "RuntimeError")]
    failed = {"component": "Watching"}
    assert metrics.registry.get_sample_value("tokenpulse_internal_errors_total", failed) == 4


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

        def on_error(self, component: str) -> None:
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
async def test_a_cancelled_handshake_is_told() -> None:
    """Which is how a server ends what it cannot wait for."""
    seen: list[Exchange] = []

    with anyio.CancelScope() as whole:

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            whole.cancel()
            await anyio.sleep_forever()

        await connect(ExchangeMiddleware(app, observers=[seen.append]))

    assert [(each.status, each.outcome) for each in seen] == [(499, "client_disconnect")]


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


VERSIONS = ("2.3", "2.4")  # the second may raise, so its streams are sent by a coroutine of ours


def asked(version: str = "2.3") -> Scope:
    """A request to a model, as a server of this ASGI version makes it."""
    asgi = {"version": "3.0", "spec_version": version}
    return {**http_scope("/codex/chat", method="POST"), "asgi": asgi}


def body(piece: bytes, *, more: bool = True) -> Message:
    """One message of a stream."""
    return {"type": "http.response.body", "body": piece, "more_body": more}


async def nothing() -> Message:
    """A request without a body."""
    return {"type": "http.request"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "pieces", [CHAT_STREAM, [CHAT_STREAM[0], b"".join(CHAT_STREAM[1:])], [b"".join(CHAT_STREAM)]]
)
@pytest.mark.anyio
async def test_a_stream_is_metered_whole(version: str, pieces: list[bytes]) -> None:
    """Whichever way it passes, and however it is cut.

    In an answer of one piece the first words are no sooner than all others, so they have no time.
    """
    seen: list[Exchange] = []

    answer = await drive(
        ExchangeMiddleware(streaming(pieces), observers=[seen.append]), asked(version)
    )

    assert answer.chunks == pieces
    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")
    assert (seen[0].time_to_first_token is not None) is (len(pieces) > 1)


@given(most=st.integers(0, len(CHAT_STREAM)), version=st.sampled_from(VERSIONS))
@pytest.mark.anyio
async def test_a_stream_that_stops_is_metered_to_its_last_chunk(most: int, version: str) -> None:
    """What was passed on last is not forgotten, however the application ends."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(streaming(CHAT_STREAM[:most], ends=False), observers=[seen.append]),
        asked(version),
    )

    assert seen[0].outcome == "truncated"
    assert seen[0].usage == (TokenUsage(9, 2) if most >= 3 else None)
    assert seen[0].usage_source == ("partial" if most >= 3 else "missing")


@pytest.mark.parametrize("version", VERSIONS)
@given(buffers=st.lists(st.booleans(), min_size=len(CHAT_STREAM), max_size=len(CHAT_STREAM)))
@pytest.mark.anyio
async def test_a_stream_of_bytes_and_buffers_is_metered_in_its_order(
    version: str, buffers: list[bool]
) -> None:
    """However an application mixes them, and wherever an event is cut."""
    seen: list[Exchange] = []
    whole = b"".join(CHAT_STREAM)
    first, rest = len(CHAT_STREAM[0]), (len(whole) - len(CHAT_STREAM[0])) // 3 + 1
    cuts = [0, first, first + rest, first + 2 * rest, len(whole)]
    pieces: list[Any] = [
        memoryview(whole[start:end]) if as_buffer else whole[start:end]
        for (start, end), as_buffer in zip(pairwise(cuts), buffers, strict=True)
    ]

    await drive(ExchangeMiddleware(streaming(pieces), observers=[seen.append]), asked(version))

    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(9, 2), "reported")


@pytest.mark.anyio
async def test_what_was_read_of_an_answer_is_let_go_with_its_end() -> None:
    """The application may live on for long, in background tasks."""
    held: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(CHAT_STREAM)(scope, receive, send)
        held.extend(hasattr(each, "ledger") for each in gc.get_referents(recorder_of(scope)))

    await drive(ExchangeMiddleware(app), asked())

    assert True not in held


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
async def test_a_chunk_of_a_stream_costs_no_coroutine(
    content_type: bytes, chunks: list[bytes]
) -> None:
    """What the server's `send` gives is given on, once no time is left to be noted."""
    head = {**HEAD, "headers": [(b"content-type", content_type)]}
    given_on: list[Awaitable[None]] = []
    same: list[bool] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in (head, *map(body, chunks[:3]), body(chunks[3], more=False)):
            waiting = send(message)
            same.append(waiting in given_on)
            await waiting

    async def sent() -> None:
        """Nothing more."""

    def send(message: Message) -> Awaitable[None]:
        given_on.append(sent())
        return given_on[-1]

    await ExchangeMiddleware(app)(asked(), nothing, send)

    assert same == [False, False, True, True, False]


class Failing:
    """A meter that fails after so many chunks, or at the end."""

    awaits_output = False

    def __init__(self, inner: UsageMeter, left: int) -> None:
        self.account = inner.account
        self.left = left

    def feed(self, chunk: bytes) -> None:
        """Fail, sooner or later."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("no such vendor")

    def finish(self, *, complete: bool) -> None:
        """Fail at last."""
        raise RuntimeError("no such end")


@pytest.mark.parametrize("left", [0, 2, 100])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.anyio
async def test_a_meter_that_fails_costs_only_the_usage(
    version: str, left: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream goes on, the exchange is told, and the failure is logged once."""

    def failing(content_type: bytes, encoding: bytes) -> UsageMeter:
        meter = meter_for(content_type, encoding)
        assert meter is not None
        return Failing(meter, left)

    monkeypatch.setattr("tokenpulse_mw.exchange.recorder.meter_for", failing)
    seen: list[Exchange] = []
    app: ASGIApp = streaming([*CHAT_STREAM, *CHAT_STREAM])

    answer = await drive(ExchangeMiddleware(app, observers=[seen.append]), asked(version))

    assert answer.chunks == [*CHAT_STREAM, *CHAT_STREAM]
    assert [(each.outcome, each.usage) for each in seen] == [("complete", None)]
    assert len(caplog.records) == 1

"""Outcomes of requests: one exchange for each, with the status that the client received."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics

from ..support.apps import (
    WORDS,
    answering,
    event,
    raising,
    raising_mid_stream,
    returning_at_disconnect,
    silent,
    streaming,
    streaming_until_disconnect,
)
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock
from .routes import AppEndpoint

# With ASGI 2.4, Starlette does not receive messages during a stream, because `send` raises.
ASGI_2_4: dict[str, Any] = {"asgi": {"version": "3.0", "spec_version": "2.4"}}


Drive = Callable[[ASGIApp, Scope], Awaitable[object]]


async def finished_exchange(
    metrics: HttpMetrics,
    app: ASGIApp,
    send_request: Drive = drive,
    *,
    method: str = "POST",
    usage: bool = True,
) -> Exchange:
    """Send a request to `app`, and return its only exchange; none is left in progress."""
    seen: list[Exchange] = []
    observed = Middleware(ExchangeMiddleware, observers=[seen.append, metrics], usage=usage)
    wrapped = Starlette(routes=[Route("/case/{id}", AppEndpoint(app))], middleware=[observed])

    await send_request(wrapped, http_scope("/case/1", method=method))

    (exchange,) = seen
    first_byte = exchange.time_to_first_byte
    assert (exchange.method, exchange.route) == (method, "/case/{id}")
    assert first_byte is None or 0 <= first_byte <= exchange.duration
    assert metrics.registry.get_sample_value("tokenpulse_http_requests_in_progress") == 0
    labels = {"provider": exchange.provider, "outcome": exchange.outcome}
    assert metrics.registry.get_sample_value("tokenpulse_http_responses_total", labels) == 1
    return exchange


async def headers_only(scope: Scope, receive: Receive, send: Send) -> None:
    """Send the headers without a body."""
    await send({"type": "http.response.start", "status": 200})


async def fails_after_the_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise between the headers and the body."""
    await headers_only(scope, receive, send)
    raise RuntimeError("upstream went away")


async def fails_after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise after the end of the response."""
    await answering()(scope, receive, send)
    raise RuntimeError("in the background")


async def responds_after_a_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond after the client has disconnected."""
    await returning_at_disconnect(scope, receive, send)
    await answering(status=201)(scope, receive, send)


async def times_out(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise TimeoutError in place of a response."""
    with anyio.fail_after(0):
        await anyio.sleep_forever()


async def responds_to_its_timeout(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with 504 after a timeout."""
    with anyio.move_on_after(0):
        await anyio.sleep_forever()
    await answering(status=504)(scope, receive, send)


async def times_out_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise TimeoutError in the middle of a stream."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    await times_out(scope, receive, send)


@pytest.mark.parametrize(
    ("app", "status", "outcome", "has_body"),
    [
        (answering(), 200, "complete", True),
        (answering(status=404), 404, "complete", True),
        (answering(status=503), 503, "complete", True),
        (answering(b"", status=204), 204, "complete", False),
        (answering(b"", status=304), 304, "complete", False),
        (streaming([*WORDS, b""]), 200, "complete", True),
        (silent, 500, "error", False),
        (raising, 500, "error", False),
        (headers_only, 200, "truncated", False),
        (streaming(WORDS, ends=False), 200, "truncated", True),
        (fails_after_the_headers, 200, "error", False),
        (raising_mid_stream, 200, "error", True),
        (fails_after_the_end, 200, "complete", True),
        (returning_at_disconnect, 499, "client_disconnect", False),
        (streaming_until_disconnect, 200, "client_disconnect", True),
        (times_out, 500, "error", False),
        (times_out_later, 200, "error", True),
        (responds_to_its_timeout, 504, "complete", True),
    ],
    ids=[
        "200",
        "404",
        "503",
        "204",
        "304",
        "stream",
        "no response",
        "exception before the headers",
        "headers alone",
        "truncated",
        "exception after the headers",
        "exception in the stream",
        "exception after the end",
        "client left before the headers",
        "client left in the stream",
        "timeout before the headers",
        "timeout in the stream",
        "timeout with a response",
    ],
)
@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no usage"])
@pytest.mark.anyio
async def test_exchange_has_the_status_and_outcome_of_the_application(
    metrics: HttpMetrics, app: ASGIApp, status: int, outcome: str, has_body: bool, usage: bool
) -> None:
    """The status is that of the response, 500 without one, and 499 if the client has left."""
    exchange = await finished_exchange(metrics, app, usage=usage)

    assert (exchange.status, exchange.outcome) == (status, outcome)
    assert (exchange.time_to_first_byte is not None) is has_body


@pytest.mark.anyio
async def test_response_after_a_disconnect_is_499(metrics: HttpMetrics) -> None:
    """A server sends nothing of a response after a disconnect, so the status is 499."""
    exchange = await finished_exchange(metrics, responds_after_a_disconnect)

    assert (exchange.status, exchange.outcome) == (499, "client_disconnect")


def disconnecting(at: str, *, position: int = 0) -> Drive:
    """Return a client that has left when the server sends the message `at`, or a later one."""

    async def send_request(app: ASGIApp, scope: Scope) -> Answer:
        sent: list[Message] = []

        def raise_if_sent(message: Message) -> None:
            sent.append(message)
            if len([earlier for earlier in sent if earlier["type"] == at]) > position:
                raise OSError("the client has left")

        return await drive(app, {**scope, **ASGI_2_4}, on_send=raise_if_sent)

    return send_request


@pytest.mark.parametrize(
    ("send_request", "status"),
    [
        (disconnecting("http.response.start"), 499),
        (disconnecting("http.response.body"), 200),
        (disconnecting("http.response.body", position=1), 200),
    ],
    ids=["at the headers", "at the first chunk", "at the second chunk"],
)
@pytest.mark.anyio
async def test_server_that_raises_from_send_is_a_client_disconnect(
    metrics: HttpMetrics, send_request: Drive, status: int
) -> None:
    """The status is 499 if the server raised before it sent the headers."""
    exchange = await finished_exchange(metrics, streaming([*WORDS, *WORDS]), send_request)

    assert (exchange.status, exchange.outcome) == (status, "client_disconnect")


async def cancelling(app: ASGIApp, scope: Scope) -> None:
    """Send a request, and cancel it when the application waits."""
    with anyio.CancelScope() as cancel_scope:
        await drive(app, {**scope, "state": {"waits": cancel_scope.cancel}})
    assert cancel_scope.cancelled_caught


def waiting(*chunks: bytes, ends: bool = False) -> ASGIApp:
    """Return an application that sends `chunks` and then waits for ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if chunks:
            await streaming(chunks, ends=ends)(scope, receive, send)
        scope["state"]["waits"]()
        await anyio.sleep_forever()

    return app


@pytest.mark.parametrize(
    ("app", "status", "outcome"),
    [
        (waiting(), 499, "client_disconnect"),
        (waiting(b"a"), 200, "client_disconnect"),
        (waiting(b"a", ends=True), 200, "complete"),
    ],
    ids=["before the headers", "in the stream", "after the end"],
)
@pytest.mark.anyio
async def test_cancelled_request_is_a_client_disconnect(
    metrics: HttpMetrics, app: ASGIApp, status: int, outcome: str
) -> None:
    """A server cancels the requests of clients that have left, and all requests at its stop."""
    exchange = await finished_exchange(metrics, app, cancelling)

    assert (exchange.status, exchange.outcome) == (status, outcome)


@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.anyio
async def test_response_without_a_body_is_complete(
    metrics: HttpMetrics, method: str, status: int
) -> None:
    """A response without a body is complete, and has no first byte."""
    exchange = await finished_exchange(metrics, answering(b"", status=status), method=method)

    assert (exchange.status, exchange.outcome) == (status, "complete")
    assert exchange.time_to_first_byte is None


@pytest.mark.anyio
async def test_body_in_a_response_to_head_is_ignored(metrics: HttpMetrics) -> None:
    """A body in the response to HEAD has no first byte, because the server drops it."""
    exchange = await finished_exchange(metrics, answering(b"whole"), method="HEAD")

    assert exchange.time_to_first_byte is None


ANTHROPIC_ERROR = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
ERRORS = {
    "anthropic": [event(type="ping"), ANTHROPIC_ERROR],
    "anthropic, in small chunks": [ANTHROPIC_ERROR[i : i + 7] for i in range(0, 200, 7)],
    "openai responses": [
        event(type="response.created", response={"usage": None}),
        event(type="response.failed", response={"status": "failed", "error": {"code": "x"}}),
    ],
    "openai chat": [*WORDS, event(error={"message": "overloaded", "code": 503})],
    "openrouter": [*WORDS, event(choices=[], error={"code": 400, "message": "bad"})],
    "error before the end": [event(error={"message": "overloaded"}), b"data: [DONE]\n\n"],
}


@pytest.mark.parametrize("chunks", ERRORS.values(), ids=ERRORS)
@pytest.mark.anyio
async def test_error_event_in_a_stream_is_an_error(
    metrics: HttpMetrics, chunks: list[bytes]
) -> None:
    """The status of a stream with an error event stays 200; the outcome is an error."""
    exchange = await finished_exchange(metrics, streaming(chunks))

    assert (exchange.status, exchange.outcome) == (200, "error")


@pytest.mark.parametrize(
    "chunks",
    [
        [*WORDS, event(choices=[], error=None), b"data: [DONE]\n\n"],
        [event(choices=[{"delta": {"content": '{"error": "quoted"}'}}])],
        [event(type="content_block_delta", delta={"type": "text_delta", "text": "event: error"})],
    ],
    ids=["null", "quoted", "spelled out"],
)
@pytest.mark.anyio
async def test_error_in_the_text_of_a_model_is_not_an_error(
    metrics: HttpMetrics, chunks: list[bytes]
) -> None:
    """A null error, and errors in the text of a model, leave the outcome complete."""
    exchange = await finished_exchange(metrics, streaming(chunks))

    assert (exchange.status, exchange.outcome) == (200, "complete")


@pytest.mark.anyio
async def test_disconnect_after_an_error_event_is_an_error(metrics: HttpMetrics) -> None:
    """The official SDKs disconnect when they receive an error event."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([ANTHROPIC_ERROR], ends=False)(scope, receive, send)
        await returning_at_disconnect(scope, receive, send)

    assert (await finished_exchange(metrics, app)).outcome == "error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.anyio
async def test_exchange_finishes_before_background_tasks(clock: FakeClock, stream: bool) -> None:
    """Observers are notified at the last byte, before background tasks run."""
    order: list[str] = []
    seen: list[Exchange] = []

    def background_task() -> None:
        order.append("in the background")
        clock.advance(60)

    async def endpoint(request: Request) -> Response:
        clock.advance(2)
        task = BackgroundTask(background_task)
        if not stream:
            return Response(b"whole", background=task)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            clock.advance(1)
            yield b"b"

        return StreamingResponse(chunks(), background=task)

    def observer(exchange: Exchange) -> None:
        order.append("exchange")
        seen.append(exchange)

    app = Starlette(routes=[Route("/", endpoint)])
    await drive(ExchangeMiddleware(app, observers=[observer], clock=clock), http_scope(**ASGI_2_4))

    assert order == ["exchange", "in the background"]
    assert (seen[0].time_to_first_byte, seen[0].duration) == (2, 3 if stream else 2)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("extensions", [{}, {"http.response.pathsend": {}}], ids=["", "pathsend"])
@pytest.mark.anyio
async def test_file_response_is_complete(
    metrics: HttpMetrics, method: str, extensions: dict[str, object]
) -> None:
    """A file is complete if the application reads it, and if the server sends it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await FileResponse(__file__)({**scope, **ASGI_2_4, "extensions": extensions}, receive, send)

    exchange = await finished_exchange(metrics, app, method=method)

    assert (exchange.status, exchange.outcome) == (200, "complete")


@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/octet-stream"])
@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "overloaded"}}', event(error={"message": "overloaded"})],
    ids=["document", "stream"],
)
@pytest.mark.anyio
async def test_error_in_a_sniffed_body_is_ignored(
    body: bytes, content_type: bytes, metrics: HttpMetrics
) -> None:
    """A client could have a model write an error, and cause an alert about the provider."""
    exchange = await finished_exchange(metrics, answering(body, content_type=content_type))

    assert exchange.outcome == "complete"

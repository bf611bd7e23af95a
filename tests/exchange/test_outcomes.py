"""How requests end: each end is told once, with the status that went on the wire."""

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
    listening,
    listening_later,
    raising,
    raising_later,
    silent,
    streaming,
)
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock

# A server whose `send` tells that the client has left, so that nobody listens for it meanwhile.
PATIENT: dict[str, Any] = {"asgi": {"version": "3.0", "spec_version": "2.4"}}


class Raw:
    """An endpoint that answers as `app` does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


Drive = Callable[[ASGIApp, Scope], Awaitable[object]]


async def told(
    metrics: HttpMetrics,
    app: ASGIApp,
    ask: Drive = drive,
    *,
    method: str = "POST",
    usage: bool = True,
) -> Exchange:
    """The one exchange of a request that `app` answers; nothing is in progress after it."""
    seen: list[Exchange] = []
    observed = Middleware(ExchangeMiddleware, observers=[seen.append, metrics], usage=usage)
    whole = Starlette(routes=[Route("/case/{id}", Raw(app))], middleware=[observed])

    await ask(whole, http_scope("/case/1", method=method))

    (exchange,) = seen
    first = exchange.time_to_first_byte
    assert (exchange.method, exchange.route) == (method, "/case/{id}")
    assert first is None or 0 <= first <= exchange.duration
    assert metrics.registry.get_sample_value("tokenpulse_http_requests_in_progress") == 0
    counted = {"provider": exchange.provider, "outcome": exchange.outcome}
    assert metrics.registry.get_sample_value("tokenpulse_http_responses_total", counted) == 1
    return exchange


async def head_only(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends a head, and nothing after it."""
    await send({"type": "http.response.start", "status": 200})


async def fails_after_the_head(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails between its head and its body."""
    await head_only(scope, receive, send)
    raise RuntimeError("upstream went away")


async def fails_after_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails when all is said."""
    await answering()(scope, receive, send)
    raise RuntimeError("in the background")


async def answers_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers although its client is known to have left."""
    await listening(scope, receive, send)
    await answering(status=201)(scope, receive, send)


async def gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for an upstream no longer than it wants to, and fails."""
    with anyio.fail_after(0):
        await anyio.sleep_forever()


async def says_that_it_gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for an upstream no longer than it wants to, and says so."""
    with anyio.move_on_after(0):
        await anyio.sleep_forever()
    await answering(status=504)(scope, receive, send)


async def gives_up_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for the next piece of a stream no longer than it wants to, and fails."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    await gives_up(scope, receive, send)


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
        (head_only, 200, "truncated", False),
        (streaming(WORDS, ends=False), 200, "truncated", True),
        (fails_after_the_head, 200, "error", False),
        (raising_later, 200, "error", True),
        (fails_after_the_end, 200, "complete", True),
        (listening, 499, "client_disconnect", False),
        (listening_later, 200, "client_disconnect", True),
        (gives_up, 500, "error", False),
        (gives_up_later, 200, "error", True),
        (says_that_it_gives_up, 504, "complete", True),
    ],
    ids=[
        "200",
        "404",
        "503",
        "204",
        "304",
        "stream",
        "no answer",
        "exception before the head",
        "head alone",
        "truncated",
        "exception after the head",
        "exception in the stream",
        "exception after the end",
        "client gone before the head",
        "client gone in the stream",
        "own deadline before the head",
        "own deadline in the stream",
        "own deadline with an answer",
    ],
)
@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no usage"])
@pytest.mark.anyio
async def test_how_an_application_ends(
    metrics: HttpMetrics, app: ASGIApp, status: int, outcome: str, has_body: bool, usage: bool
) -> None:
    """The status is the wire's, 500 where the application gives none, 499 where nobody waits."""
    exchange = await told(metrics, app, usage=usage)

    assert (exchange.status, exchange.outcome) == (status, outcome)
    assert (exchange.time_to_first_byte is not None) is has_body


@pytest.mark.anyio
async def test_an_answer_to_a_client_known_to_be_gone(metrics: HttpMetrics) -> None:
    """Servers put none of it on the wire, so it is 499, as if the application had given up."""
    exchange = await told(metrics, answers_nobody)

    assert (exchange.status, exchange.outcome) == (499, "client_disconnect")


def leaving(at: str, *, piece: int = 0) -> Drive:
    """Ask as a client that a server finds gone when it sends the first `at`, or a later piece."""

    async def ask(app: ASGIApp, scope: Scope) -> Answer:
        answer: Answer
        sent: list[Message] = []

        def gone(message: Message) -> None:
            sent.append(message)
            if len([each for each in sent if each["type"] == at]) > piece:
                raise OSError("the client has left")

        raises = {"version": "3.0", "spec_version": "2.4"}
        answer = await drive(app, {**scope, "asgi": raises}, on_send=gone)
        return answer

    return ask


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (leaving("http.response.start"), 499),
        (leaving("http.response.body"), 200),
        (leaving("http.response.body", piece=1), 200),
    ],
    ids=["at the head", "at the first piece", "at the second piece"],
)
@pytest.mark.anyio
async def test_a_server_that_finds_the_client_gone(
    metrics: HttpMetrics, ask: Drive, status: int
) -> None:
    """It raises when the application sends: 499 where not even the head went out."""
    exchange = await told(metrics, streaming([*WORDS, *WORDS]), ask)

    assert (exchange.status, exchange.outcome) == (status, "client_disconnect")


async def cancelled(app: ASGIApp, scope: Scope) -> None:
    """Ask, and be cancelled once the application says that it waits."""
    with anyio.CancelScope() as whole:
        await drive(app, {**scope, "state": {"waits": whole.cancel}})
    assert whole.cancelled_caught


def waiting(*pieces: bytes, ends: bool = False) -> ASGIApp:
    """Says what it has to say, and waits."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if pieces:
            await streaming(pieces, ends=ends)(scope, receive, send)
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
    ids=["before the head", "in the stream", "after the end"],
)
@pytest.mark.anyio
async def test_a_cancelled_request(
    metrics: HttpMetrics, app: ASGIApp, status: int, outcome: str
) -> None:
    """A server that stops, or ends the request of a client gone; background work is no part."""
    exchange = await told(metrics, app, cancelled)

    assert (exchange.status, exchange.outcome) == (status, outcome)


@pytest.mark.parametrize("status", [200, 204, 304, 404])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.anyio
async def test_answers_without_a_body(metrics: HttpMetrics, method: str, status: int) -> None:
    """They are complete, and have no first byte whose time could be told."""
    exchange = await told(metrics, answering(b"", status=status), method=method)

    assert (exchange.status, exchange.outcome) == (status, "complete")
    assert exchange.time_to_first_byte is None


@pytest.mark.anyio
async def test_the_body_of_an_answer_to_head_is_none(metrics: HttpMetrics) -> None:
    """Applications send it, servers drop it: there is no first byte whose time could be told."""
    exchange = await told(metrics, answering(b"whole"), method="HEAD")

    assert exchange.time_to_first_byte is None


ANTHROPIC_ERROR = event(type="error", error={"type": "overloaded_error", "message": "Overloaded"})
ERRORS = {
    "anthropic": [event(type="ping"), ANTHROPIC_ERROR],
    "anthropic, cut in pieces": [ANTHROPIC_ERROR[i : i + 7] for i in range(0, 200, 7)],
    "openai responses": [
        event(type="response.created", response={"usage": None}),
        event(type="response.failed", response={"status": "failed", "error": {"code": "x"}}),
    ],
    "openai chat": [*WORDS, event(error={"message": "overloaded", "code": 503})],
    "openrouter": [*WORDS, event(choices=[], error={"code": 400, "message": "bad"})],
    "then the end": [event(error={"message": "overloaded"}), b"data: [DONE]\n\n"],
}


@pytest.mark.parametrize("chunks", ERRORS.values(), ids=ERRORS)
@pytest.mark.anyio
async def test_an_error_event_in_a_stream(metrics: HttpMetrics, chunks: list[bytes]) -> None:
    """The status on the wire stays 200; the outcome is an error."""
    exchange = await told(metrics, streaming(chunks))

    assert (exchange.status, exchange.outcome) == (200, "error")


@pytest.mark.parametrize(
    "chunks",
    [
        [*WORDS, event(choices=[], error=None), b"data: [DONE]\n\n"],
        [event(choices=[{"delta": {"content": '{"error": "quoted"}'}}])],
        [event(type="content_block_delta", delta={"type": "text_delta", "text": "event: error"})],
    ],
    ids=["null", "quoted by the model", "spelt out by the model"],
)
@pytest.mark.anyio
async def test_words_about_errors_are_no_error(metrics: HttpMetrics, chunks: list[bytes]) -> None:
    """What a model says, and an error of null, are answers like any other."""
    exchange = await told(metrics, streaming(chunks))

    assert (exchange.status, exchange.outcome) == (200, "complete")


@pytest.mark.anyio
async def test_a_client_that_leaves_after_an_error_event_has_left(metrics: HttpMetrics) -> None:
    """Whoever leaves did not get the whole answer, whatever was in it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([ANTHROPIC_ERROR], ends=False)(scope, receive, send)
        await listening(scope, receive, send)

    assert (await told(metrics, app)).outcome == "client_disconnect"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.anyio
async def test_background_tasks_are_not_waited_for(clock: FakeClock, stream: bool) -> None:
    """The exchange is told at the last byte of the body, and only then do they run."""
    order: list[str] = []
    seen: list[Exchange] = []

    def later() -> None:
        order.append("in the background")
        clock.advance(60)

    async def endpoint(request: Request) -> Response:
        clock.advance(2)
        task = BackgroundTask(later)
        if not stream:
            return Response(b"whole", background=task)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            clock.advance(1)
            yield b"b"

        return StreamingResponse(pieces(), background=task)

    def observer(exchange: Exchange) -> None:
        order.append("told")
        seen.append(exchange)

    app = Starlette(routes=[Route("/", endpoint)])
    await drive(ExchangeMiddleware(app, observers=[observer], clock=clock), http_scope(**PATIENT))

    assert order == ["told", "in the background"]
    assert (seen[0].time_to_first_byte, seen[0].duration) == (2, 3 if stream else 2)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("extensions", [{}, {"http.response.pathsend": {}}], ids=["", "pathsend"])
@pytest.mark.anyio
async def test_files(metrics: HttpMetrics, method: str, extensions: dict[str, object]) -> None:
    """Read by the application or sent by the server: the answer is complete."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await FileResponse(__file__)({**scope, **PATIENT, "extensions": extensions}, receive, send)

    exchange = await told(metrics, app, method=method)

    assert (exchange.status, exchange.outcome) == (200, "complete")


@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/octet-stream"])
@pytest.mark.parametrize(
    "body",
    [b'{"error": {"message": "overloaded"}}', event(error={"message": "overloaded"})],
    ids=["a document", "a stream"],
)
@pytest.mark.anyio
async def test_error_in_sniffed_body_is_not_believed(
    body: bytes, content_type: bytes, metrics: HttpMetrics
) -> None:
    """A client could have the model write it, and raise an alert about the provider."""
    exchange = await told(metrics, answering(body, content_type=content_type))

    assert exchange.outcome == "complete"

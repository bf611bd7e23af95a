"""Requests in progress: their age, and how long each has been idle."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Providers, annotate
from tokenpulse_mw.exchange import RequestInProgress, RequestsInProgress, drop_exchange

from ..support.apps import WORDS, answering, raising, streaming
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from .routes import AppEndpoint, websocket_scope


class Steered:
    """A request whose client and application do what the test says."""

    def __init__(self, app: ASGIApp, scope: Scope) -> None:
        self.scope = {**scope, "steered": self}
        self._app = app
        self._commands = anyio.create_memory_object_stream[Message | None](1)
        self._uploads = anyio.create_memory_object_stream[Message](1)
        self._idle = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the request during the body, and end it."""
        (into, commands), (upload, uploads) = self._commands, self._uploads
        with into, commands, upload, uploads:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._run, uploads.receive)
                await self._idle.wait()
                yield
                into.close()

    async def command(self, message: Message | None) -> None:
        """Have the application send a message, or with None receive one."""
        self._idle = anyio.Event()
        await self._commands[0].send(message)
        await self._idle.wait()

    async def start(self, status: int = 200) -> None:
        """Have the application send the headers of a stream."""
        headers = [(b"content-type", b"text/event-stream")]
        start = {"type": "http.response.start", "status": status, "headers": headers}
        await self.command(start)

    async def send(self, body: bytes | bytearray, *, more: bool = True) -> None:
        """Have the application send a part of the body."""
        await self.command({"type": "http.response.body", "body": body, "more_body": more})

    async def upload(self, body: bytes, *, more: bool = True) -> None:
        """Have the client send a part of its body, and the application read it."""
        await self._uploads[0].send({"type": "http.request", "body": body, "more_body": more})
        await self.command(None)

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow the commands of the test."""
        self._idle.set()
        async for command in self._commands[1]:
            await (receive() if command is None else send(command))
            self._idle.set()

    async def _run(self, receive: Receive) -> None:
        await self._app(self.scope, receive, self._discard)

    async def _discard(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()


async def steered(scope: Scope, receive: Receive, send: Send) -> None:
    """Follow the commands of the `Steered` of the scope."""
    await scope["steered"].respond(scope, receive, send)


def steering(clock: FakeClock, app: ASGIApp = steered, **options: Any) -> tuple[Any, ...]:
    """Return requests in progress, and a middleware that fills them."""
    in_progress = RequestsInProgress(clock=clock)
    middleware = ExchangeMiddleware(app, in_progress=in_progress, clock=clock, **options)
    return in_progress, middleware


def idle(in_progress: RequestsInProgress) -> list[float]:
    """Return the idle time of each request."""
    return [request.idle for request in in_progress.requests()]


@pytest.mark.anyio
async def test_request_is_in_progress_until_its_last_byte(clock: FakeClock) -> None:
    """A request that has ended is not listed, while its background tasks still run."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/chat", method="POST"))
    assert (len(in_progress), in_progress.oldest()) == (0, 0.0)

    async with request.running():
        clock.advance(3)
        assert (len(in_progress), in_progress.oldest()) == (1, 3.0)
        await request.start()
        await request.send(b"data", more=False)
        assert (len(in_progress), in_progress.oldest()) == (0, 0.0)


@pytest.mark.parametrize(
    "app",
    [answering(), raising, streaming(WORDS, ends=False)],
    ids=["complete", "raising", "truncated"],
)
@pytest.mark.anyio
async def test_no_request_stays_after_its_end(app: ASGIApp) -> None:
    """Exceptions and truncated responses end a request too."""
    in_progress = RequestsInProgress()

    await drive(ExchangeMiddleware(app, in_progress=in_progress))

    assert (len(in_progress), in_progress.requests()) == (0, [])


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.anyio
async def test_request_without_messages_is_idle_since_its_arrival(
    clock: FakeClock, method: str
) -> None:
    """The time is exact, however late the first sample is."""
    in_progress, app = steering(clock)

    async with Steered(app, http_scope("/chat", method=method)).running():
        clock.advance(700)
        assert in_progress.longest_idle() == {"waiting": 700.0, "streaming": 0.0}
        assert idle(in_progress) == [700.0]


@pytest.mark.anyio
async def test_stream_that_moves_is_not_idle(clock: FakeClock) -> None:
    """In 30 minutes with a chunk every 4 seconds, idle times stay below 10 seconds."""
    longest: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(WORDS, ends=False)(scope, receive, send)
        for second in range(1800):
            clock.advance(1)
            if second % 4 == 0:
                await send({"type": "http.response.body", "body": WORDS[0], "more_body": True})
            if second % 5 == 0:
                longest.extend(idle(in_progress))
        assert in_progress.oldest() == 1800

    in_progress, middleware = steering(clock, app)

    assert (await drive(middleware, http_scope("/chat", method="POST"))).error is None
    assert len(longest) == 360
    assert max(longest) < 10


@pytest.mark.parametrize(
    "chunk", [WORDS[0], b"x" * 5000, bytearray(b"changing")], ids=["small", "large", "buffer"]
)
@pytest.mark.anyio
async def test_stream_that_stops_is_idle_from_its_last_byte(
    clock: FakeClock, chunk: bytes | bytearray
) -> None:
    """Chunks that are metered together, large ones and buffers count alike."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/chat", method="POST"))

    async with request.running():
        await request.start()
        for _ in range(40):
            await request.send(chunk)
            in_progress.sample()
            clock.advance(1)
        assert idle(in_progress) == [1.0]
        clock.advance(120)
        assert idle(in_progress) == [121.0]
        assert in_progress.longest_idle() == {"waiting": 0.0, "streaming": 121.0}
        assert [request.phase for request in in_progress.requests()] == ["streaming"]
        await request.send(chunk)
        assert idle(in_progress) == [0.0]


@pytest.mark.anyio
async def test_idle_time_is_never_too_large(clock: FakeClock) -> None:
    """It begins at the first sample after a message, which may be later than the message."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/chat", method="POST"))

    async with request.running():
        await request.start()
        await request.send(WORDS[0])
        clock.advance(60)
        assert idle(in_progress) == [0.0]
        clock.advance(60)
        assert idle(in_progress) == [60.0]


@pytest.mark.anyio
async def test_start_of_the_response_is_a_message(clock: FakeClock) -> None:
    """Servers send the headers at once, so the request is idle from then on."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/chat", method="POST"))

    async with request.running():
        clock.advance(50)
        assert idle(in_progress) == [50.0]
        await request.start()
        assert idle(in_progress) == [0.0]
        clock.advance(10)
        assert idle(in_progress) == [10.0]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.anyio
async def test_upload_that_moves_is_not_idle(clock: FakeClock, method: str) -> None:
    """A slow client is not a provider that hangs."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/files", method=method))

    async with request.running():
        for _ in range(3):
            await request.upload(b"part")
            in_progress.sample()
            clock.advance(300)
        assert idle(in_progress) == [300.0]


@pytest.mark.anyio
async def test_event_feed_may_be_idle(clock: FakeClock) -> None:
    """The stream of a GET request is quiet until there is an event; before it, it can hang."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/events"))

    async with request.running():
        clock.advance(30)
        assert idle(in_progress) == [30.0]
        await request.start()
        await request.send(b": hello\n\n")
        clock.advance(4000)
        assert idle(in_progress) == [0.0]
        assert in_progress.longest_idle() == {"waiting": 0.0, "streaming": 0.0}
        assert in_progress.oldest() == 4030


@pytest.mark.anyio
async def test_requests_are_described_as_far_as_they_are_known(clock: FakeClock) -> None:
    """Route, provider, model and annotations are those of the exchange."""
    inner = Starlette(routes=[Route("/{model}/chat", AppEndpoint(steered), methods=["POST"])])
    in_progress, app = steering(
        clock,
        Starlette(routes=[Mount("/v1", inner)]),
        provider=Providers({"anthropic": ["claude-*"]}),
        request_model=True,
    )
    request = Steered(app, http_scope("/v1/prod/chat", method="POST"))

    async with request.running():
        await request.upload(b'{"messages": [')
        (before,) = in_progress.requests()
        await request.upload(b'], "model": "claude-opus-5"}', more=False)
        annotate(request.scope, tenant="7", tenant_name="Acme", credential="c1")
        annotate(request.scope, credential_group="prod")
        clock.advance(2)
        (after,) = in_progress.requests()
        await request.start()
        await request.send(b'data: {"model": "claude-opus-5-20270101", "choices": []}\n\n')
        (streaming_now,) = in_progress.requests()

    assert before.exchange.route == "/v1/{model}/chat"
    assert (before.id, before.exchange.model) == (1, None)
    assert after.exchange.model == "claude-opus-5"
    exchange = after.exchange
    assert (exchange.tenant, exchange.tenant_name) == ("7", "Acme")
    assert (exchange.credential, exchange.credential_group) == ("c1", "prod")
    assert (after.id, after.phase, exchange.duration, exchange.status) == (1, "waiting", 2.0, 0)
    assert streaming_now.exchange.model == "claude-opus-5-20270101"
    assert (streaming_now.exchange.provider, streaming_now.phase) == ("anthropic", "streaming")


@pytest.mark.anyio
async def test_only_declared_provider_is_that_of_a_request_in_progress(clock: FakeClock) -> None:
    """The finished exchange counts for it too, so a stalled request must not be of `unknown`."""
    seen: list[Exchange] = []
    app = Starlette(routes=[Route("/chat", AppEndpoint(steered), methods=["POST"])])
    in_progress, middleware = steering(
        clock, app, observers=[seen.append], provider=Providers(["claude"])
    )
    request = Steered(middleware, http_scope("/chat", method="POST"))

    async with request.running():
        (listed,) = in_progress.requests()
        await request.start(status=503)
        await request.send(b"{}", more=False)

    assert [listed.exchange.provider, seen[0].provider] == ["claude", "claude"]


@pytest.mark.anyio
async def test_model_of_a_complete_request_body_is_known(clock: FakeClock) -> None:
    """The body is examined once it has been read, and the exchange still has its model."""
    seen: list[Exchange] = []
    in_progress, app = steering(clock, observers=[seen.append], request_model=True)
    scope = http_scope("/chat", method="POST")
    request = Steered(app, scope)

    async with request.running():
        await request.upload(b'{"model": "gpt-5"}', more=False)
        (listed,) = in_progress.requests()
        await request.start(status=503)
        await request.send(b"{}", more=False)

    assert (listed.exchange.model, listed.exchange.model_source) == ("gpt-5", "request")
    assert [exchange.model for exchange in seen] == ["gpt-5"]


@pytest.mark.anyio
async def test_model_after_many_brackets_is_searched_at_the_end_only(clock: FakeClock) -> None:
    """Bodies of many stalled uploads must not take long each time they are listed."""
    seen: list[Exchange] = []
    in_progress, app = steering(clock, observers=[seen.append], request_model=True)
    request = Steered(app, http_scope("/v1/chat/completions", method="POST"))
    nested = b'{"a":[{"model":1},' + b"{}," * 300 + b'0],"model":"gpt-5"'

    async with request.running():
        await request.upload(nested)
        assert [found.exchange.model for found in in_progress.requests()] == [None]
        await request.upload(b"}", more=False)
        assert [found.exchange.model for found in in_progress.requests()] == [None]
        await request.start(500)
        await request.send(b"", more=False)

    assert [exchange.model for exchange in seen] == ["gpt-5"]


@pytest.mark.anyio
async def test_oldest_requests_are_returned_first(clock: FakeClock) -> None:
    """`limit` and `min_idle` choose among them, and each request keeps its number."""
    in_progress, app = steering(clock)
    first, second, third = (Steered(app, http_scope(f"/{n}", method="POST")) for n in range(3))

    def numbers(**options: Any) -> list[int]:
        return [request.id for request in in_progress.requests(**options)]

    async with first.running():
        clock.advance(5)
        in_progress.sample()
        async with second.running():
            clock.advance(5)
            async with third.running():
                clock.advance(5)
                assert numbers() == [1, 2, 3]
                assert numbers(limit=2) == [1, 2]
                assert numbers(min_idle=10.0) == [1, 2]
                assert in_progress.oldest() == 15.0


@pytest.mark.anyio
async def test_dropped_exchange_is_not_in_progress(clock: FakeClock) -> None:
    """A probe or a scrape that hangs is not a request of a client."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        drop_exchange(scope)
        await steered(scope, receive, send)

    in_progress, middleware = steering(clock, app)

    async with Steered(middleware, http_scope("/metrics")).running():
        assert (len(in_progress), in_progress.requests()) == (0, [])


@pytest.mark.anyio
async def test_accepted_websocket_is_not_in_progress(clock: FakeClock) -> None:
    """Only its handshake is a request: a quiet connection does not hang."""
    in_progress, app = steering(clock)
    request = Steered(app, websocket_scope("/live"))

    async with request.running():
        assert len(in_progress) == 1
        await request.command({"type": "websocket.accept"})
        assert len(in_progress) == 0


@pytest.mark.anyio
async def test_stacked_middlewares_both_list_the_request(clock: FakeClock) -> None:
    """Each lists it once, whichever has the recorder."""
    inner = RequestsInProgress(clock=clock)
    outer, app = steering(clock, ExchangeMiddleware(steered, in_progress=inner, clock=clock))

    async with Steered(app, http_scope("/chat")).running():
        assert (len(outer), len(inner)) == (1, 1)
    assert (len(outer), len(inner)) == (0, 0)


@pytest.mark.anyio
async def test_route_that_cannot_be_resolved_is_reported(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure of a resolver must not hide the other requests."""

    def failing(scope: Scope) -> str:
        raise RuntimeError("no table")

    in_progress, app = steering(clock, provider=Providers(resolver=failing))

    async with Steered(app, http_scope("/chat", method="POST")).running():
        (request,) = in_progress.requests()

    assert isinstance(request, RequestInProgress)
    assert "failed with RuntimeError" in caplog.text


@pytest.mark.anyio
async def test_watch_samples_at_once(clock: FakeClock) -> None:
    """Without it, the idle time of a stream would begin at the next evaluation."""
    in_progress, app = steering(clock)
    request = Steered(app, http_scope("/chat", method="POST"))

    async with request.running():
        await request.start()
        await request.send(WORDS[0])
        with anyio.move_on_after(0):
            await in_progress.watch()
        clock.advance(50)
        assert idle(in_progress) == [50.0]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"in_progress": 3}, r"^in_progress must be RequestsInProgress\(\.\.\.\), got 3$"),
        ({"quotas": 3}, r"^quotas must be UpstreamQuotas\(\.\.\.\), got 3$"),
    ],
)
def test_invalid_arguments_are_rejected(options: dict[str, Any], error: str) -> None:
    """The error names the argument."""
    with pytest.raises(ValueError, match=error):
        ExchangeMiddleware(answering(), **options)
    with pytest.raises(ValueError, match=r"^clock must be a function"):
        RequestsInProgress(clock=1)  # type: ignore[arg-type]

"""ExchangeMiddleware: one measurement for each request, and unchanged responses."""

from __future__ import annotations

import gc
import gzip
import weakref
from functools import partial
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Providers, TokenUsage

from ..support.apps import answering, streaming
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock

CHAT = b'{"model":"gpt-demo","usage":{"prompt_tokens":3,"completion_tokens":5}}'


@pytest.mark.anyio
async def test_exchange_has_the_fields_of_request_and_response() -> None:
    """Method, status, outcome and provider are those of the request and its response."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(status=201), observers=[seen.append])

    await drive(app, http_scope("/claude/v1/messages", method="POST"))

    (exchange,) = seen
    assert (exchange.method, exchange.status) == ("POST", 201)
    assert (exchange.outcome, exchange.provider) == ("complete", "claude")
    assert exchange.route == "/{path}"
    assert not exchange.limited


@pytest.mark.anyio
async def test_unknown_method_is_recorded_as_other() -> None:
    """A client cannot create label values with invented methods (CVE-2023-45142)."""
    seen: list[Exchange] = []

    await drive(ExchangeMiddleware(answering(), observers=[seen.append]), http_scope(method="BREW"))

    assert seen[0].method == "_OTHER"


@pytest.mark.anyio
async def test_duration_ends_with_the_last_byte_of_the_body(clock: FakeClock) -> None:
    """The duration excludes work after the response, such as background tasks."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        clock.advance(1)
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        clock.advance(2)
        await send({"type": "http.response.body", "body": b"b"})
        clock.advance(60)

    await drive(ExchangeMiddleware(app, observers=[seen.append], clock=clock))

    assert (seen[0].time_to_first_byte, seen[0].duration) == (1, 3)


@pytest.mark.anyio
async def test_response_without_a_body_has_no_first_byte() -> None:
    """The time to the first byte of an empty body is None."""
    seen: list[Exchange] = []

    await drive(ExchangeMiddleware(answering(b"", status=204), observers=[seen.append]))

    assert seen[0].time_to_first_byte is None


@pytest.mark.anyio
async def test_response_to_a_post_is_metered() -> None:
    """The token usage and the model are read from the response to a POST."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(answering(CHAT), observers=[seen.append]), http_scope(method="POST")
    )

    assert seen[0].usage == TokenUsage(input=3, output=5)
    assert (seen[0].usage_source, seen[0].model) == ("reported", "gpt-demo")


@pytest.mark.parametrize(
    ("method", "status", "usage"), [("GET", 200, True), ("POST", 500, True), ("POST", 200, False)]
)
@pytest.mark.anyio
async def test_response_is_not_metered_without_usage_success_and_post(
    method: str, status: int, usage: bool
) -> None:
    """Responses to GET, errors, and responses with `usage=False` have no usage."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(CHAT, status=status), observers=[seen.append], usage=usage)

    await drive(app, http_scope(method=method))

    assert (seen[0].usage, seen[0].usage_source) == (None, None)


@pytest.mark.parametrize("body", [b'{"choices":[]}', b"not json", b"[" * 10_000])
@pytest.mark.anyio
async def test_provider_response_without_usage_is_missing(body: bytes) -> None:
    """The usage is missing if the response of a provider is unreadable or has no tokens."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(answering(body), observers=[seen.append]),
        http_scope("/codex/v1/chat/completions", method="POST"),
    )

    assert (seen[0].usage, seen[0].usage_source) == (None, "missing")


@pytest.mark.anyio
async def test_json_response_of_the_gateway_has_no_missing_usage() -> None:
    """JSON of the gateway itself is not taken for the response of a model."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(answering(b'{"saved":true}'), observers=[seen.append]),
        http_scope("/settings", method="POST"),
    )

    assert seen[0].usage_source is None


@pytest.mark.anyio
async def test_time_to_first_token_is_that_of_the_first_content(
    clock: FakeClock,
) -> None:
    """Events before the first content do not count as the first token."""
    seen: list[Exchange] = []
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    word = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    app = ExchangeMiddleware(
        streaming([role, word, word, b"data: [DONE]\n\n"]), observers=[seen.append], clock=clock
    )

    await drive(app, http_scope(method="POST"), on_send=lambda message: clock.advance(1))

    # Each message takes a second: the headers until 1, the role until 2, the first word until 3.
    assert seen[0].time_to_first_byte == 2
    assert seen[0].time_to_first_token == 3
    assert seen[0].duration == 5


@pytest.mark.anyio
async def test_error_event_in_a_stream_is_an_error() -> None:
    """The outcome of a stream that began with 200 and ends in an error event is an error."""
    seen: list[Exchange] = []
    chunks = [b'data: {"choices":[]}\n\n', b'data: {"error":{"message":"overloaded"}}\n\n']

    await drive(
        ExchangeMiddleware(streaming(chunks), observers=[seen.append]), http_scope(method="POST")
    )

    assert (seen[0].status, seen[0].outcome) == (200, "error")


@pytest.mark.anyio
async def test_stacked_middlewares_record_a_request_once() -> None:
    """An inner middleware adds its observers to the recorder; duplicates are notified once."""
    inner: list[Exchange] = []
    outer: list[Exchange] = []
    append_inner, append_outer = inner.append, outer.append
    app = ExchangeMiddleware(answering(), observers=[append_inner, append_outer])
    app = ExchangeMiddleware(app, observers=[append_outer])

    await drive(app)
    await drive(app)

    assert [len(inner), len(outer)] == [2, 2]
    assert inner[0] is outer[0]


@pytest.mark.anyio
async def test_middleware_created_for_each_request_is_notified() -> None:
    """The observers of a middleware that exists for one request are notified."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inner = ExchangeMiddleware(answering(), observers=[lambda exchange: seen.append(exchange)])
        await inner(scope, receive, send)

    outer = ExchangeMiddleware(app)
    for _ in range(100):
        await drive(outer)

    assert len(seen) == 100


@pytest.mark.anyio
async def test_inner_middleware_adds_its_provider_and_usage() -> None:
    """The providers and the usage option of an inner middleware apply to the exchange."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(CHAT), provider=Providers(["mine"]))
    app = ExchangeMiddleware(inner, observers=[seen.append], usage=False)

    await drive(app, http_scope("/mine/chat", method="POST"))

    assert (seen[0].provider, seen[0].usage_source) == ("mine", "reported")


@pytest.mark.anyio
async def test_provider_function_is_limited_to_declared_names() -> None:
    """An undeclared name from a function of the scope is recorded as `other`."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(
        answering(), observers=[seen.append], provider=lambda scope: scope["path"][1:]
    )

    for path in ("/claude", "/evil-1", "/"):
        await drive(app, http_scope(path))

    assert [exchange.provider for exchange in seen] == ["claude", "other", "unknown"]


@pytest.mark.anyio
async def test_provider_in_the_response_header_overrides_the_path() -> None:
    """A gateway that fails over to another provider names it in `x-tokenpulse-provider`."""
    seen: list[Exchange] = []
    app = answering(headers=[(b"X-TokenPulse-Provider", b"gemini")])

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope("/claude/v1"))

    assert seen[0].provider == "gemini"


@pytest.mark.anyio
async def test_client_that_leaves_before_the_headers_is_499() -> None:
    """An application that stops because its client has left has not failed."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (499, "client_disconnect")


@pytest.mark.anyio
async def test_client_that_leaves_mid_stream_is_not_a_truncated_response() -> None:
    """A response without an end is truncated, unless a disconnect was received."""
    seen: list[Exchange] = []
    truncated = ExchangeMiddleware(streaming([b"a", b"b"], ends=False), observers=[seen.append])

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    await drive(truncated)
    await drive(ExchangeMiddleware(listening, observers=[seen.append]))

    assert [(exchange.status, exchange.outcome) for exchange in seen] == [
        (200, "truncated"),
        (200, "client_disconnect"),
    ]


@pytest.mark.anyio
async def test_stream_completed_after_a_disconnect_is_a_client_disconnect() -> None:
    """A body that the application ends after a disconnect is not complete."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body"})

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (200, "client_disconnect")


@pytest.mark.anyio
async def test_send_that_raises_oserror_is_a_client_disconnect() -> None:
    """ASGI 2.4 servers raise OSError from `send` if the client has left."""
    seen: list[Exchange] = []

    def raise_on_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    response = await drive(
        ExchangeMiddleware(answering(), observers=[seen.append]), on_send=raise_on_body
    )

    assert isinstance(response.error, OSError)
    assert (seen[0].status, seen[0].outcome) == (200, "client_disconnect")


@pytest.mark.anyio
async def test_application_that_returns_without_a_response_is_a_500() -> None:
    """The server responds with 500 in its place, so 500 is recorded."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (500, "error")


@pytest.mark.anyio
async def test_disconnect_after_the_response_is_ignored() -> None:
    """A disconnect after the last byte leaves the outcome complete."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await receive()
        await receive()

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert [exchange.outcome for exchange in seen] == ["complete"]


@pytest.mark.anyio
async def test_exception_after_the_response_is_ignored() -> None:
    """A background task that raises leaves the outcome complete."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        raise RuntimeError("in the background")

    response = await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert isinstance(response.error, RuntimeError)
    assert [(exchange.status, exchange.outcome) for exchange in seen] == [(200, "complete")]


@pytest.mark.parametrize(
    ("encoding", "body", "source"),
    [
        (b"gzip", gzip.compress(CHAT, mtime=0), "reported"),
        (b"gzip", CHAT, "missing"),
        (b"unknown", CHAT, "missing"),
        (b"Identity", CHAT, "reported"),
        (b"identity", CHAT, "reported"),
    ],
)
@pytest.mark.anyio
async def test_compressed_response_is_metered(encoding: bytes, body: bytes, source: str) -> None:
    """The usage is missing if the coding is unknown or the body is not in that coding."""
    seen: list[Exchange] = []
    app = answering(body, headers=[(b"content-encoding", encoding)])

    await drive(
        ExchangeMiddleware(app, observers=[seen.append]),
        http_scope("/codex/chat", method="POST"),
    )

    assert seen[0].usage_source == source


@pytest.mark.anyio
async def test_compressed_html_page_has_no_missing_usage() -> None:
    """A media type that no model responds with is not metered, compressed or not."""
    seen: list[Exchange] = []
    app = answering(content_type=b"text/html", headers=[(b"content-encoding", b"br")])

    await drive(
        ExchangeMiddleware(app, observers=[seen.append]), http_scope("/codex/x", method="POST")
    )

    assert seen[0].usage_source is None


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
@pytest.mark.anyio
async def test_file_sent_by_the_server_completes_the_response(kind: str) -> None:
    """A message that makes the server send a file is the last one of the response."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": kind, "path": "/tmp/file", "file": 3})

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert seen[0].outcome == "complete"


def test_observer_that_is_not_callable_raises() -> None:
    """An observer that is not callable raises ValueError at construction."""
    with pytest.raises(ValueError, match=r"callables that take an Exchange, .*got 3"):
        ExchangeMiddleware(answering(), observers=[3])  # type: ignore[list-item]


def test_observer_that_is_a_coroutine_function_raises() -> None:
    """A coroutine function as observer raises ValueError at construction."""

    async def observe(exchange: Exchange) -> None:
        """Do nothing."""

    with pytest.raises(ValueError, match="and not coroutine functions"):
        ExchangeMiddleware(answering(), observers=[observe])


@pytest.mark.parametrize("provider", ["claude", ["claude", "codex"]])
def test_provider_that_is_not_a_function_raises(provider: Any) -> None:
    """The error for names explains how to pass them."""
    with pytest.raises(ValueError, match=r"provider must be Providers\(\[...\]\) or a function"):
        ExchangeMiddleware(answering(), provider=provider)


def test_clock_that_is_not_a_function_raises() -> None:
    """A clock that is not callable raises ValueError at construction."""
    with pytest.raises(ValueError, match=r"clock must be a function such as time\.perf_counter"):
        ExchangeMiddleware(answering(), clock=None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_observer_may_be_any_callable() -> None:
    """A static `__call__` and a partial function are valid observers."""
    seen: list[Exchange] = []

    class Static:
        @staticmethod
        def __call__(exchange: Exchange) -> None:
            seen.append(exchange)

    await drive(ExchangeMiddleware(answering(), observers=[Static(), partial(seen.append)]))

    assert len(seen) == 2


@pytest.mark.anyio
async def test_request_is_freed_by_reference_counting() -> None:
    """A request leaves no cycle, even if the server's `send` holds the scope as in uvicorn."""

    class Server:
        def __init__(self) -> None:
            self.scope = http_scope()

        async def send(self, message: Message) -> None:
            """Ignore the message."""

        async def receive(self) -> Message:
            return {"type": "http.request"}

    server = Server()
    reference = weakref.ref(server)
    gc.disable()
    try:
        await ExchangeMiddleware(answering())(server.scope, server.receive, server.send)
        del server
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_application_that_empties_its_scope_is_recorded() -> None:
    """Fields from an emptied scope keep their defaults, and the request continues."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.clear()
        await answering()(scope, receive, send)

    response = await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (response.error, response.status) == (None, 200)
    assert [(exchange.provider, exchange.status) for exchange in seen] == [("unknown", 200)]


@pytest.mark.anyio
async def test_response_after_a_disconnect_is_metered() -> None:
    """A client cannot avoid the charge for a response by disconnecting."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        await answering(CHAT)(scope, receive, send)

    await drive(
        ExchangeMiddleware(app, observers=[seen.append]), http_scope("/codex/chat", method="POST")
    )

    assert (seen[0].status, seen[0].outcome) == (499, "client_disconnect")
    assert (seen[0].usage, seen[0].usage_source) == (TokenUsage(3, 5), "partial")


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
@pytest.mark.anyio
async def test_file_sent_by_the_server_has_a_first_byte(kind: str, clock: FakeClock) -> None:
    """The first byte of a file is recorded when the server has accepted the message."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        clock.advance(2)
        await send({"type": kind, "path": "/tmp/x", "more_body": True})
        clock.advance(2)
        await send({"type": kind, "path": "/tmp/x"})

    await drive(ExchangeMiddleware(app, observers=[seen.append], clock=clock))

    assert [(exchange.time_to_first_byte, exchange.duration) for exchange in seen] == [(2, 4)]
    assert seen[0].outcome == "complete"


def test_exchange_repr_names_every_field() -> None:
    """The repr of an exchange names its fields and their values."""
    assert repr(Exchange("GET", 1.0)).startswith("Exchange(method='GET', started=1.0, route=''")

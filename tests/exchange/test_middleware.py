"""ExchangeMiddleware: every request is measured once, and never changed."""

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
async def test_an_exchange_tells_what_was_asked_and_answered() -> None:
    """Method, status, outcome and provider are those of the request and its answer."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(status=201), observers=[seen.append])

    await drive(app, http_scope("/claude/v1/messages", method="POST"))

    (exchange,) = seen
    assert (exchange.method, exchange.status) == ("POST", 201)
    assert (exchange.outcome, exchange.provider) == ("complete", "claude")
    assert exchange.route == "/{path}"
    assert not exchange.limited


@pytest.mark.anyio
async def test_a_method_that_no_standard_knows_is_other() -> None:
    """A client cannot make up label values by making up methods (CVE-2023-45142)."""
    seen: list[Exchange] = []

    await drive(ExchangeMiddleware(answering(), observers=[seen.append]), http_scope(method="BREW"))

    assert seen[0].method == "_OTHER"


@pytest.mark.anyio
async def test_durations_end_with_the_last_byte_of_the_body(clock: FakeClock) -> None:
    """What the application does after its answer, such as background tasks, is not included."""
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
async def test_an_answer_without_a_body_has_no_first_byte() -> None:
    """An empty body has no first byte, whose time could be told."""
    seen: list[Exchange] = []

    await drive(ExchangeMiddleware(answering(b"", status=204), observers=[seen.append]))

    assert seen[0].time_to_first_byte is None


@pytest.mark.anyio
async def test_the_usage_of_an_answer_is_metered() -> None:
    """A model's answer to a POST gives its token usage and the model's name."""
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
async def test_only_successful_posts_are_metered_and_only_if_wanted(
    method: str, status: int, usage: bool
) -> None:
    """Reading a stored answer back, an error, and `usage=False` give no usage."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(CHAT, status=status), observers=[seen.append], usage=usage)

    await drive(app, http_scope(method=method))

    assert (seen[0].usage, seen[0].usage_source) == (None, None)


@pytest.mark.parametrize("body", [b'{"choices":[]}', b"not json", b"[" * 10_000])
@pytest.mark.anyio
async def test_an_answer_of_a_provider_without_usage_is_missing(body: bytes) -> None:
    """A provider whose answer cannot be read, or says nothing of tokens, is counted as missing."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(answering(body), observers=[seen.append]),
        http_scope("/codex/v1/chat/completions", method="POST"),
    )

    assert (seen[0].usage, seen[0].usage_source) == (None, "missing")


@pytest.mark.anyio
async def test_an_answer_of_nobody_in_particular_has_no_usage_to_miss() -> None:
    """The gateway's own JSON is not held to be a model's answer."""
    seen: list[Exchange] = []

    await drive(
        ExchangeMiddleware(answering(b'{"saved":true}'), observers=[seen.append]),
        http_scope("/settings", method="POST"),
    )

    assert seen[0].usage_source is None


@pytest.mark.anyio
async def test_the_time_to_the_first_token_is_that_of_the_models_first_words(
    clock: FakeClock,
) -> None:
    """Events that come before any content do not count as the first token."""
    seen: list[Exchange] = []
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    word = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    app = ExchangeMiddleware(
        streaming([role, word, word, b"data: [DONE]\n\n"]), observers=[seen.append], clock=clock
    )

    await drive(app, http_scope(method="POST"), on_send=lambda message: clock.advance(1))

    # One second for the head, one for each chunk: the role comes at 2, the first word at 3.
    assert seen[0].time_to_first_byte == 2
    assert seen[0].time_to_first_token == 3
    assert seen[0].duration == 5


@pytest.mark.anyio
async def test_an_error_inside_a_stream_is_an_error() -> None:
    """A stream that began with 200 and ends in an error event has not gone well."""
    seen: list[Exchange] = []
    chunks = [b'data: {"choices":[]}\n\n', b'data: {"error":{"message":"overloaded"}}\n\n']

    await drive(
        ExchangeMiddleware(streaming(chunks), observers=[seen.append]), http_scope(method="POST")
    )

    assert (seen[0].status, seen[0].outcome) == (200, "error")


@pytest.mark.anyio
async def test_stacked_middlewares_tap_a_request_once() -> None:
    """An inner middleware adds its observers to the open tap; one given twice is told once."""
    inner: list[Exchange] = []
    outer: list[Exchange] = []
    note_inner, note_outer = inner.append, outer.append
    app = ExchangeMiddleware(answering(), observers=[note_inner, note_outer])
    app = ExchangeMiddleware(app, observers=[note_outer])

    await drive(app)
    await drive(app)

    assert [len(inner), len(outer)] == [2, 2]
    assert inner[0] is outer[0]


@pytest.mark.anyio
async def test_middlewares_that_come_and_go_are_told_too() -> None:
    """An application that makes a middleware for each request gets all of them told."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        inner = ExchangeMiddleware(answering(), observers=[lambda each: seen.append(each)])
        await inner(scope, receive, send)

    outer = ExchangeMiddleware(app)
    for _ in range(100):
        await drive(outer)

    assert len(seen) == 100


@pytest.mark.anyio
async def test_an_inner_middleware_brings_its_wishes_along() -> None:
    """Its providers and its wish for usage hold although it wraps nothing."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(CHAT), provider=Providers(["mine"]))
    app = ExchangeMiddleware(inner, observers=[seen.append], usage=False)

    await drive(app, http_scope("/mine/chat", method="POST"))

    assert (seen[0].provider, seen[0].usage_source) == ("mine", "reported")


@pytest.mark.anyio
async def test_a_provider_can_be_told_by_a_function() -> None:
    """A callable of the scope is held to the declared providers like everything else."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(
        answering(), observers=[seen.append], provider=lambda scope: scope["path"][1:]
    )

    for path in ("/claude", "/evil-1", "/"):
        await drive(app, http_scope(path))

    assert [each.provider for each in seen] == ["claude", "other", "unknown"]


@pytest.mark.anyio
async def test_the_provider_named_by_the_answer_goes_before_the_path() -> None:
    """A gateway that falls back to another provider says so in `x-tokenpulse-provider`."""
    seen: list[Exchange] = []
    app = answering(headers=[(b"X-TokenPulse-Provider", b"gemini")])

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope("/claude/v1"))

    assert seen[0].provider == "gemini"


@pytest.mark.anyio
async def test_a_client_that_leaves_before_the_head_is_499() -> None:
    """An application that gives up because its client has left has not failed."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (499, "client_disconnect")


@pytest.mark.anyio
async def test_a_client_that_leaves_in_mid_stream_is_told_from_a_truncated_answer() -> None:
    """An answer without an end is truncated, unless its client was seen leaving."""
    seen: list[Exchange] = []
    watch = ExchangeMiddleware(streaming([b"a", b"b"], ends=False), observers=[seen.append])

    async def listening(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass

    await drive(watch)
    await drive(ExchangeMiddleware(listening, observers=[seen.append]))

    assert [(each.status, each.outcome) for each in seen] == [
        (200, "truncated"),
        (200, "client_disconnect"),
    ]


@pytest.mark.anyio
async def test_an_application_that_ends_its_stream_for_a_client_gone_has_not_completed_it() -> None:
    """Ending the body in good order does not bring the client back."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body"})

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (200, "client_disconnect")


@pytest.mark.anyio
async def test_a_server_that_refuses_to_send_means_that_the_client_has_left() -> None:
    """ASGI 2.4 servers raise OSError from send once the client is gone."""
    seen: list[Exchange] = []

    def gone(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    answer = await drive(ExchangeMiddleware(answering(), observers=[seen.append]), on_send=gone)

    assert isinstance(answer.error, OSError)
    assert (seen[0].status, seen[0].outcome) == (200, "client_disconnect")


@pytest.mark.anyio
async def test_an_application_that_returns_without_answering_has_failed() -> None:
    """The server sends 500 in its place, so that is what is recorded."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (seen[0].status, seen[0].outcome) == (500, "error")


@pytest.mark.anyio
async def test_leaving_after_the_answer_changes_nothing() -> None:
    """A disconnect that comes once all is sent is how every connection ends."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        await receive()
        await receive()

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert [each.outcome for each in seen] == ["complete"]


@pytest.mark.anyio
async def test_an_exception_after_the_answer_changes_nothing() -> None:
    """A background task that fails has nothing to do with how the answer went."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        raise RuntimeError("in the background")

    answer = await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert isinstance(answer.error, RuntimeError)
    assert [(each.status, each.outcome) for each in seen] == [(200, "complete")]


@pytest.mark.parametrize(
    ("coding", "body", "source"),
    [
        (b"gzip", gzip.compress(CHAT, mtime=0), "reported"),
        (b"gzip", CHAT, "missing"),
        (b"unheard-of", CHAT, "missing"),
        (b"Identity", CHAT, "reported"),
        (b"identity", CHAT, "reported"),
    ],
)
@pytest.mark.anyio
async def test_a_compressed_answer_is_read(coding: bytes, body: bytes, source: str) -> None:
    """Where its coding is known, and true; else its usage is missing."""
    seen: list[Exchange] = []
    app = answering(body, headers=[(b"content-encoding", coding)])

    await drive(
        ExchangeMiddleware(app, observers=[seen.append]),
        http_scope("/codex/chat", method="POST"),
    )

    assert seen[0].usage_source == source


@pytest.mark.anyio
async def test_a_compressed_page_has_no_usage_to_miss() -> None:
    """What no model answers with is none of the meter's business, compressed or not."""
    seen: list[Exchange] = []
    app = answering(content_type=b"text/html", headers=[(b"content-encoding", b"br")])

    await drive(
        ExchangeMiddleware(app, observers=[seen.append]), http_scope("/codex/x", method="POST")
    )

    assert seen[0].usage_source is None


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
@pytest.mark.anyio
async def test_a_file_that_the_server_sends_is_a_whole_body(kind: str) -> None:
    """The message ends the answer: the server does the rest."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": kind, "path": "/tmp/file", "file": 3})

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert seen[0].outcome == "complete"


def test_observers_must_be_callable() -> None:
    """What cannot be called is refused at construction, not at the first request."""
    with pytest.raises(ValueError, match=r"callables that take an Exchange, .*got 3"):
        ExchangeMiddleware(answering(), observers=[3])  # type: ignore[list-item]


def test_an_observer_that_has_to_be_awaited_is_refused() -> None:
    """Nobody would await it."""

    async def observe(exchange: Exchange) -> None:
        """Never called."""

    with pytest.raises(ValueError, match="and not coroutine functions"):
        ExchangeMiddleware(answering(), observers=[observe])


@pytest.mark.parametrize("provider", ["claude", ["claude", "codex"]])
def test_names_are_no_provider_of_an_exchange(provider: Any) -> None:
    """The error says how to give them."""
    with pytest.raises(ValueError, match=r"provider must be Providers\(\[...\]\) or a function"):
        ExchangeMiddleware(answering(), provider=provider)


def test_a_clock_must_be_a_function() -> None:
    """Else every request would fail."""
    with pytest.raises(ValueError, match=r"clock must be a function such as time\.perf_counter"):
        ExchangeMiddleware(answering(), clock=None)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_an_observer_may_be_any_kind_of_callable() -> None:
    """Also one whose `__call__` is no method."""
    seen: list[Exchange] = []

    class Static:
        @staticmethod
        def __call__(exchange: Exchange) -> None:
            seen.append(exchange)

    await drive(ExchangeMiddleware(answering(), observers=[Static(), partial(seen.append)]))

    assert len(seen) == 2


@pytest.mark.anyio
async def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    """Also where the server's `send` holds the scope, as uvicorn's does."""

    class Cycle:
        def __init__(self) -> None:
            self.scope = http_scope()

        async def send(self, message: Message) -> None:
            """Take it."""

        async def receive(self) -> Message:
            return {"type": "http.request"}

    cycle = Cycle()
    gone = weakref.ref(cycle)
    gc.disable()
    try:
        await ExchangeMiddleware(answering())(cycle.scope, cycle.receive, cycle.send)
        del cycle
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_an_application_that_empties_its_scope_is_still_told() -> None:
    """What cannot be told of it is left out, and the request goes on."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope.clear()
        await answering()(scope, receive, send)

    answer = await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert (answer.error, answer.status) == (None, 200)
    assert [(each.provider, each.status) for each in seen] == [("unknown", 200)]


@pytest.mark.anyio
async def test_a_client_that_left_does_not_hide_what_a_model_has_used() -> None:
    """The vendor was asked and has answered; nobody gets that for free by hanging up."""
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
async def test_a_file_has_a_first_byte(kind: str, clock: FakeClock) -> None:
    """Its time is that at which the server has taken it."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        clock.advance(2)
        await send({"type": kind, "path": "/tmp/x", "more_body": True})
        clock.advance(2)
        await send({"type": kind, "path": "/tmp/x"})

    await drive(ExchangeMiddleware(app, observers=[seen.append], clock=clock))

    assert [(each.time_to_first_byte, each.duration) for each in seen] == [(2, 4)]
    assert seen[0].outcome == "complete"


def test_an_exchange_can_be_read() -> None:
    """Its repr names every field, for logs and for debugging."""
    assert repr(Exchange("GET", 1.0)).startswith("Exchange(method='GET', started=1.0, route=''")

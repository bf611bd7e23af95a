"""Tokens: reserved before a request, and settled when the response ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
    TokenUsage,
    annotate,
)
from tokenpulse_mw.exchange import drop_exchange
from tokenpulse_mw.ratelimit.policy import Charge, ChargeResult
from tokenpulse_mw.ratelimit.policy_set import PolicySet
from tokenpulse_mw.ratelimit.reservations import Reservations

from ..support.apps import (
    WORDS,
    answering,
    event,
    gone,
    raising,
    raising_mid_stream,
    returning_at_disconnect,
    silent,
    streaming,
    streaming_until_disconnect,
)
from ..support.asgi import Answer, drive, http_scope
from ..support.chunks import chunkings, split_at
from ..support.clock import FakeClock
from ..support.servers import Server
from ..support.waiting import PATIENCE
from ..usage.bodies import FRAMES, JSON, SSE, bedrock_chunk, bedrock_event
from ..usage.codings import CODINGS, Encode

LIMIT, RESERVE = 100, 40

Around = Callable[[ASGIApp], ASGIApp]

AROUND: dict[str, Around] = {
    "no exchange": lambda app: app,
    "an exchange": ExchangeMiddleware,
    "an exchange without usage": lambda app: ExchangeMiddleware(app, usage=False),
}

STRATEGIES = ("fixed-window", "sliding-window-counter", "gcra")


def client(scope: Scope) -> str:
    """Return the same key for all requests."""
    return "client"


def chat_with_usage(**counts: int) -> bytes:
    """Return a JSON response of a vendor with a usage."""
    return json.dumps({"object": "chat.completion", "model": "m", "usage": counts}).encode()


CHAT = [
    *WORDS,
    event(choices=[], usage={"prompt_tokens": 12, "completion_tokens": 8}),
    b"data: [DONE]\n\n",
]

CLAUDE = [
    event(type="message_start", message={"usage": {"input_tokens": 11, "output_tokens": 1}}),
    event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": "token"}),
    event(type="message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 8}),
    event(type="message_stop"),
]


class Budget:
    """Token limit of a client, and the limited application.

    Args:
        app: Application behind the limit.
        around: Wrapper of the limit.
        strategy: Strategy of the limiter.
        tokens: Reserve of each request.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        around: Around = AROUND["no exchange"],
        strategy: str = "fixed-window",
        tokens: Any = RESERVE,
    ) -> None:
        self.limiter = Limiter(f"{LIMIT}/minute", strategy=strategy, clock=FakeClock())
        policy = Policy(self.limiter, name="tokens", key=client, tokens=tokens)
        self.app = around(RateLimitMiddleware(app, policies=[policy]))

    @property
    def used(self) -> int:
        """Return the tokens that are used or reserved."""
        return LIMIT - self.limiter.peek("client", 0).remaining

    async def send(self, path: str = "/v1/chat", method: str = "POST", **options: Any) -> Answer:
        """Send one request."""
        return await drive(self.app, http_scope(path, method=method), **options)


async def annotating(scope: Scope, receive: Receive, send: Send) -> None:
    """Annotate a usage other than that of the response."""
    annotate(scope, usage=TokenUsage(input=30, output=3))
    await answering(chat_with_usage(prompt_tokens=1, completion_tokens=1))(scope, receive, send)


def annotating_with(usage: TokenUsage) -> ASGIApp:
    """Return an application that annotates `usage`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, usage=usage)
        await answering()(scope, receive, send)

    return app


async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with a usage, and drop the exchange from all measurements."""
    drop_exchange(scope)
    await answering(chat_with_usage(prompt_tokens=1, completion_tokens=1))(scope, receive, send)


COMPLETE: dict[str, tuple[ASGIApp, int]] = {
    "json": (answering(chat_with_usage(prompt_tokens=12, completion_tokens=8)), 20),
    "json of anthropic": (answering(chat_with_usage(input_tokens=12, output_tokens=9)), 21),
    "a stream of openai": (streaming(CHAT), 20),
    "a stream of anthropic": (streaming(CLAUDE), 19),
    "more than was reserved": (
        answering(chat_with_usage(prompt_tokens=50, completion_tokens=20)),
        70,
    ),
    "nothing": (answering(chat_with_usage(prompt_tokens=0, completion_tokens=0)), 0),
    "a usage annotated by the application": (annotating, 33),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "used"), COMPLETE.values(), ids=COMPLETE)
@pytest.mark.anyio
async def test_complete_response_is_charged_its_usage(
    app: ASGIApp, used: int, around: Around, strategy: str
) -> None:
    """The usage replaces the reserve, with every strategy and any exchange around the limit."""
    budget = Budget(app, around=around, strategy=strategy)

    response = await budget.send()

    assert response.status == 200
    assert response.headers["ratelimit"].startswith(f'"tokens";r={LIMIT - RESERVE};')
    assert budget.used == used


REFUNDED: dict[str, tuple[ASGIApp, str]] = {
    "a failing upstream": (answering(b'{"error":{}}', status=500), "POST"),
    "a request that is rejected": (answering(b'{"error":{}}', status=400), "POST"),
    "an upstream over its own limit": (answering(b'{"error":{}}', status=429), "POST"),
    "an exception": (raising, "POST"),
    "no response": (silent, "POST"),
    "a page": (answering(b"<p>", content_type=b"text/html"), "GET"),
    "a stored response": (answering(chat_with_usage(prompt_tokens=12, completion_tokens=8)), "GET"),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "method"), REFUNDED.values(), ids=REFUNDED)
@pytest.mark.anyio
async def test_reserve_is_refunded_if_no_model_responded(
    app: ASGIApp, method: str, around: Around, strategy: str
) -> None:
    """Errors and responses to GET are charged nothing."""
    budget = Budget(app, around=around, strategy=strategy)

    await budget.send(method=method)

    assert budget.used == 0


WITHOUT_USAGE = [
    b'data: {"choices":[{"delta":{"content":"to"}}],"usage":null}\n\n',
    b"data: [DONE]\n\n",
]

ZIPPED = answering(b"\x1f\x8b", headers=[(b"content-encoding", b"gzip")])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/codex/v1/chat/completions"])
@pytest.mark.parametrize(
    "app",
    [streaming(WITHOUT_USAGE), ZIPPED, answering(b'{"saved":true}')],
    ids=["a stream", "compressed", "other JSON"],
)
@pytest.mark.anyio
async def test_success_without_usage_is_charged_the_reserve(app: ASGIApp, path: str) -> None:
    """A response without a usage, or an unreadable one, does not avoid the limit."""
    limiter = Limiter("100/minute")
    policy = Policy(limiter, key=lambda scope: "client", tokens=40)

    await drive(RateLimitMiddleware(app, policies=[policy]), http_scope(path, method="POST"))

    assert limiter.peek("client").remaining == 60


@pytest.mark.parametrize("usage", [TokenUsage(input="3"), TokenUsage(input=3.5)])  # type: ignore[arg-type]
@pytest.mark.anyio
async def test_invalid_annotated_usage_is_charged_the_reserve(usage: TokenUsage) -> None:
    """An invalid annotation fails no request and keeps no slot."""
    tokens, slots = Limiter("100/minute"), InFlight(5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, usage=usage)
        await answering()(scope, receive, send)

    policies = [
        Policy(tokens, name="tokens", key=lambda scope: "client", tokens=5),
        Policy(slots, name="slots", key=lambda scope: "client"),
    ]
    response = await drive(RateLimitMiddleware(app, policies=policies), http_scope(method="POST"))

    assert response.error is None
    assert len(slots) == 0
    assert tokens.peek("client").remaining == 95


CUT: dict[str, tuple[ASGIApp, Callable[[Message], None], int]] = {
    "the client leaves openai": (streaming(CHAT), gone, RESERVE),
    "the client leaves anthropic": (streaming(CLAUDE), gone, 12),
    "the client leaves before the headers": (
        returning_at_disconnect,
        lambda message: None,
        RESERVE,
    ),
    "the client leaves after the headers": (
        streaming_until_disconnect,
        lambda message: None,
        RESERVE,
    ),
    "the application stops": (streaming(WORDS, ends=False), lambda message: None, RESERVE),
    "the upstream stops": (streaming(CLAUDE[:2], ends=False), lambda message: None, 12),
    "the application fails": (raising_mid_stream, lambda message: None, RESERVE),
    "the stream ends in an error": (
        streaming([*WORDS, event(error={"message": "overloaded"})]),
        lambda message: None,
        RESERVE,
    ),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "on_send", "used"), CUT.values(), ids=CUT)
@pytest.mark.anyio
async def test_truncated_response_is_charged_its_usage_or_the_reserve(
    app: ASGIApp, on_send: Callable[[Message], None], used: int, around: Around
) -> None:
    """A response is charged the usage reported so far, or the reserve without one."""
    budget = Budget(app, around=around)

    await budget.send(on_send=on_send)

    assert budget.used == used


@pytest.mark.parametrize("path", ["/claude/v1/messages", "/codex/v1/chat/completions"])
@pytest.mark.anyio
async def test_provider_response_without_usage_is_charged_the_reserve(path: str) -> None:
    """This holds for responses without a usage, and with an unreadable content coding."""
    readable, zipped = (
        Budget(answering(b'{"choices":[]}', headers=headers))
        for headers in ([], [(b"content-encoding", b"gzip")])
    )

    await readable.send(path)
    await zipped.send(path)

    assert (readable.used, zipped.used) == (RESERVE, RESERVE)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.anyio
async def test_truncated_stream_is_charged_its_events(around: Around, pieces: int) -> None:
    """Each event after the tenth is charged at least one token."""
    word = event(type="content_block_delta", delta={"type": "text_delta", "text": "token"})
    start = event(type="message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}})
    words = [word * pieces] * (35 // pieces)
    budget = Budget(streaming([start, *words], ends=False), around=around)

    await budget.send()

    assert budget.used == 9 + 1 + 35 - 10


_START = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}
_WORD = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "data: token"}}
_PART = {"candidates": [{"content": {"parts": [{"text": "token"}]}}]}
_COUNTS = {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1}}

# By format: media type, beginning of a stream, one event, and input tokens in the beginning.
# OpenAI and Converse report their usage at the end.
STREAMED: dict[str, tuple[bytes, bytes, bytes, int]] = {
    "anthropic": (SSE, event(**_START), event(**_WORD), 9),
    "anthropic with CR line ends": (
        SSE,
        event(**_START).replace(b"\n", b"\r"),
        event(**_WORD).replace(b"\n", b"\r"),
        9,
    ),
    "openai": (SSE, event(choices=[]), WORDS[0], 0),
    "gemini": (SSE, event(**_PART, **_COUNTS), event(**_PART), 9),
    "an array of gemini": (
        JSON,
        b"[" + json.dumps({**_PART, **_COUNTS}).encode(),
        b"," + json.dumps(_PART).encode(),
        9,
    ),
    "invoke": (FRAMES, bedrock_chunk(_START), bedrock_chunk(_WORD), 9),
    "converse": (
        FRAMES,
        bedrock_event("messageStart", {"role": "assistant"}),
        bedrock_event("contentBlockDelta", {"delta": {"text": "token"}}),
        0,
    ),
}


PLAIN: dict[str, tuple[bytes, Encode]] = {"plain": (b"", lambda data: data)}


@pytest.mark.parametrize("coding", (PLAIN | CODINGS).values(), ids=PLAIN | CODINGS)
@pytest.mark.parametrize("stream", STREAMED.values(), ids=STREAMED)
@given(data=st.data(), words=st.integers(0, 60))
def test_cut_stream_of_same_events_is_charged_the_same(
    stream: tuple[bytes, bytes, bytes, int],
    coding: tuple[bytes, Encode],
    words: int,
    data: st.DataObject,
) -> None:
    """Each event after the tenth is charged a token, with any content coding and chunks."""
    content_type, start, word, input_tokens = stream
    encoding, encode = coding
    chunks = data.draw(chunkings(encode(start + word * words)))
    headers = [(b"content-encoding", encoding)] if encoding else []
    app = streaming(chunks, content_type=content_type, headers=headers, ends=False)
    budget = Budget(app, tokens=1)

    anyio.run(budget.send)

    assert budget.used == input_tokens + max(1, 1 + words - 10)


@pytest.mark.parametrize("coding", (PLAIN | CODINGS).values(), ids=PLAIN | CODINGS)
@pytest.mark.anyio
async def test_truncated_compressed_stream_is_charged_its_events(
    coding: tuple[bytes, Encode],
) -> None:
    """After 1,000 events the client is charged them instead of the reserve."""
    encoding, encode = coding
    body = encode(event(**_START) + event(**_WORD) * 1000)
    chunks = split_at(body, range(0, len(body), 997))
    app = streaming(chunks, headers=[(b"content-encoding", encoding)], ends=False)
    limiter = Limiter("100000/minute", clock=FakeClock())
    policy = Policy(limiter, key=client, tokens=4000)

    await drive(RateLimitMiddleware(app, policies=[policy]), http_scope(method="POST"))

    assert limiter.limit - limiter.peek("client", 0).remaining == 9 + 1001 - 10


IMPLAUSIBLE: dict[str, tuple[ASGIApp, int]] = {
    "json": (answering(chat_with_usage(prompt_tokens=2**53 - 1, completion_tokens=3)), RESERVE),
    "a count above 64 bits": (
        answering(chat_with_usage(prompt_tokens=10**30, completion_tokens=3)),
        RESERVE,
    ),
    "a sum of input": (
        answering(chat_with_usage(input_tokens=6 * 10**8, cache_read_input_tokens=6 * 10**8)),
        RESERVE,
    ),
    "a sum of all": (
        answering(chat_with_usage(prompt_tokens=6 * 10**8, completion_tokens=6 * 10**8)),
        RESERVE,
    ),
    "the end of a stream": (
        streaming([*CLAUDE[:2], event(type="message_delta", usage={"output_tokens": 10**12})]),
        RESERVE,
    ),
    "the end of a stream with much input": (
        streaming(
            [
                event(type="message_start", message={"usage": {"input_tokens": 70}}),
                event(type="message_delta", usage={"output_tokens": 10**12}),
            ]
        ),
        70,
    ),
    "the beginning of a stream": (
        streaming(
            [
                event(type="message_start", message={"usage": {"input_tokens": 10**12}}),
                event(type="message_delta", usage={"output_tokens": 3}),
            ]
        ),
        RESERVE,
    ),
    "a later count of gemini": (
        streaming([event(usageMetadata={"promptTokenCount": count}) for count in (9, 10**10)]),
        RESERVE,
    ),
    "a count that is corrected later": (
        streaming([event(usageMetadata={"promptTokenCount": count}) for count in (10**10, 9)]),
        9,
    ),
    "a usage annotated by the application": (
        annotating_with(TokenUsage(input=10**9, output=1)),
        RESERVE,
    ),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("app", "used"), IMPLAUSIBLE.values(), ids=IMPLAUSIBLE)
@pytest.mark.anyio
async def test_implausible_usage_is_charged_at_least_the_reserve(
    app: ASGIApp, used: int, strategy: str
) -> None:
    """A number that no response can have neither fills the counter nor lowers the charge."""
    budget = Budget(app, strategy=strategy)

    await budget.send()

    assert budget.used == used


FREE = {"prompt_tokens": 0, "completion_tokens": 0}

WRITTEN_BY_MODEL: dict[str, bytes] = {
    "a document": json.dumps({"usage": FREE}).encode(),
    "a response of OpenAI": json.dumps(
        {"object": "chat.completion", "choices": [], "usage": FREE}
    ).encode(),
    "an event": event(usage=FREE),
    "a truncated stream": event(usage=FREE) + event(choices=[]),
    "lines": b'{"id": 1}\n' + json.dumps({"usage": FREE}).encode(),
    "an array": b"[" + json.dumps({"usage": FREE}).encode() + b"]",
}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/octet-stream"])
@pytest.mark.parametrize("body", WRITTEN_BY_MODEL.values(), ids=WRITTEN_BY_MODEL)
@pytest.mark.anyio
async def test_usage_in_sniffed_body_does_not_lower_the_charge(
    body: bytes, content_type: bytes, ends: bool
) -> None:
    """A client can make the model write a usage, so at least the reserve is charged."""
    budget = Budget(streaming([body], content_type=content_type, ends=ends))

    await budget.send()

    assert budget.used == RESERVE


@pytest.mark.anyio
async def test_usage_in_sniffed_body_raises_the_charge() -> None:
    """A response without a media type is charged its usage beyond the reserve."""
    body = chat_with_usage(prompt_tokens=50, completion_tokens=20)
    budget = Budget(answering(body, content_type=b""))

    await budget.send()

    assert budget.used == 70


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.anyio
async def test_dropped_exchange_is_charged_its_usage(around: Around) -> None:
    """Dropping an exchange hides it from observers, not from the token limit."""
    budget = Budget(dropping, around=around)

    await budget.send()

    assert budget.used == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.anyio
async def test_usage_above_the_limit_rejects_later_requests(strategy: str) -> None:
    """The first response is complete; the next request is allowed after `Retry-After`."""
    limiter = Limiter(f"{LIMIT}/minute", strategy=strategy, clock=(clock := FakeClock(960.0)))
    app = RateLimitMiddleware(
        answering(chat_with_usage(prompt_tokens=300, completion_tokens=50)),
        policies=[Policy(limiter, key=client, tokens=RESERVE)],
    )

    first = await drive(app, http_scope(method="POST"))
    second = await drive(app, http_scope(method="POST"))
    clock.advance(int(second.headers["retry-after"]))
    third = await drive(app, http_scope(method="POST"))

    assert [first.status, second.status, third.status] == [200, 429, 200]
    # A bucket drains 100 tokens per minute; the usage of a window ends with the window.
    waits = {"fixed-window": range(60, 61), "gcra": range(174, 176)}
    assert int(second.headers["retry-after"]) in waits.get(strategy, range(60, 121))


@pytest.mark.anyio
async def test_reserve_can_depend_on_the_request() -> None:
    """`tokens` may be a function of the scope."""
    budget = Budget(streaming(WORDS, ends=False), tokens=lambda scope: len(scope["path"]))

    await budget.send("/12345678")

    assert budget.used == 9


@pytest.mark.anyio
async def test_rejected_request_reserves_nothing() -> None:
    """This holds for rejections by the token limit and by other policies."""
    limiter = Limiter(f"{LIMIT}/minute", clock=FakeClock())
    policies = [
        Policy(limiter, name="tokens", key=client, tokens=RESERVE),
        Policy("3/day", name="requests", key=client),
    ]
    app = RateLimitMiddleware(streaming(WORDS, ends=False), policies=policies)

    responses = [await drive(app, http_scope(method="POST")) for _ in range(3)]

    assert [response.status for response in responses] == [200, 200, 429]
    assert limiter.peek("client").remaining == LIMIT - 2 * RESERVE
    assert [policy.limiter.peek("client").remaining for policy in app.policies] == [20, 1]  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_websocket_is_charged_the_reserve() -> None:
    """The responses over a WebSocket are not metered without the option of an exchange."""
    budget = Budget(silent)

    await drive(budget.app, {**http_scope("/live"), "type": "websocket"})

    assert budget.used == RESERVE


@pytest.mark.anyio
async def test_concurrent_requests_cannot_exceed_the_limit_together() -> None:
    """Reserves limit concurrent requests; a smaller usage allows later ones."""
    arrived, proceed = 0, anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal arrived
        arrived += 1
        await proceed.wait()
        await answering(chat_with_usage(prompt_tokens=12, completion_tokens=8))(
            scope, receive, send
        )

    budget, responses = Budget(app), list[Answer]()

    async def send_request() -> None:
        responses.append(await budget.send())
        if len(responses) == 8:
            proceed.set()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(send_request)

    assert [response.status for response in responses] == [429] * 8 + [200] * 2
    assert (arrived, budget.used) == (2, 40)
    assert (await budget.send()).status == 200


@given(
    strategy=st.sampled_from(STRATEGIES),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(0, 9)), max_size=40),
)
def test_used_and_reserved_tokens_never_exceed_the_limit(
    strategy: str, steps: list[tuple[bool, int, int]]
) -> None:
    """This holds for any order of requests that use at most their reserve."""
    limiter = Limiter(f"{LIMIT}/minute", strategy=strategy, clock=FakeClock())
    policy = Policy(limiter, key=client, tokens=lambda scope: scope["reserve"])
    policy_set = PolicySet([policy], enforce=True, on_decision=None)
    in_progress: list[tuple[Reservations, int]] = []
    used = 0

    for begins, amount, index in steps:
        if begins:
            _, rejection, reservations = policy_set.evaluate(http_scope(reserve=amount), None)
            assert (reservations is None) is (rejection is not None)
            if reservations is not None:
                in_progress.append((reservations, amount))
        elif in_progress:
            reservations, reserve = in_progress.pop(index % len(in_progress))
            spent = min(amount, reserve)
            reservations.finished(exchange_that_used(spent))
            reservations.finished(exchange_that_used(1000))  # without an effect
            used += spent
        taken = used + sum(reserve for _, reserve in in_progress)
        assert taken <= LIMIT
        assert LIMIT - limiter.peek("client", 0).remaining == taken


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.integers(1, 60),
            st.integers(0, 9),
            st.integers(0, 480).map(lambda sixteenths: sixteenths / 16),  # exact as float
        ),
        max_size=40,
    )
)
def test_no_window_is_charged_more_than_its_limit(
    steps: list[tuple[bool, int, int, float]],
) -> None:
    """This holds for requests that begin in one window and end in another."""
    clock = FakeClock()
    limiter = Limiter(f"{LIMIT}/minute", clock=clock)
    policy = Policy(limiter, key=client, tokens=lambda scope: scope["reserve"])
    policy_set = PolicySet([policy], enforce=True, on_decision=None)
    in_progress: list[tuple[Reservations, int, int]] = []
    windows: list[int] = []
    ends = 0.0

    for begins, amount, index, passed in steps:
        clock.advance(passed)
        if begins:
            _, _, reservations = policy_set.evaluate(http_scope(reserve=amount), None)
            if clock() >= ends:
                windows.append(0)
                ends = clock() + 60
            if reservations is not None:
                windows[-1] += amount
                in_progress.append((reservations, amount, len(windows) - 1))
        elif in_progress:
            reservations, reserve, window = in_progress.pop(index % len(in_progress))
            spent = min(amount, reserve)
            reservations.finished(exchange_that_used(spent))
            windows[window] -= reserve - spent
        assert all(charged <= LIMIT for charged in windows)
        if clock() < ends:
            assert LIMIT - limiter.peek("client", 0).remaining == windows[-1]


def exchange_that_used(tokens: int) -> Exchange:
    """Return a finished exchange with a usage."""
    exchange = Exchange("POST", 0.0)
    exchange.status, exchange.usage = 200, TokenUsage(output=tokens)
    return exchange


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_tokens_are_settled_in_the_storage(redis: Server, anyio_backend: str) -> None:
    """The usage replaces the reserve; a truncated response without usage keeps it."""
    limiter = SharedLimiter(
        f"{LIMIT}/day", storage=f"async+redis://{redis.place}", timeout=PATIENCE
    )
    policy = Policy(limiter, key=client, tokens=20)
    costs = iter([5, 0, 20, 35])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(chat_with_usage(prompt_tokens=next(costs), completion_tokens=0))(
            scope, receive, send
        )

    left = []
    for answering_app in (app, app, app, app, raising, raising_mid_stream):
        limited = RateLimitMiddleware(answering_app, policies=[policy])
        await drive(limited, http_scope(method="POST"))
        left.append((await limiter.peek("client", 0)).remaining)

    assert left == [95, 95, 75, 40, 40, 20]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_tokens_of_a_cancelled_request_are_settled(
    redis: Server, anyio_backend: str
) -> None:
    """The server cancels the request of a client that has left, which is charged its usage."""
    limiter = SharedLimiter(
        f"{LIMIT}/day", storage=f"async+redis://{redis.place}", timeout=PATIENCE
    )
    started = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming(CLAUDE[:2], ends=False)(scope, receive, send)
        started.set()
        await asyncio.Event().wait()

    policy = Policy(limiter, key=client, tokens=RESERVE)
    limited = RateLimitMiddleware(app, policies=[policy])
    task = asyncio.create_task(drive(limited, http_scope(method="POST")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await limiter.peek("client", 0)).remaining == LIMIT - 12


@pytest.mark.anyio
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_tokens_reserved_before_a_clear_are_not_settled(
    strategy: str, clock: FakeClock
) -> None:
    """The end of an older request changes no charge of a newer one."""
    limiter = Limiter("100/minute", strategy=strategy, clock=clock)
    slots = InFlight(2)
    policies = [Policy(limiter, tokens=40, key=client), Policy(slots, name="slots", key=client)]

    async def clear(scope: Scope, receive: Receive, send: Send) -> None:
        limiter.clear()
        slots.clear()
        limiter.hit("client", 10)
        slots.hit("client")
        await answering(chat_with_usage(prompt_tokens=1, completion_tokens=1))(scope, receive, send)

    await drive(RateLimitMiddleware(clear, policies=policies), http_scope(method="POST"))

    assert limiter.peek("client").remaining == 90
    assert slots.peek("client").remaining == 1


def test_tokens_rolled_back_after_a_clear_are_not_refunded() -> None:
    """A request that was rejected late refunds nothing to a limiter that was cleared meanwhile."""
    limiter = Limiter("100/minute")
    charge = Charge(Policy(limiter, tokens=40), "client", 40, limiter.clears)
    result = ChargeResult(charge, charge.apply(), limiter.clock())

    limiter.clear()
    limiter.hit("client", 10)
    result.rolled_back()

    assert limiter.peek("client").remaining == 90

"""Tokens: reserved before a request, and settled when it is over."""

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
from tokenpulse_mw.ratelimit.policy_set import PolicySet
from tokenpulse_mw.ratelimit.reservations import Reservations

from ..support.apps import (
    WORDS,
    answering,
    event,
    gone,
    listening,
    listening_later,
    raising,
    raising_later,
    silent,
    streaming,
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
    """Everybody is the same client."""
    return "client"


def told(**counts: int) -> bytes:
    """A vendor's JSON answer that says what it has cost."""
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
    """A client's tokens, and an application that is limited by them.

    Args:
        app: What answers.
        around: What is put around the limit.
        strategy: How it is counted.
        tokens: What is reserved for each request.
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
        """What the client cannot use any more."""
        return LIMIT - self.limiter.peek("client", 0).remaining

    async def ask(self, path: str = "/v1/chat", method: str = "POST", **how: Any) -> Answer:
        """Send one request."""
        return await drive(self.app, http_scope(path, method=method), **how)


async def annotating(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows better than its answer what it has cost."""
    annotate(scope, usage=TokenUsage(input=30, output=3))
    await answering(told(prompt_tokens=1, completion_tokens=1))(scope, receive, send)


def annotating_with(usage: TokenUsage) -> ASGIApp:
    """Return an application that annotates `usage`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, usage=usage)
        await answering()(scope, receive, send)

    return app


async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
    """Keeps its exchange out of all measurement."""
    drop_exchange(scope)
    await answering(told(prompt_tokens=1, completion_tokens=1))(scope, receive, send)


COMPLETE: dict[str, tuple[ASGIApp, int]] = {
    "json": (answering(told(prompt_tokens=12, completion_tokens=8)), 20),
    "json of anthropic": (answering(told(input_tokens=12, output_tokens=9)), 21),
    "a stream of openai": (streaming(CHAT), 20),
    "a stream of anthropic": (streaming(CLAUDE), 19),
    "more than was reserved": (answering(told(prompt_tokens=50, completion_tokens=20)), 70),
    "nothing": (answering(told(prompt_tokens=0, completion_tokens=0)), 0),
    "what the application says": (annotating, 33),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "used"), COMPLETE.values(), ids=COMPLETE)
@pytest.mark.anyio
async def test_a_complete_answer_is_charged_what_it_says(
    app: ASGIApp, used: int, around: Around, strategy: str
) -> None:
    """In place of the reserve: with every strategy, and whoever else looks at the exchange."""
    budget = Budget(app, around=around, strategy=strategy)

    answer = await budget.ask()

    assert answer.status == 200
    assert answer.headers["ratelimit"].startswith(f'"tokens";r={LIMIT - RESERVE};')
    assert budget.used == used


GIVEN_BACK: dict[str, tuple[ASGIApp, str]] = {
    "an upstream that fails": (answering(b'{"error":{}}', status=500), "POST"),
    "a request that is rejected": (answering(b'{"error":{}}', status=400), "POST"),
    "an upstream over its own limit": (answering(b'{"error":{}}', status=429), "POST"),
    "an exception": (raising, "POST"),
    "no answer": (silent, "POST"),
    "a page": (answering(b"<p>", content_type=b"text/html"), "GET"),
    "a stored answer": (answering(told(prompt_tokens=12, completion_tokens=8)), "GET"),
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "method"), GIVEN_BACK.values(), ids=GIVEN_BACK)
@pytest.mark.anyio
async def test_where_no_model_has_answered_all_is_given_back(
    app: ASGIApp, method: str, around: Around, strategy: str
) -> None:
    """What failed before a model had said anything has cost nothing."""
    budget = Budget(app, around=around, strategy=strategy)

    await budget.ask(method=method)

    assert budget.used == 0


CHATTER = [
    b'data: {"choices":[{"delta":{"content":"to"}}],"usage":null}\n\n',
    b"data: [DONE]\n\n",
]


ZIPPED = answering(b"\x1f\x8b", headers=[(b"content-encoding", b"gzip")])


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/codex/v1/chat/completions"])
@pytest.mark.parametrize(
    "app",
    [streaming(CHATTER), ZIPPED, answering(b'{"saved":true}')],
    ids=["a stream", "compressed", "something else"],
)
@pytest.mark.anyio
async def test_a_success_that_does_not_say_costs_the_reserve(app: ASGIApp, path: str) -> None:
    """To ask for no usage, or for an answer that we cannot read, gets nobody around the limit."""
    limiter = Limiter("100/minute")
    policy = Policy(limiter, key=lambda scope: "client", tokens=40)

    await drive(RateLimitMiddleware(app, policies=[policy]), http_scope(path, method="POST"))

    assert limiter.peek("client").remaining == 60


@pytest.mark.parametrize("usage", [TokenUsage(input="3"), TokenUsage(input=3.5)])  # type: ignore[arg-type]
@pytest.mark.anyio
async def test_a_usage_that_is_none_costs_the_reserve_and_no_place(usage: TokenUsage) -> None:
    """What an application annotates by mistake fails no request, and holds nothing for ever."""
    tokens, places = Limiter("100/minute"), InFlight(5)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, usage=usage)
        await answering()(scope, receive, send)

    policies = [
        Policy(tokens, name="tokens", key=lambda scope: "client", tokens=5),
        Policy(places, name="places", key=lambda scope: "client"),
    ]
    answer = await drive(RateLimitMiddleware(app, policies=policies), http_scope(method="POST"))

    assert answer.error is None
    assert len(places) == 0
    assert tokens.peek("client").remaining == 95


CUT: dict[str, tuple[ASGIApp, Callable[[Message], None], int]] = {
    "the client leaves openai": (streaming(CHAT), gone, RESERVE),
    "the client leaves anthropic": (streaming(CLAUDE), gone, 12),
    "the client leaves without a word": (listening, lambda message: None, RESERVE),
    "the client is seen to leave": (listening_later, lambda message: None, RESERVE),
    "the application stops": (streaming(WORDS, ends=False), lambda message: None, RESERVE),
    "the upstream stops": (streaming(CLAUDE[:2], ends=False), lambda message: None, 12),
    "the application fails": (raising_later, lambda message: None, RESERVE),
    "the stream ends in an error": (
        streaming([*WORDS, event(error={"message": "overloaded"})]),
        lambda message: None,
        RESERVE,
    ),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize(("app", "on_send", "used"), CUT.values(), ids=CUT)
@pytest.mark.anyio
async def test_to_leave_early_is_not_for_nothing(
    app: ASGIApp, on_send: Callable[[Message], None], used: int, around: Around
) -> None:
    """A cut answer is charged what it has said so far; where that is nothing, the reserve."""
    budget = Budget(app, around=around)

    await budget.ask(on_send=on_send)

    assert budget.used == used


@pytest.mark.parametrize("path", ["/claude/v1/messages", "/codex/v1/chat/completions"])
@pytest.mark.anyio
async def test_a_provider_that_does_not_tell_costs_the_reserve(path: str) -> None:
    """An answer of a model that cannot be read, or that says nothing of usage."""
    silent_one, zipped = (
        Budget(answering(b'{"choices":[]}', headers=headers))
        for headers in ([], [(b"content-encoding", b"gzip")])
    )

    await silent_one.ask(path)
    await zipped.ask(path)

    assert (silent_one.used, zipped.used) == (RESERVE, RESERVE)


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.anyio
async def test_to_leave_just_before_the_end_is_not_for_nothing(around: Around, pieces: int) -> None:
    """Each event of a stream is a token at least, also where the vendor has not said so yet."""
    word = event(type="content_block_delta", delta={"type": "text_delta", "text": "token"})
    start = event(type="message_start", message={"usage": {"input_tokens": 9, "output_tokens": 1}})
    words = [word * pieces] * (35 // pieces)
    budget = Budget(streaming([start, *words], ends=False), around=around)

    await budget.ask()

    assert budget.used == 9 + 1 + 35 - 10


# The beginning of a stream of each form, a word of it, and the tokens that the beginning reports.
# What OpenAI and Converse report comes at the end.
_START = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}


_WORD = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "data: token"}}


_PART = {"candidates": [{"content": {"parts": [{"text": "token"}]}}]}


_COUNTS = {"usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1}}


STREAMED: dict[str, tuple[bytes, bytes, bytes, int]] = {
    "anthropic": (SSE, event(**_START), event(**_WORD), 9),
    "anthropic in lines of old": (
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
    """Each event after the tenth is a token, whatever the coding and the chunks on the wire."""
    content_type, start, word, read = stream
    encoding, encode = coding
    chunks = data.draw(chunkings(encode(start + word * words)))
    headers = [(b"content-encoding", encoding)] if encoding else []
    app = streaming(chunks, content_type=content_type, headers=headers, ends=False)
    budget = Budget(app, tokens=1)

    anyio.run(budget.ask)

    assert budget.used == read + max(1, 1 + words - 10)


@pytest.mark.parametrize("coding", (PLAIN | CODINGS).values(), ids=PLAIN | CODINGS)
@pytest.mark.anyio
async def test_leaving_a_long_compressed_stream_is_not_free(coding: tuple[bytes, Encode]) -> None:
    """A client that leaves after 1,000 words is charged them, and not the reserve."""
    encoding, encode = coding
    body = encode(event(**_START) + event(**_WORD) * 1000)
    chunks = split_at(body, range(0, len(body), 997))
    app = streaming(chunks, headers=[(b"content-encoding", encoding)], ends=False)
    limiter = Limiter("100000/minute", clock=FakeClock())
    policy = Policy(limiter, key=client, tokens=4000)

    await drive(RateLimitMiddleware(app, policies=[policy]), http_scope(method="POST"))

    assert limiter.limit - limiter.peek("client", 0).remaining == 9 + 1001 - 10


IMPLAUSIBLE: dict[str, tuple[ASGIApp, int]] = {
    "json": (answering(told(prompt_tokens=2**53 - 1, completion_tokens=3)), RESERVE),
    "a count that is no integer of C": (
        answering(told(prompt_tokens=10**30, completion_tokens=3)),
        RESERVE,
    ),
    "a sum of input": (
        answering(told(input_tokens=6 * 10**8, cache_read_input_tokens=6 * 10**8)),
        RESERVE,
    ),
    "a sum of all": (
        answering(told(prompt_tokens=6 * 10**8, completion_tokens=6 * 10**8)),
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
    "what the application says": (
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

    await budget.ask()

    assert budget.used == used


FREE = {"prompt_tokens": 0, "completion_tokens": 0}


WRITTEN: dict[str, bytes] = {
    "a document": json.dumps({"usage": FREE}).encode(),
    "a response of OpenAI": json.dumps(
        {"object": "chat.completion", "choices": [], "usage": FREE}
    ).encode(),
    "an event": event(usage=FREE),
    "a stream that is cut": event(usage=FREE) + event(choices=[]),
    "lines": b'{"id": 1}\n' + json.dumps({"usage": FREE}).encode(),
    "an array": b"[" + json.dumps({"usage": FREE}).encode() + b"]",
}


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("content_type", [b"", b"text/plain", b"application/octet-stream"])
@pytest.mark.parametrize("body", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.anyio
async def test_usage_in_sniffed_body_does_not_lower_the_charge(
    body: bytes, content_type: bytes, ends: bool
) -> None:
    """A client can have the model write a usage; it is charged the reserve at least."""
    budget = Budget(streaming([body], content_type=content_type, ends=ends))

    await budget.ask()

    assert budget.used == RESERVE


@pytest.mark.anyio
async def test_usage_in_sniffed_body_raises_the_charge() -> None:
    """Streams without a media type are metered: what they used beyond the reserve is charged."""
    body = told(prompt_tokens=50, completion_tokens=20)
    budget = Budget(answering(body, content_type=b""))

    await budget.ask()

    assert budget.used == 70


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.anyio
async def test_what_is_kept_out_of_measurement_is_charged_all_the_same(around: Around) -> None:
    """Observers do not hear of it; the budget does."""
    budget = Budget(dropping, around=around)

    await budget.ask()

    assert budget.used == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.anyio
async def test_whoever_used_more_than_the_limit_is_in_debt(strategy: str) -> None:
    """The answer is whole; nothing more is allowed before as much time has passed."""
    limiter = Limiter(f"{LIMIT}/minute", strategy=strategy, clock=(clock := FakeClock(960.0)))
    app = RateLimitMiddleware(
        answering(told(prompt_tokens=300, completion_tokens=50)),
        policies=[Policy(limiter, key=client, tokens=RESERVE)],
    )

    first = await drive(app, http_scope(method="POST"))
    second = await drive(app, http_scope(method="POST"))
    clock.advance(int(second.headers["retry-after"]))
    third = await drive(app, http_scope(method="POST"))

    assert [first.status, second.status, third.status] == [200, 429, 200]
    # A bucket drains 100 in a minute; windows forget what was used in them.
    waits = {"fixed-window": range(60, 61), "gcra": range(174, 176)}
    assert int(second.headers["retry-after"]) in waits.get(strategy, range(60, 121))


@pytest.mark.anyio
async def test_a_reserve_can_depend_on_the_request() -> None:
    """A gateway knows what a request may use: its `max_tokens`, or the size of its model."""
    budget = Budget(streaming(WORDS, ends=False), tokens=lambda scope: len(scope["path"]))

    await budget.ask("/12345678")

    assert budget.used == 9


@pytest.mark.anyio
async def test_a_refused_request_reserves_nothing() -> None:
    """Neither one that is over the limit, nor one that is refused by another policy."""
    limiter = Limiter(f"{LIMIT}/minute", clock=FakeClock())
    policies = [
        Policy(limiter, name="tokens", key=client, tokens=RESERVE),
        Policy("3/day", name="requests", key=client),
    ]
    app = RateLimitMiddleware(streaming(WORDS, ends=False), policies=policies)

    answers = [await drive(app, http_scope(method="POST")) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert limiter.peek("client").remaining == LIMIT - 2 * RESERVE
    assert [policy.limiter.peek("client").remaining for policy in app.policies] == [20, 1]  # type: ignore[union-attr]


@pytest.mark.anyio
async def test_a_websocket_costs_the_reserve() -> None:
    """Nobody reads what goes over it."""
    budget = Budget(silent)

    await drive(budget.app, {**http_scope("/live"), "type": "websocket"})

    assert budget.used == RESERVE


@pytest.mark.anyio
async def test_requests_at_once_cannot_use_more_than_the_limit_together() -> None:
    """Only as many are let in as can be paid for; when they have used less, others are."""
    arrived, go = 0, anyio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal arrived
        arrived += 1
        await go.wait()
        await answering(told(prompt_tokens=12, completion_tokens=8))(scope, receive, send)

    budget, answers = Budget(app), list[Answer]()

    async def ask() -> None:
        answers.append(await budget.ask())
        if len(answers) == 8:
            go.set()

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask)

    assert [answer.status for answer in answers] == [429] * 8 + [200] * 2
    assert (arrived, budget.used) == (2, 40)
    assert (await budget.ask()).status == 200


@given(
    strategy=st.sampled_from(STRATEGIES),
    steps=st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(0, 9)), max_size=40),
)
def test_what_is_used_and_reserved_never_exceeds_the_limit(
    strategy: str, steps: list[tuple[bool, int, int]]
) -> None:
    """However requests begin and end between each other, if none uses more than it reserved."""
    limiter = Limiter(f"{LIMIT}/minute", strategy=strategy, clock=FakeClock())
    policy = Policy(limiter, key=client, tokens=lambda scope: scope["reserve"])
    gate = PolicySet([policy], enforce=True, on_decision=None)
    held: list[tuple[Reservations, int]] = []
    used = 0

    for begins, amount, which in steps:
        if begins:
            _, refusal, holds = gate.evaluate(http_scope(reserve=amount), None)
            assert (holds is None) is (refusal is not None)
            if holds is not None:
                held.append((holds, amount))
        elif held:
            holds, reserve = held.pop(which % len(held))
            spent = min(amount, reserve)
            holds.finished(exchange_that_used(spent))
            holds.finished(exchange_that_used(1000))  # nothing is settled twice
            used += spent
        taken = used + sum(reserve for _, reserve in held)
        assert taken <= LIMIT
        assert LIMIT - limiter.peek("client", 0).remaining == taken


@given(
    steps=st.lists(
        st.tuples(
            st.booleans(),
            st.integers(1, 60),
            st.integers(0, 9),
            st.integers(0, 480).map(lambda sixteenths: sixteenths / 16),  # which floats can hold
        ),
        max_size=40,
    )
)
def test_no_window_is_charged_more_than_its_limit(
    steps: list[tuple[bool, int, int, float]],
) -> None:
    """What began in one window and ends in another, too."""
    clock = FakeClock()
    limiter = Limiter(f"{LIMIT}/minute", clock=clock)
    policy = Policy(limiter, key=client, tokens=lambda scope: scope["reserve"])
    gate = PolicySet([policy], enforce=True, on_decision=None)
    held: list[tuple[Reservations, int, int]] = []
    windows: list[int] = []
    ends = 0.0

    for begins, amount, which, passed in steps:
        clock.advance(passed)
        if begins:
            _, _, holds = gate.evaluate(http_scope(reserve=amount), None)
            if clock() >= ends:
                windows.append(0)
                ends = clock() + 60
            if holds is not None:
                windows[-1] += amount
                held.append((holds, amount, len(windows) - 1))
        elif held:
            holds, reserve, window = held.pop(which % len(held))
            spent = min(amount, reserve)
            holds.finished(exchange_that_used(spent))
            windows[window] -= reserve - spent
        assert all(charged <= LIMIT for charged in windows)
        if clock() < ends:
            assert LIMIT - limiter.peek("client", 0).remaining == windows[-1]


def exchange_that_used(tokens: int) -> Exchange:
    """A finished exchange."""
    exchange = Exchange("POST", 0.0)
    exchange.status, exchange.usage = 200, TokenUsage(output=tokens)
    return exchange


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_tokens_are_settled_with_a_storage_too(redis: Server, anyio_backend: str) -> None:
    """Answers give back or are charged what they say, and what is cut keeps the reserve."""
    limiter = SharedLimiter(
        f"{LIMIT}/day", storage=f"async+redis://{redis.place}", timeout=PATIENCE
    )
    policy = Policy(limiter, key=client, tokens=20)
    costs = iter([5, 0, 20, 35])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering(told(prompt_tokens=next(costs), completion_tokens=0))(scope, receive, send)

    left = []
    for answering_app in (app, app, app, app, raising, raising_later):
        limited = RateLimitMiddleware(answering_app, policies=[policy])
        await drive(limited, http_scope(method="POST"))
        left.append((await limiter.peek("client", 0)).remaining)

    assert left == [95, 95, 75, 40, 40, 20]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_tokens_are_settled_with_a_storage_although_the_request_is_cancelled(
    redis: Server, anyio_backend: str
) -> None:
    """The server ends the request of a client that has left; its storage is told all the same."""
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


# Places. Every ending is an application, and how it is driven; it checks that its place is taken.

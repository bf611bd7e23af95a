"""What a request over its limit is answered, and what the vendors' own SDKs make of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import anyio
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import (
    Decision,
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    keys,
)
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.ratelimit import (
    RESPONSES,
    anthropic_error,
    openai_error,
    problem_details,
    too_many_requests,
)
from tokenpulse_mw.ratelimit.responses import Respond

from ..support.apps import answering
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock
from ..support.waiting import PATIENCE

SHORT = Decision(False, 5, 0, 60.0, 0.2001, "burst")


LONG = Decision(False, 100, 0, 60.0, 41.5, "minute", ("day", "month"))


NEVER = Decision(False, 100, 7, 60.0, math.inf, "minute")


WAIT = "Rate limit 'minute' of 100 is exceeded. Retry in 42 s."


TOO_MUCH = "This request costs more than the limit 'minute' of 100 can ever allow."


async def answered(respond: Respond, decision: Decision) -> Answer:
    """What `respond` gives, as it is sent."""
    return await drive(respond(decision))


def told(answer: Answer) -> dict[str, str]:
    """What the headers of an answer say of waiting."""
    names = ("retry-after", "retry-after-ms", "x-should-retry")
    return {name: answer.headers[name] for name in names if name in answer.headers}


@pytest.mark.anyio
async def test_the_seeds_answer() -> None:
    """Plain text, and when to come back."""
    answer = await answered(too_many_requests, LONG)

    assert (answer.status, answer.body) == (429, b"Too Many Requests")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert told(answer) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_problem_details() -> None:
    """RFC 9457: the type says what kind of problem, and all policies that refused are named."""
    answer = await answered(problem_details, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": WAIT,
        "violated-policies": ["minute", "day", "month"],
    }
    assert told(answer) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_the_error_of_openai() -> None:
    """As its API words it, with the wait in milliseconds."""
    answer = await answered(openai_error, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "error": {
            "message": WAIT,
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert told(answer) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.anyio
async def test_the_error_of_anthropic() -> None:
    """As its API words it, with the wait in milliseconds."""
    answer = await answered(anthropic_error, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": WAIT},
    }
    assert told(answer) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_a_short_wait_is_rounded_up(name: str) -> None:
    """To a whole second, and for the SDKs to a millisecond."""
    answer = await answered(RESPONSES[name], SHORT)

    of_sdk = {"retry-after-ms": "201"} if name in ("openai", "anthropic") else {}
    assert told(answer) == {"retry-after": "1", **of_sdk}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_what_never_fits_need_not_be_tried_again(name: str) -> None:
    """No time to wait is told where waiting does not help, and the message says so."""
    answer = await answered(RESPONSES[name], NEVER)

    of_sdk = {"x-should-retry": "false"} if name in ("openai", "anthropic") else {}
    assert answer.status == 429
    assert told(answer) == of_sdk
    assert name == "text" or TOO_MUCH in answer.body.decode()


LIMITERS: dict[str, Callable[[int, int, FakeClock], Limiter]] = {
    strategy: lambda limit, window, clock, strategy=strategy: Limiter(  # type: ignore[misc]
        f"{limit} per {window} seconds", strategy=strategy, clock=clock
    )
    for strategy in ("fixed-window", "sliding-window-counter", "gcra")
}


def sixteenths(most: int) -> st.SearchStrategy[float]:
    """Seconds up to `most` that floats can hold."""
    return st.integers(0, 16 * most).map(lambda count: count / 16)


@given(
    strategy=st.sampled_from(sorted(LIMITERS)),
    limit=st.integers(1, 50),
    window=st.integers(1, 3600),
    cost=st.integers(1, 50),
    start=sixteenths(10**7),
    gaps=st.lists(sixteenths(100), max_size=5),
)
def test_whoever_waits_as_told_is_let_in(
    strategy: str, limit: int, window: int, cost: int, start: float, gaps: list[float]
) -> None:
    """To the second by `Retry-After`, to the millisecond by `retry-after-ms`; never at once."""
    clock, cost = FakeClock(start), min(cost, limit)
    limiter = LIMITERS[strategy](limit, window, clock)
    for gap in gaps:
        limiter.hit("client", cost)
        clock.advance(gap)
    while (refused := limiter.peek("client", cost)).allowed:
        limiter.hit("client", cost)

    waits = told(anyio.run(answered, openai_error, refused))
    seconds, milliseconds = int(waits["retry-after"]), int(waits["retry-after-ms"])

    assert seconds == max(math.ceil(refused.retry_after), 1)
    assert 0 <= milliseconds / 1000 - refused.retry_after < 0.0011
    clock.advance(milliseconds / 1000)
    assert limiter.peek("client", cost).allowed
    clock.advance(max(seconds - milliseconds / 1000, 0))
    assert limiter.peek("client", cost).allowed


# The official SDKs.


@dataclass
class Gateway:
    """A gateway over its limit, that serves.

    Attributes:
        url: Where it is.
        asked: When each request came in, in seconds of `time.monotonic`.
        refusals: What was decided against some of them.
    """

    url: str = ""
    asked: list[float] = field(default_factory=list)
    refusals: list[Decision] = field(default_factory=list)


CHAT: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-demo",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    ],
}


MESSAGE: dict[str, Any] = {
    "id": "m-1",
    "type": "message",
    "role": "assistant",
    "model": "claude-demo",
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


# A server may be closing a connection that was idle for long, where the machine is slow.
ONE_EACH = {"connection": "close"}


@contextmanager
def gateway_over_its_limit(respond: Respond, *, cost: int = 1) -> Iterator[Gateway]:
    """One that has room again when a client has been told how long to wait, and no earlier."""
    clock, gateway = FakeClock(), Gateway()
    limiter = Limiter("5/second", strategy="gcra", clock=clock)
    limiter.hit("client", 5)

    def note(scope: Scope, decision: Decision) -> None:
        gateway.asked.append(time.monotonic())
        if not decision.allowed:
            gateway.refusals.append(decision)
            # The client is to wait that long; it is measured below whether it does.
            clock.advance(math.ceil(min(decision.retry_after, 1.0) * 1000) / 1000)

    async def chat(request: Request) -> Response:
        return JSONResponse(CHAT)

    async def message(request: Request) -> Response:
        return JSONResponse(MESSAGE)

    policy = Policy(limiter, name="burst", key=lambda scope: "client", cost=lambda scope: cost)
    options = {"policies": [policy], "respond": respond, "on_decision": note}
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/messages", message, methods=["POST"]),
        ],
        middleware=[Middleware(RateLimitMiddleware, **options)],  # type: ignore[arg-type]
    )
    with LocalServer(app) as server:
        gateway.url = server.url
        yield gateway


def ask_openai(url: str, max_retries: int) -> str | None:
    """What the SDK of OpenAI is answered."""
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=max_retries, default_headers=ONE_EACH
    ) as client:
        answer = client.chat.completions.create(
            model="gpt-demo", messages=[{"role": "user", "content": "Is it?"}]
        )
        return answer.choices[0].message.content


def ask_anthropic(url: str, max_retries: int) -> str | None:
    """What the SDK of Anthropic is answered."""
    with anthropic.Anthropic(
        base_url=url, api_key="k", max_retries=max_retries, default_headers=ONE_EACH
    ) as client:
        answer = client.messages.create(
            model="claude-demo", max_tokens=1, messages=[{"role": "user", "content": "Is it?"}]
        )
        return answer.content[0].text  # type: ignore[union-attr]


Ask = Callable[[str, int], str | None]


SDKS: dict[str, tuple[Ask, Respond, type[Exception]]] = {
    "openai": (ask_openai, openai_error, openai.RateLimitError),
    "anthropic": (ask_anthropic, anthropic_error, anthropic.RateLimitError),
}


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_raises_its_own_error(ask: Ask, respond: Respond, error: type[Exception]) -> None:
    """The one that its users catch, with our message in it."""
    with (
        gateway_over_its_limit(respond) as gateway,
        pytest.raises(error, match=r"Rate limit 'burst' of 5 is exceeded\. Retry in 1 s\."),
    ):
        ask(gateway.url, 0)

    assert len(gateway.asked) == 1


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_waits_as_it_is_told(
    ask: Ask, respond: Respond, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It reads the milliseconds, tries once more when they are over, and is answered."""
    with gateway_over_its_limit(respond) as gateway, caplog.at_level(logging.INFO):
        assert ask(gateway.url, 1) == "yes"

    refused_at, answered_at = gateway.asked
    (refusal,) = gateway.refusals
    assert refusal.retry_after == pytest.approx(0.2, abs=0.001)
    assert answered_at - refused_at >= refusal.retry_after
    assert "in 0.201000 seconds" in caplog.text  # and not in the second of Retry-After


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_does_not_try_again_what_never_fits(
    ask: Ask, respond: Respond, error: type[Exception]
) -> None:
    """However often it may."""
    with (
        gateway_over_its_limit(respond, cost=6) as gateway,
        pytest.raises(error, match="more than the limit 'burst' of 5 can ever allow"),
    ):
        ask(gateway.url, 5)

    assert len(gateway.asked) == 1


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_a_place_is_to_be_asked_for_again_in_a_second(name: str) -> None:
    """Nobody can tell when a request that is in progress will end."""
    places = InFlight(1)
    places.hit("client")
    app = RateLimitMiddleware(
        too_many_requests(SHORT),
        policies=[Policy(places, key=lambda scope: "client")],
        respond=RESPONSES[name],
    )

    answer = await drive(app, http_scope())

    of_sdk = {"retry-after-ms": "1000"} if name in ("openai", "anthropic") else {}
    assert told(answer) == {"retry-after": "1", **of_sdk}


@pytest.mark.parametrize("respond", [openai_error, anthropic_error])
@pytest.mark.anyio
async def test_nobody_is_made_to_sleep_for_hours(respond: Respond) -> None:
    """SDKs are told not to retry by themselves after more than two minutes."""
    soon, late = (Decision(False, 1, 0, wait, wait) for wait in (120.0, 120.5))

    assert "x-should-retry" not in (await drive(respond(soon))).headers
    answer = await drive(respond(late))
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["retry-after"] == "121"


@pytest.mark.anyio
async def test_no_one_is_told_to_retry_at_once() -> None:
    """Some SDKs ignore a wait of 0."""
    answer = await drive(openai_error(Decision(False, 1, 0, 0.0, 0.0)))

    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1")


@pytest.mark.anyio
async def test_without_the_storage_no_limit_is_said_to_be_exceeded() -> None:
    """The reason is told as it is."""
    answer = await drive(openai_error(Decision(False, 5, 0, 1.0, 1.0, degraded=True)))

    assert b"Rate limit 'default' cannot be checked now. Retry in 1 s." in answer.body


CONNECT: Message = {"type": "websocket.connect"}


ACCEPT = "websocket.accept"


HEAD, BODY = "websocket.http.response.start", "websocket.http.response.body"


CLOSE: Message = {"type": "websocket.close", "code": 1013, "reason": "Too Many Requests"}


def handshake(*, denial: bool = True, **more: Any) -> Scope:
    """A WebSocket scope, of a server with or without the extension that answers handshakes."""
    scope = http_scope(**{"path": "/live", **more})
    del scope["method"]
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {**scope, "type": "websocket", "subprotocols": [], "extensions": extensions}


async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
    """Says back what it is told, until the client is gone."""
    await send({"type": "websocket.accept", "headers": [(b"x", b"y")]})
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


async def opened(app: ASGIApp, scope: Scope, *texts: str) -> list[Message]:
    """What is sent in answer to a handshake, and to `texts` that follow it."""
    received: list[Message] = [
        CONNECT,
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    return (await drive(app, scope, received=received)).messages


def kinds(messages: Iterable[Message]) -> list[str]:
    """The types of messages."""
    return [message["type"] for message in messages]


@pytest.mark.anyio
async def test_a_handshake_counts_like_a_request() -> None:
    """Both use up one limit; that of another address is its own."""
    app = RateLimitMiddleware(accepting, limit="2/day")

    first = await opened(app, handshake())
    asked = await drive(RateLimitMiddleware(answering(), limiter=app.policies[0].limiter))
    second = await opened(app, handshake())
    other = await opened(app, handshake(client=("192.0.2.2", 1)))

    assert (kinds(first), asked.status) == ([ACCEPT], 200)
    assert kinds(second) == [HEAD, BODY]
    assert kinds(other) == [ACCEPT]


@pytest.mark.anyio
async def test_a_handshake_may_be_limited_by_a_header() -> None:
    """Such as an API key; without it, it is not limited."""
    app = RateLimitMiddleware(accepting, limit="1/day", key=keys.header("x-api-key"))
    one, two = ([(b"x-api-key", name)] for name in (b"one", b"two"))

    answers = [await opened(app, handshake(headers=who)) for who in (one, two, [], [], one)]

    assert [kinds(answer)[0] for answer in answers] == [ACCEPT] * 4 + [HEAD]


@pytest.mark.anyio
async def test_a_key_that_fails_limits_no_handshake(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the connection is accepted."""

    def key(scope: Scope) -> str:
        method: str = scope["method"]  # which a handshake has not
        return method

    app = RateLimitMiddleware(accepting, limit="1/day", key=key)

    answers = [await opened(app, handshake()) for _ in range(2)]

    assert [kinds(answer) for answer in answers] == [[ACCEPT]] * 2
    assert [record.args for record in caplog.records] == [("rate limit policy default", "KeyError")]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware], ids=["bare", "exchange"])
@pytest.mark.anyio
async def test_a_server_that_can_answer_sends_the_whole_answer(
    around: type[ExchangeMiddleware],
) -> None:
    """Status, body, when to come back, and where the client stands."""
    limiter = Limiter("1/minute", clock=FakeClock())
    app = around(RateLimitMiddleware(accepting, limiter=limiter))
    await opened(app, handshake())

    head, body = await opened(app, handshake())

    assert (head["type"], head["status"]) == (HEAD, 429)
    headers = dict(head["headers"])
    assert headers[b"retry-after"] == b"60"
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"ratelimit"] == b'"default";r=0;t=60'
    assert headers[b"ratelimit-policy"] == b'"default";q=1;w=60'
    assert body["type"] == BODY
    assert body["body"] == b"Too Many Requests"


def plain(decision: Decision) -> ASGIApp:
    """An application that knows nothing of WebSockets."""
    return answering(b"later", status=429, content_type=b"text/x-later")


RESPONDS: dict[str, tuple[Respond, bytes, str]] = {
    "problem details": (problem_details, b"application/problem+json", "quota-exceeded"),
    "a plain application": (plain, b"text/x-later", "later"),
}


@pytest.mark.parametrize(("respond", "kind", "said"), RESPONDS.values(), ids=RESPONDS)
@pytest.mark.anyio
async def test_a_handshake_gets_the_answer_that_requests_get(
    respond: Respond, kind: bytes, said: str
) -> None:
    """Whatever `respond` gives, also where it was made for HTTP alone."""
    app = RateLimitMiddleware(accepting, limit="1/day", respond=respond)
    await opened(app, handshake())

    head, body = await opened(app, handshake())

    assert kinds([head, body]) == [HEAD, BODY]
    assert dict(head["headers"])[b"content-type"] == kind
    assert b"ratelimit" in dict(head["headers"])
    assert said in body["body"].decode()


@pytest.mark.anyio
async def test_an_answer_that_cannot_be_made_is_the_seeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A `respond` that raises lets nobody in."""

    def respond(decision: Decision) -> ASGIApp:
        raise KeyError("template")

    app = RateLimitMiddleware(accepting, limit="1/day", respond=respond)
    await opened(app, handshake())

    head, body = await opened(app, handshake())

    assert (head["status"], body["body"]) == (429, b"Too Many Requests")
    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.parametrize("extensions", [{}, None, {"tls": {}}, "missing"], ids=str)
@pytest.mark.anyio
async def test_any_other_server_is_told_to_close(extensions: Any) -> None:
    """Before the connection is accepted, and with the code for "try again later"."""
    app = RateLimitMiddleware(accepting, limit="1/day")
    scope = {**handshake(denial=False), "extensions": extensions}
    if extensions == "missing":
        del scope["extensions"]
    await opened(app, dict(scope))

    assert await opened(app, dict(scope)) == [CLOSE]


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy", None])
@pytest.mark.anyio
async def test_an_accepted_connection_passes_untouched(headers: str | None) -> None:
    """Every message in both directions is as the application and the client have sent it."""
    app = RateLimitMiddleware(accepting, headers=headers)

    limited = await opened(app, handshake(), "one", "two")

    assert limited == await opened(accepting, handshake(), "one", "two")
    assert kinds(limited) == [ACCEPT, "websocket.send", "websocket.send"]


@pytest.mark.anyio
async def test_an_application_may_turn_down_a_handshake_itself() -> None:
    """Its answer passes untouched too: it was within the limit."""
    sent: list[Message] = [
        {"type": HEAD, "status": 403, "headers": [(b"x", b"y")]},
        {"type": BODY, "body": b"not you"},
    ]

    async def denying(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(dict(message))

    assert await opened(RateLimitMiddleware(denying), handshake()) == sent


@pytest.mark.parametrize(
    "options",
    [{"enforce": False}, {"policies": [Policy("1/day", enforce=False)]}],
    ids=["shadow mode", "shadow policy"],
)
@pytest.mark.anyio
async def test_what_is_not_to_be_limited_is_not(options: dict[str, Any]) -> None:
    """Shadow mode lets every handshake through."""
    if "policies" not in options:
        options = {"limit": "1/day", **options}
    app = RateLimitMiddleware(accepting, **options)

    assert [kinds(await opened(app, handshake())) for _ in range(3)] == [[ACCEPT]] * 3


@pytest.mark.anyio
async def test_handshake_on_exempt_path_is_limited() -> None:
    """An exempt path is exempt for HTTP only."""
    app = RateLimitMiddleware(accepting, limit="1/day", exempt=["/live"])

    first, second = [kinds(await opened(app, handshake())) for _ in range(2)]

    assert first == [ACCEPT] != second


@pytest.mark.anyio
async def test_decisions_on_handshakes_are_told() -> None:
    """With the scope of the connection."""
    told: list[tuple[str, bool]] = []

    def note(scope: Scope, decision: Decision) -> None:
        told.append((scope["type"], decision.allowed))

    app = RateLimitMiddleware(accepting, limit="1/day", on_decision=note)
    for _ in range(2):
        await opened(app, handshake())

    assert told == [("websocket", True), ("websocket", False)]


async def echo(websocket: WebSocket) -> None:
    """A route that says one thing."""
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def application() -> Starlette:
    """A Starlette application with a WebSocket, of which a client may open one a day."""
    return Starlette(
        routes=[WebSocketRoute("/live", echo)],
        middleware=[Middleware(RateLimitMiddleware, limit="1/day", key=keys.client_address())],
    )


def test_the_test_client_of_starlette_shows_the_answer() -> None:
    """It raises it, as it does for every handshake that is turned down."""
    client = TestClient(application())
    with client.websocket_connect("/live") as session:
        assert session.receive_text() == "hello"

    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/live"):
        pass

    assert denied.value.status_code == 429
    assert denied.value.text == "Too Many Requests"
    assert denied.value.headers["ratelimit-policy"] == '"default";q=1;w=86400'


def test_a_handshake_that_is_turned_down_is_429_on_the_wire() -> None:
    """A real server with WebSockets sends it like any other answer."""
    pytest.importorskip("websockets", reason="install the Python package websockets")
    uvicorn = pytest.importorskip("uvicorn")

    async def main() -> list[bytes]:
        config = uvicorn.Config(application(), log_config=None, ws="websockets-sansio", port=0)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(PATIENCE):
                while not server.started:  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.01)
                port = server.servers[0].sockets[0].getsockname()[1]
                return [await first_lines(port) for _ in range(2)]
        finally:
            server.should_exit = True
            await serving

    accepted, denied = asyncio.run(main())

    assert accepted.startswith(b"HTTP/1.1 101 ")
    assert denied.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: " in denied.lower()


async def first_lines(port: int) -> bytes:
    """The head of the answer to a handshake."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    try:
        return await reader.readuntil(b"\r\n\r\n")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

"""Responses to rejected requests, and the behaviour of the vendors' SDKs."""

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
LONG = Decision(False, 100, 0, 60.0, 41.5, "minute", ("day", "month"), window=60)
NEVER = Decision(False, 100, 7, 60.0, math.inf, "minute", unit="tokens", window=60)
WAIT = "Rate limit exceeded: 100 requests per minute. Retry in 42 s."
TOO_MUCH = (
    "This request costs more than the rate limit of 100 tokens per minute. Send a smaller request."
)


async def response_of(respond: Respond, decision: Decision) -> Answer:
    """Return the response of `respond` as it is sent."""
    return await drive(respond(decision))


def retry_headers(response: Answer) -> dict[str, str]:
    """Return the headers of a response that control retries."""
    names = ("retry-after", "retry-after-ms", "x-should-retry")
    return {name: response.headers[name] for name in names if name in response.headers}


@pytest.mark.anyio
async def test_too_many_requests_is_plain_text() -> None:
    """The default response has a plain text and `Retry-After`."""
    response = await response_of(too_many_requests, LONG)

    assert (response.status, response.body) == (429, b"Too Many Requests")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert retry_headers(response) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_problem_details_list_the_violated_policies() -> None:
    """The body has the problem type `quota-exceeded` (RFC 9457)."""
    response = await response_of(problem_details, LONG)

    assert response.status == 429
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": WAIT,
        "violated-policies": ["minute", "day", "month"],
    }
    assert retry_headers(response) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_openai_error_has_the_format_of_openai() -> None:
    """The body is an OpenAI error, and a header has the wait in milliseconds."""
    response = await response_of(openai_error, LONG)

    assert response.status == 429
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body) == {
        "error": {
            "message": WAIT,
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert retry_headers(response) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.anyio
async def test_anthropic_error_has_the_format_of_anthropic() -> None:
    """The body is an Anthropic error, and a header has the wait in milliseconds."""
    response = await response_of(anthropic_error, LONG)

    assert response.status == 429
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": WAIT},
    }
    assert retry_headers(response) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_short_wait_is_rounded_up(name: str) -> None:
    """The wait is rounded up to a second, and to a millisecond for SDKs."""
    response = await response_of(RESPONSES[name], SHORT)

    sdk_headers = {"retry-after-ms": "201"} if name in ("openai", "anthropic") else {}
    assert retry_headers(response) == {"retry-after": "1", **sdk_headers}


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_cost_above_the_limit_has_no_retry_after(name: str) -> None:
    """A request that is never allowed gets no wait, and the message states the reason."""
    response = await response_of(RESPONSES[name], NEVER)

    sdk_headers = {"x-should-retry": "false"} if name in ("openai", "anthropic") else {}
    assert response.status == 429
    assert retry_headers(response) == sdk_headers
    assert name == "text" or TOO_MUCH in response.body.decode()


LIMITERS: dict[str, Callable[[int, int, FakeClock], Limiter]] = {
    strategy: lambda limit, window, clock, strategy=strategy: Limiter(  # type: ignore[misc]
        f"{limit} per {window} seconds", strategy=strategy, clock=clock
    )
    for strategy in ("fixed-window", "sliding-window-counter", "gcra")
}


def sixteenths(maximum: int) -> st.SearchStrategy[float]:
    """Return a strategy of seconds up to `maximum` that are exact as float."""
    return st.integers(0, 16 * maximum).map(lambda count: count / 16)


@given(
    strategy=st.sampled_from(sorted(LIMITERS)),
    limit=st.integers(1, 50),
    window=st.integers(1, 3600),
    cost=st.integers(1, 50),
    start=sixteenths(10**7),
    gaps=st.lists(sixteenths(100), max_size=5),
)
def test_request_after_the_stated_wait_is_allowed(
    strategy: str, limit: int, window: int, cost: int, start: float, gaps: list[float]
) -> None:
    """`retry-after-ms` and `Retry-After` are the smallest sufficient waits, and never 0."""
    clock, cost = FakeClock(start), min(cost, limit)
    limiter = LIMITERS[strategy](limit, window, clock)
    for gap in gaps:
        limiter.hit("client", cost)
        clock.advance(gap)
    while (rejected := limiter.peek("client", cost)).allowed:
        limiter.hit("client", cost)

    waits = retry_headers(anyio.run(response_of, openai_error, rejected))
    seconds, milliseconds = int(waits["retry-after"]), int(waits["retry-after-ms"])

    assert seconds == max(math.ceil(rejected.retry_after), 1)
    assert 0 <= milliseconds / 1000 - rejected.retry_after < 0.0011
    clock.advance(milliseconds / 1000)
    assert limiter.peek("client", cost).allowed
    clock.advance(max(seconds - milliseconds / 1000, 0))
    assert limiter.peek("client", cost).allowed


@dataclass
class Gateway:
    """Requests to a running gateway.

    Attributes:
        url: URL of the gateway.
        arrivals: Arrival times of requests, in seconds of `time.monotonic`.
        rejections: Rejecting decisions.
    """

    url: str = ""
    arrivals: list[float] = field(default_factory=list)
    rejections: list[Decision] = field(default_factory=list)


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


# On a slow machine, the server may be closing an idle connection when the SDK reuses it.
NO_KEEP_ALIVE = {"connection": "close"}


@contextmanager
def gateway_over_its_limit(respond: Respond, *, cost: int = 1) -> Iterator[Gateway]:
    """Serve a gateway at its limit, whose clock advances by the wait of each rejection."""
    clock, gateway = FakeClock(), Gateway()
    limiter = Limiter("5/second", strategy="gcra", clock=clock)
    limiter.hit("client", 5)

    def on_decision(scope: Scope, decision: Decision) -> None:
        gateway.arrivals.append(time.monotonic())
        if not decision.allowed:
            gateway.rejections.append(decision)
            # The tests measure whether the SDK waits that long.
            clock.advance(math.ceil(min(decision.retry_after, 1.0) * 1000) / 1000)

    async def chat(request: Request) -> Response:
        return JSONResponse(CHAT)

    async def message(request: Request) -> Response:
        return JSONResponse(MESSAGE)

    policy = Policy(limiter, name="burst", key=lambda scope: "client", cost=lambda scope: cost)
    options = {"policies": [policy], "respond": respond, "on_decision": on_decision}
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


def call_openai(url: str, max_retries: int) -> str | None:
    """Return the text that the SDK of OpenAI receives."""
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=max_retries, default_headers=NO_KEEP_ALIVE
    ) as client:
        response = client.chat.completions.create(
            model="gpt-demo", messages=[{"role": "user", "content": "Is it?"}]
        )
        return response.choices[0].message.content


def call_anthropic(url: str, max_retries: int) -> str | None:
    """Return the text that the SDK of Anthropic receives."""
    with anthropic.Anthropic(
        base_url=url, api_key="k", max_retries=max_retries, default_headers=NO_KEEP_ALIVE
    ) as client:
        response = client.messages.create(
            model="claude-demo", max_tokens=1, messages=[{"role": "user", "content": "Is it?"}]
        )
        return response.content[0].text  # type: ignore[union-attr]


Call = Callable[[str, int], str | None]

SDKS: dict[str, tuple[Call, Respond, type[Exception]]] = {
    "openai": (call_openai, openai_error, openai.RateLimitError),
    "anthropic": (call_anthropic, anthropic_error, anthropic.RateLimitError),
}


@pytest.mark.parametrize(("call", "respond", "error"), SDKS.values(), ids=SDKS)
def test_sdk_raises_its_rate_limit_error(
    call: Call, respond: Respond, error: type[Exception]
) -> None:
    """The error of the SDK contains the message of the response."""
    with (
        gateway_over_its_limit(respond) as gateway,
        pytest.raises(error, match=r"limit exceeded: 5 requests per second\. Retry in 1 s\."),
    ):
        call(gateway.url, 0)

    assert len(gateway.arrivals) == 1


@pytest.mark.parametrize(("call", "respond", "error"), SDKS.values(), ids=SDKS)
def test_sdk_retries_after_the_stated_milliseconds(
    call: Call, respond: Respond, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The SDK reads `retry-after-ms`, waits that long, and succeeds."""
    with gateway_over_its_limit(respond) as gateway, caplog.at_level(logging.INFO):
        assert call(gateway.url, 1) == "yes"

    rejected_at, allowed_at = gateway.arrivals
    (rejection,) = gateway.rejections
    assert rejection.retry_after == pytest.approx(0.2, abs=0.001)
    assert allowed_at - rejected_at >= rejection.retry_after
    assert "in 0.201000 seconds" in caplog.text  # not in the second of Retry-After


@pytest.mark.parametrize(("call", "respond", "error"), SDKS.values(), ids=SDKS)
def test_sdk_does_not_retry_a_cost_above_the_limit(
    call: Call, respond: Respond, error: type[Exception]
) -> None:
    """With retries enabled, the SDK sends a single request."""
    with (
        gateway_over_its_limit(respond, cost=6) as gateway,
        pytest.raises(
            error, match="request costs more than the rate limit of 5 requests per second"
        ),
    ):
        call(gateway.url, 5)

    assert len(gateway.arrivals) == 1


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.anyio
async def test_missing_slot_has_a_wait_of_one_second(name: str) -> None:
    """It is unknown when a request in progress ends, so clients retry after a second."""
    slots = InFlight(1)
    slots.hit("client")
    app = RateLimitMiddleware(
        too_many_requests(SHORT),
        policies=[Policy(slots, key=lambda scope: "client")],
        respond=RESPONSES[name],
    )

    response = await drive(app, http_scope())

    sdk_headers = {"retry-after-ms": "1000"} if name in ("openai", "anthropic") else {}
    assert retry_headers(response) == {"retry-after": "1", **sdk_headers}


@pytest.mark.parametrize("respond", [openai_error, anthropic_error])
@pytest.mark.anyio
async def test_wait_above_two_minutes_disables_retries_of_sdks(respond: Respond) -> None:
    """The header `x-should-retry: false` prevents SDKs from sleeping for hours."""
    soon, late = (Decision(False, 1, 0, wait, wait) for wait in (120.0, 120.5))

    assert "x-should-retry" not in (await drive(respond(soon))).headers
    response = await drive(respond(late))
    assert response.headers["x-should-retry"] == "false"
    assert response.headers["retry-after"] == "121"


@pytest.mark.anyio
async def test_wait_is_never_0() -> None:
    """Some SDKs ignore a wait of 0."""
    response = await drive(openai_error(Decision(False, 1, 0, 0.0, 0.0)))

    assert (response.headers["retry-after"], response.headers["retry-after-ms"]) == ("1", "1")


@pytest.mark.anyio
async def test_rejection_without_storage_states_the_outage() -> None:
    """The message does not claim that the limit is exceeded."""
    response = await drive(openai_error(Decision(False, 5, 0, 1.0, 1.0, degraded=True)))

    assert b"Rate limit cannot be checked. Retry in 1 s." in response.body


@pytest.mark.anyio
@pytest.mark.parametrize("respond", [problem_details, openai_error, anthropic_error])
@pytest.mark.parametrize(
    ("limit", "options", "rate"),
    [
        ("1/minute", {}, "1 request per minute"),
        ("2 per 30 minutes", {"cost": 2}, "2 requests per 30 minutes"),
        ("1/90 seconds", {}, "1 request per 90 seconds"),
        ("3/hour", {"name": "burst", "cost": 3}, "3 requests per hour"),
        ("1000/day", {"tokens": 1000}, "1000 tokens per day"),
        (InFlight(1), {}, "1 concurrent request"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_message_states_the_rate_in_plain_words(
    respond: Respond, limit: str | InFlight, options: dict[str, Any], rate: str
) -> None:
    """A client reads the limit, its unit and its window without the documentation."""
    policy = Policy(limit, key=lambda scope: "one", **options)
    other = Policy("100/minute", name="other", when=lambda scope: False)
    policy.local.hit("one", policy.local.limit)

    for policies in ([policy], [policy, other]):
        app = RateLimitMiddleware(answering(), policies=policies, respond=respond)
        response = await drive(app)

        assert response.status == 429
        assert f"Rate limit exceeded: {rate}. Retry in ".encode() in response.body


CONNECT: Message = {"type": "websocket.connect"}
ACCEPT = "websocket.accept"
HEAD, BODY = "websocket.http.response.start", "websocket.http.response.body"
CLOSE: Message = {"type": "websocket.close", "code": 1013, "reason": "Too Many Requests"}


def handshake(*, denial: bool = True, **more: Any) -> Scope:
    """Return the scope of a WebSocket, with or without the extension for denial responses."""
    scope = http_scope(**{"path": "/live", **more})
    del scope["method"]
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {**scope, "type": "websocket", "subprotocols": [], "extensions": extensions}


async def echoing(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a WebSocket, and echo messages until the client disconnects."""
    await send({"type": "websocket.accept", "headers": [(b"x", b"y")]})
    while (message := await receive())["type"] != "websocket.disconnect":
        if message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})


async def open_websocket(app: ASGIApp, scope: Scope, *texts: str) -> list[Message]:
    """Return the messages sent in response to a handshake and the messages `texts`."""
    received: list[Message] = [
        CONNECT,
        *({"type": "websocket.receive", "text": text} for text in texts),
        {"type": "websocket.disconnect", "code": 1000},
    ]
    return (await drive(app, scope, received=received)).messages


def types_of(messages: Iterable[Message]) -> list[str]:
    """Return the types of messages."""
    return [message["type"] for message in messages]


@pytest.mark.anyio
async def test_handshake_counts_like_a_request() -> None:
    """Handshakes and requests of an address share a limit."""
    app = RateLimitMiddleware(echoing, limit="2/day")

    first = await open_websocket(app, handshake())
    request = await drive(RateLimitMiddleware(answering(), limiter=app.policies[0].limiter))
    second = await open_websocket(app, handshake())
    other = await open_websocket(app, handshake(client=("192.0.2.2", 1)))

    assert (types_of(first), request.status) == ([ACCEPT], 200)
    assert types_of(second) == [HEAD, BODY]
    assert types_of(other) == [ACCEPT]


@pytest.mark.anyio
async def test_handshake_may_be_limited_by_a_header() -> None:
    """A handshake without the header is not limited."""
    app = RateLimitMiddleware(echoing, limit="1/day", key=keys.header("x-api-key"))
    one, two = ([(b"x-api-key", name)] for name in (b"one", b"two"))

    responses = [
        await open_websocket(app, handshake(headers=headers)) for headers in (one, two, [], [], one)
    ]

    assert [types_of(response)[0] for response in responses] == [ACCEPT] * 4 + [HEAD]


@pytest.mark.anyio
async def test_failing_key_function_limits_no_handshake(caplog: pytest.LogCaptureFixture) -> None:
    """The error is logged, and the connection is accepted."""

    def key(scope: Scope) -> str:
        method: str = scope["method"]  # missing in the scope of a WebSocket
        return method

    app = RateLimitMiddleware(echoing, limit="1/day", key=key)

    responses = [await open_websocket(app, handshake()) for _ in range(2)]

    assert [types_of(response) for response in responses] == [[ACCEPT]] * 2
    assert [record.args for record in caplog.records] == [("rate limit policy default", "KeyError")]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware], ids=["bare", "exchange"])
@pytest.mark.anyio
async def test_server_with_denial_responses_sends_the_complete_response(
    around: type[ExchangeMiddleware],
) -> None:
    """A rejected handshake gets the status, the body and the rate limit headers."""
    limiter = Limiter("1/minute", clock=FakeClock())
    app = around(RateLimitMiddleware(echoing, limiter=limiter))
    await open_websocket(app, handshake())

    head, body = await open_websocket(app, handshake())

    assert (head["type"], head["status"]) == (HEAD, 429)
    headers = dict(head["headers"])
    assert headers[b"retry-after"] == b"60"
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"ratelimit"] == b'"default";r=0;t=60'
    assert headers[b"ratelimit-policy"] == b'"default";q=1;w=60'
    assert body["type"] == BODY
    assert body["body"] == b"Too Many Requests"


def plain(decision: Decision) -> ASGIApp:
    """Return an HTTP application."""
    return answering(b"later", status=429, content_type=b"text/x-later")


RESPONDS: dict[str, tuple[Respond, bytes, str]] = {
    "problem details": (problem_details, b"application/problem+json", "quota-exceeded"),
    "a plain application": (plain, b"text/x-later", "later"),
}


@pytest.mark.parametrize(("respond", "content_type", "text"), RESPONDS.values(), ids=RESPONDS)
@pytest.mark.anyio
async def test_rejected_handshake_gets_the_response_of_respond(
    respond: Respond, content_type: bytes, text: str
) -> None:
    """The response may be an application that supports HTTP only."""
    app = RateLimitMiddleware(echoing, limit="1/day", respond=respond)
    await open_websocket(app, handshake())

    head, body = await open_websocket(app, handshake())

    assert types_of([head, body]) == [HEAD, BODY]
    assert dict(head["headers"])[b"content-type"] == content_type
    assert b"ratelimit" in dict(head["headers"])
    assert text in body["body"].decode()


@pytest.mark.anyio
async def test_failing_respond_rejects_the_handshake_with_the_default_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error of `respond` is logged."""

    def respond(decision: Decision) -> ASGIApp:
        raise KeyError("template")

    app = RateLimitMiddleware(echoing, limit="1/day", respond=respond)
    await open_websocket(app, handshake())

    head, body = await open_websocket(app, handshake())

    assert (head["status"], body["body"]) == (429, b"Too Many Requests")
    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.parametrize("extensions", [{}, None, {"tls": {}}, "missing"], ids=str)
@pytest.mark.anyio
async def test_server_without_denial_responses_closes_the_handshake(extensions: Any) -> None:
    """The handshake is closed with the code for "try again later"."""
    app = RateLimitMiddleware(echoing, limit="1/day")
    scope = {**handshake(denial=False), "extensions": extensions}
    if extensions == "missing":
        del scope["extensions"]
    await open_websocket(app, dict(scope))

    assert await open_websocket(app, dict(scope)) == [CLOSE]


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy", None])
@pytest.mark.anyio
async def test_accepted_connection_passes_unchanged(headers: str | None) -> None:
    """No message of an accepted connection is changed, in either direction."""
    app = RateLimitMiddleware(echoing, headers=headers)

    limited = await open_websocket(app, handshake(), "one", "two")

    assert limited == await open_websocket(echoing, handshake(), "one", "two")
    assert types_of(limited) == [ACCEPT, "websocket.send", "websocket.send"]


@pytest.mark.anyio
async def test_handshake_rejected_by_the_application_passes_unchanged() -> None:
    """A denial response of the application gets no rate limit headers."""
    sent: list[Message] = [
        {"type": HEAD, "status": 403, "headers": [(b"x", b"y")]},
        {"type": BODY, "body": b"forbidden"},
    ]

    async def denying(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(dict(message))

    assert await open_websocket(RateLimitMiddleware(denying), handshake()) == sent


@pytest.mark.parametrize(
    "options",
    [{"enforce": False}, {"policies": [Policy("1/day", enforce=False)]}],
    ids=["shadow mode", "shadow policy"],
)
@pytest.mark.anyio
async def test_shadow_mode_rejects_no_handshake(options: dict[str, Any]) -> None:
    """Shadow mode of the middleware or of the policy accepts every handshake."""
    if "policies" not in options:
        options = {"limit": "1/day", **options}
    app = RateLimitMiddleware(echoing, **options)

    assert [types_of(await open_websocket(app, handshake())) for _ in range(3)] == [[ACCEPT]] * 3


@pytest.mark.anyio
async def test_handshake_on_exempt_path_is_limited() -> None:
    """An exempt path is exempt for HTTP only."""
    app = RateLimitMiddleware(echoing, limit="1/day", exempt=["/live"])

    first, second = [types_of(await open_websocket(app, handshake())) for _ in range(2)]

    assert first == [ACCEPT] != second


@pytest.mark.anyio
async def test_on_decision_gets_decisions_on_handshakes() -> None:
    """`on_decision` gets the scope of the WebSocket."""
    calls: list[tuple[str, bool]] = []

    def on_decision(scope: Scope, decision: Decision) -> None:
        calls.append((scope["type"], decision.allowed))

    app = RateLimitMiddleware(echoing, limit="1/day", on_decision=on_decision)
    for _ in range(2):
        await open_websocket(app, handshake())

    assert calls == [("websocket", True), ("websocket", False)]


async def echo(websocket: WebSocket) -> None:
    """Accept a WebSocket, send a text and close."""
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


def application() -> Starlette:
    """Return a Starlette application whose WebSocket a client may open once a day."""
    return Starlette(
        routes=[WebSocketRoute("/live", echo)],
        middleware=[Middleware(RateLimitMiddleware, limit="1/day", key=keys.client_address())],
    )


def test_starlette_test_client_raises_the_denial_response() -> None:
    """The raised error has the status, the text and the headers of the rejection."""
    client = TestClient(application())
    with client.websocket_connect("/live") as session:
        assert session.receive_text() == "hello"

    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/live"):
        pass

    assert denied.value.status_code == 429
    assert denied.value.text == "Too Many Requests"
    assert denied.value.headers["ratelimit-policy"] == '"default";q=1;w=86400'


def test_rejected_handshake_is_429_on_a_real_server() -> None:
    """The server uvicorn sends the rejection as an HTTP response."""
    pytest.importorskip("websockets", reason="install the Python package websockets")
    uvicorn = pytest.importorskip("uvicorn")

    async def main() -> list[bytes]:
        config = uvicorn.Config(application(), log_config=None, ws="websockets-sansio", port=0)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            async with asyncio.timeout(PATIENCE):
                while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
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
    """Return the status line and headers of the response to a handshake."""
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

"""WebSocket handshakes: counted like requests, and turned down where they are too many."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from tests.support.apps import answering
from tests.support.asgi import drive, http_scope
from tests.support.clock import FakeClock
from tests.support.waiting import PATIENCE
from tokenpulse_mw import (
    Decision,
    ExchangeMiddleware,
    Limiter,
    Policy,
    RateLimitMiddleware,
    client_address,
    header,
    problem_details,
)
from tokenpulse_mw.ratelimit.answers import Respond

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
    app = RateLimitMiddleware(accepting, limit="1/day", key=header("x-api-key"))
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
        middleware=[Middleware(RateLimitMiddleware, limit="1/day", key=client_address())],
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

"""Requests at once: a place is given back however its request ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import ExchangeMiddleware, InFlight, Policy, RateLimitMiddleware
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.exchange import drop_exchange

from ..support.apps import (
    WORDS,
    answering,
    gone,
    listening,
    listening_later,
    raising,
    raising_later,
    silent,
    streaming,
)
from ..support.asgi import Answer, drive, http_scope
from ..support.waiting import PATIENCE, wait_until

Around = Callable[[ASGIApp], ASGIApp]
AROUND: dict[str, Around] = {
    "no exchange": lambda app: app,
    "an exchange": ExchangeMiddleware,
    "an exchange without usage": lambda app: ExchangeMiddleware(app, usage=False),
}

Ask = Callable[[ASGIApp], Awaitable[None]]
Ending = tuple[Callable[[InFlight], ASGIApp], Ask]


async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
    """Keeps its exchange out of all measurement."""
    drop_exchange(scope)
    await answering()(scope, receive, send)


def who(scope: Scope) -> int:
    """One of several clients."""
    number: int = scope.get("who", 0)
    return number


def within(app: ASGIApp, *, works_on: bool = False) -> Callable[[InFlight], ASGIApp]:
    """`app`, which makes sure that it has a place, and none while it works on in the background."""

    def make(places: InFlight) -> ASGIApp:
        def free(scope: Scope) -> bool:
            return places.peek(who(scope), 0).remaining == places.limit

        async def checked(scope: Scope, receive: Receive, send: Send) -> None:
            assert not free(scope)
            await app(scope, receive, send)
            assert free(scope) is works_on

        return checked

    return make


def asked(
    scope: Scope | None = None, *, on_send: Callable[[Message], None] = lambda message: None
) -> Ask:
    """Ask once, and look at nothing."""

    async def ask(app: ASGIApp) -> None:
        answer = await drive(app, dict(scope or http_scope()), on_send=on_send)
        assert not isinstance(answer.error, AssertionError)

    return ask


def cancelled(scope: Scope | None = None) -> Ask:
    """Ask, and end the request as a server does."""

    async def ask(app: ASGIApp) -> None:
        with anyio.CancelScope() as whole:
            await drive(app, {**(scope or http_scope()), "cancel": whole.cancel})
        assert whole.cancelled_caught

    return ask


def hanging(*chunks: bytes) -> ASGIApp:
    """Says what it has to say, and is cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if chunks:
            await streaming(chunks, ends=False)(scope, receive, send)
        scope["cancel"]()
        await anyio.sleep_forever()

    return app


async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
    """A WebSocket application that closes after a while."""
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "websocket.close"})


WEBSOCKET: Scope = {**http_scope("/live"), "type": "websocket"}
ENDINGS: dict[str, Ending] = {
    "a complete answer": (within(answering(), works_on=True), asked()),
    "a stream": (within(streaming(WORDS), works_on=True), asked()),
    "no answer": (within(silent), asked()),
    "an exception before the head": (within(raising), asked()),
    "an exception after the head": (within(raising_later), asked()),
    "a truncated answer": (within(streaming(WORDS, ends=False)), asked()),
    "a client that has left": (within(streaming(WORDS)), asked(on_send=gone)),
    "a client that leaves before the head": (within(listening), asked()),
    "a client that leaves": (within(listening_later), asked()),
    "cancelled before the head": (within(hanging()), cancelled()),
    "cancelled in the middle": (within(hanging(b"a")), cancelled()),
    "kept out of measurement": (within(dropping, works_on=True), asked()),
    "a websocket that is closed": (within(accepting), asked(WEBSOCKET)),
    "a websocket that fails": (within(raising), asked(WEBSOCKET)),
    "a websocket that is cancelled": (within(hanging()), cancelled(WEBSOCKET)),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.anyio
async def test_a_place_is_free_again_however_its_request_ends(
    ending: Ending, around: Around
) -> None:
    """It is taken while the request is in progress, and no longer."""
    places = InFlight(1)
    make, ask = ending
    app = around(RateLimitMiddleware(make(places), limiter=places, key=who))

    await ask(app)

    assert len(places) == 0


@pytest.mark.anyio
async def test_a_place_is_not_taken_where_another_policy_refuses() -> None:
    """Nor where a WebSocket's handshake is turned down."""
    places = InFlight(1)
    policies = [Policy(places, name="places"), Policy("1/day", name="day", cost=lambda scope: 2)]
    app = RateLimitMiddleware(raising, policies=policies)

    for scope in (http_scope(), WEBSOCKET):
        answer = await drive(app, dict(scope))
        assert answer.error is None
        assert len(places) == 0


@pytest.mark.anyio
async def test_a_place_is_refused_while_it_is_taken() -> None:
    """The one who has it is answered; who comes meanwhile is told to ask again in a second."""
    places, refused = InFlight(1), list[Answer]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        refused.append(await drive(limited))
        await answering()(scope, receive, send)

    limited = RateLimitMiddleware(app, limiter=places)
    answers = [await drive(limited), await drive(limited)]

    assert [answer.status for answer in answers] == [200, 200]
    assert [answer.status for answer in refused] == [429, 429]
    assert refused[0].headers["retry-after"] == "1"
    assert refused[0].headers["ratelimit"] == '"default";r=0'
    assert answers[0].headers["ratelimit-policy"] == '"default";q=1;qu="concurrent-requests"'


@settings(max_examples=50)
@given(
    endings=st.lists(st.sampled_from(sorted(ENDINGS)), max_size=12),
    cost=st.integers(1, 3),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_no_mix_of_endings_loses_a_place(endings: list[str], cost: int, backend: str) -> None:
    """One after another and all at once: in the end nothing is taken."""
    places = InFlight(3)

    async def ask(number: int) -> None:
        make, how = ENDINGS[endings[number]]
        policy = Policy(places, key=who, cost=cost)
        app = RateLimitMiddleware(make(places), policies=[policy])

        async def by_client(scope: Scope, receive: Receive, send: Send) -> None:
            scope["who"] = number
            await app(scope, receive, send)

        await how(by_client)

    async def main() -> None:
        for number in range(len(endings)):
            await ask(number)
        async with anyio.create_task_group() as tasks:
            for number in range(len(endings)):
                tasks.start_soon(ask, number)

    anyio.run(main, backend=backend)
    assert len(places) == 0


@pytest.mark.parametrize("limit", [0, -1, 1.5, "many", None, True])
def test_a_limit_without_places_is_refused(limit: Any) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match="limit must be a whole number from 1 to 1000000, got"):
        InFlight(limit)


async def endless() -> AsyncIterator[bytes]:
    """A body without an end, as fast as the client reads it."""
    while True:
        yield bytes(65536)
        await anyio.lowlevel.checkpoint()


async def stream(request: Request) -> Response:
    """Streams to whoever reads."""
    return StreamingResponse(endless())


class Listening:
    """Says a little, if anything, and gives up when its client leaves.

    Args:
        request: What is answered.
    """

    def __init__(self, request: Request) -> None:
        self._says = request.url.path == "/says"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._says:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


async def until_gone(request: Request) -> Listening:
    """An answer that waits."""
    return Listening(request)


@pytest.mark.parametrize("path", ["/stream", "/says", "/silent"])
def test_a_client_that_leaves_a_real_server_leaves_its_place(path: str) -> None:
    """In the middle of a stream, and before there is an answer: the place is soon free again."""
    places = InFlight(2)
    app = Starlette(
        routes=[
            Route("/stream", stream),
            Route("/says", until_gone),
            Route("/silent", until_gone),
        ],
        middleware=[Middleware(RateLimitMiddleware, limiter=places, key=lambda scope: "client")],
    )

    with LocalServer(app) as server:
        clients = [connected(server.url) for _ in range(3)]
        for client in clients[:2]:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_until(lambda: places.peek("client", 0).remaining == 0)
        clients[2].sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        refused = clients[2].recv(65536)
        for client in clients[:2]:
            if path != "/silent":
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()

        wait_until(lambda: len(places) == 0)

    assert refused.startswith(b"HTTP/1.1 429 ")


def connected(url: str) -> socket.socket:
    """A connection that will not wait for ever."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)

"""Slots of concurrent requests: released however a request ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable

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

from tokenpulse_mw import (
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedInFlight,
)
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.exchange import drop_exchange

from ..support.apps import (
    WORDS,
    answering,
    gone,
    raising,
    raising_mid_stream,
    returning_at_disconnect,
    silent,
    streaming,
    streaming_until_disconnect,
)
from ..support.asgi import Answer, drive, http_scope
from ..support.servers import Server
from ..support.waiting import PATIENCE, wait_until

Around = Callable[[ASGIApp], ASGIApp]
AROUND: dict[str, Around] = {
    "no exchange": lambda app: app,
    "an exchange": ExchangeMiddleware,
    "an exchange without usage": lambda app: ExchangeMiddleware(app, usage=False),
}

Client = Callable[[ASGIApp], Awaitable[None]]
Slots = InFlight | SharedInFlight
Ending = tuple[Callable[[Slots], ASGIApp], Client]


async def dropping(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond, and drop the exchange from all measurements."""
    drop_exchange(scope)
    await answering()(scope, receive, send)


def client_number(scope: Scope) -> int:
    """Return the number of the client in the scope."""
    number: int = scope.get("client_number", 0)
    return number


def checking(app: ASGIApp, *, works_on: bool = False) -> Callable[[Slots], ASGIApp]:
    """Return a factory of `app` that asserts that its slot is taken while it responds.

    Args:
        app: Application to wrap.
        works_on: True if `app` continues after its response, without a slot.
    """

    def create(slots: Slots) -> ASGIApp:
        def free(scope: Scope) -> bool:
            if isinstance(slots, SharedInFlight):
                return len(slots) == 0
            return slots.peek(client_number(scope), 0).remaining == slots.limit

        async def checked(scope: Scope, receive: Receive, send: Send) -> None:
            assert not free(scope)
            await app(scope, receive, send)
            assert free(scope) is works_on

        return checked

    return create


def requesting(
    scope: Scope | None = None, *, on_send: Callable[[Message], None] = lambda message: None
) -> Client:
    """Return a function that sends one request."""

    async def send_request(app: ASGIApp) -> None:
        response = await drive(app, dict(scope or http_scope()), on_send=on_send)
        assert not isinstance(response.error, AssertionError)

    return send_request


def cancelled(scope: Scope | None = None) -> Client:
    """Return a function that sends one request, which is cancelled as by a server."""

    async def send_request(app: ASGIApp) -> None:
        with anyio.CancelScope() as cancel_scope:
            await drive(app, {**(scope or http_scope()), "cancel": cancel_scope.cancel})
        assert cancel_scope.cancelled_caught

    return send_request


def hanging(*chunks: bytes) -> ASGIApp:
    """Return an application that sends `chunks` and is then cancelled."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if chunks:
            await streaming(chunks, ends=False)(scope, receive, send)
        scope["cancel"]()
        await anyio.sleep_forever()

    return app


async def open_websocket(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept a WebSocket, and close it after the client has disconnected."""
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "http.disconnect":
        pass
    await send({"type": "websocket.close"})


WEBSOCKET: Scope = {**http_scope("/live"), "type": "websocket"}
ENDINGS: dict[str, Ending] = {
    "a complete response": (checking(answering(), works_on=True), requesting()),
    "a stream": (checking(streaming(WORDS), works_on=True), requesting()),
    "no response": (checking(silent), requesting()),
    "an exception before the headers": (checking(raising), requesting()),
    "an exception after the headers": (checking(raising_mid_stream), requesting()),
    "a truncated response": (checking(streaming(WORDS, ends=False)), requesting()),
    "a client that has disconnected": (checking(streaming(WORDS)), requesting(on_send=gone)),
    "a client that disconnects before the headers": (
        checking(returning_at_disconnect),
        requesting(),
    ),
    "a client that disconnects": (checking(streaming_until_disconnect), requesting()),
    "cancelled before the headers": (checking(hanging()), cancelled()),
    "cancelled in the middle": (checking(hanging(b"a")), cancelled()),
    "a dropped exchange": (checking(dropping, works_on=True), requesting()),
    "a websocket that is closed": (checking(open_websocket), requesting(WEBSOCKET)),
    "a websocket that fails": (checking(raising), requesting(WEBSOCKET)),
    "a websocket that is cancelled": (checking(hanging()), cancelled(WEBSOCKET)),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
@pytest.mark.anyio
async def test_slot_is_released_however_its_request_ends(ending: Ending, around: Around) -> None:
    """A slot is taken exactly while the request is in progress."""
    slots = InFlight(1)
    create, send_request = ending
    app = around(RateLimitMiddleware(create(slots), limiter=slots, key=client_number))

    await send_request(app)

    assert len(slots) == 0


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_shared_slot_is_released_however_its_request_ends(
    around: Around, redis: Server, anyio_backend: str
) -> None:
    """A slot in the storage is taken exactly while the request is in progress."""
    slots = SharedInFlight(1, storage=f"redis://{redis.place}", timeout=PATIENCE)

    for create, send_request in ENDINGS.values():
        app = around(RateLimitMiddleware(create(slots), limiter=slots, key=client_number))
        await send_request(app)
        assert len(slots) == 0
        await slots.aclose()  # waits for the release
        assert (await slots.peek(0)).remaining == 1


@pytest.mark.anyio
async def test_no_slot_is_taken_if_another_policy_rejects() -> None:
    """A rejected request or WebSocket handshake takes no slot."""
    slots = InFlight(1)
    policies = [Policy(slots, name="slots"), Policy("1/day", name="day", cost=lambda scope: 2)]
    app = RateLimitMiddleware(raising, policies=policies)

    for scope in (http_scope(), WEBSOCKET):
        response = await drive(app, dict(scope))
        assert response.error is None
        assert len(slots) == 0


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_slot_is_released_if_another_limit_fails_at_the_end(kind: str) -> None:
    """A clock that fails after the response loses the correction of tokens, but no slot."""
    finished: list[bool] = []

    def clock() -> float:
        if finished:
            raise RuntimeError
        return 0.0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        finished.append(True)
        await answering()(scope, receive, send)

    slots = InFlight(1)
    policies = [
        Policy(Limiter("100/day", clock=clock), name="tokens", tokens=10),
        Policy(slots, name="slots"),
    ]
    limited = RateLimitMiddleware(app, policies=policies)

    response = await drive(limited, dict(http_scope() if kind == "http" else WEBSOCKET))

    assert (len(slots), response.error) == (0, None)


@pytest.mark.anyio
async def test_request_without_a_free_slot_is_rejected() -> None:
    """The rejection asks to retry after one second."""
    slots, rejected = InFlight(1), list[Answer]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        rejected.append(await drive(limited))
        await answering()(scope, receive, send)

    limited = RateLimitMiddleware(app, limiter=slots)
    responses = [await drive(limited), await drive(limited)]

    assert [response.status for response in responses] == [200, 200]
    assert [response.status for response in rejected] == [429, 429]
    assert rejected[0].headers["retry-after"] == "1"
    assert rejected[0].headers["ratelimit"] == '"default";r=0'
    assert responses[0].headers["ratelimit-policy"] == '"default";q=1;qu="concurrent-requests"'


@settings(max_examples=50)
@given(
    endings=st.lists(st.sampled_from(sorted(ENDINGS)), max_size=12),
    cost=st.integers(1, 3),
    backend=st.sampled_from(["asyncio", "trio"]),
)
def test_no_sequence_of_requests_leaks_a_slot(endings: list[str], cost: int, backend: str) -> None:
    """After requests one by one and concurrently, no slot is taken."""
    slots = InFlight(3)

    async def run_client(index: int) -> None:
        create, send_request = ENDINGS[endings[index]]
        policy = Policy(slots, key=client_number, cost=cost)
        app = RateLimitMiddleware(create(slots), policies=[policy])

        async def by_client(scope: Scope, receive: Receive, send: Send) -> None:
            scope["client_number"] = index
            await app(scope, receive, send)

        await send_request(by_client)

    async def main() -> None:
        for index in range(len(endings)):
            await run_client(index)
        async with anyio.create_task_group() as tasks:
            for index in range(len(endings)):
                tasks.start_soon(run_client, index)

    anyio.run(main, backend=backend)
    assert len(slots) == 0


async def endless_body() -> AsyncIterator[bytes]:
    """Yield chunks without an end, as fast as the client reads."""
    while True:
        yield bytes(65536)
        await anyio.lowlevel.checkpoint()


async def stream_response(request: Request) -> Response:
    """Return an endless stream."""
    return StreamingResponse(endless_body())


class Listening:
    """Response that waits until the client disconnects.

    Args:
        request: Request; on the path /begun the response begins before it waits.
    """

    def __init__(self, request: Request) -> None:
        self._begins = request.url.path == "/begun"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass


async def wait_for_disconnect(request: Request) -> Listening:
    """Return a response that waits until the client disconnects."""
    return Listening(request)


@pytest.mark.parametrize("path", ["/stream", "/begun", "/silent"])
def test_client_that_disconnects_from_a_real_server_releases_its_slot(path: str) -> None:
    """The slot is released during a stream, and before a response begins."""
    slots = InFlight(2)
    app = Starlette(
        routes=[
            Route("/stream", stream_response),
            Route("/begun", wait_for_disconnect),
            Route("/silent", wait_for_disconnect),
        ],
        middleware=[Middleware(RateLimitMiddleware, limiter=slots, key=lambda scope: "client")],
    )

    with LocalServer(app) as server:
        clients = [connect(server.url) for _ in range(3)]
        for client in clients[:2]:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        wait_until(lambda: slots.peek("client", 0).remaining == 0)
        clients[2].sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        rejected = clients[2].recv(65536)
        for client in clients[:2]:
            if path != "/silent":
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()

        wait_until(lambda: len(slots) == 0)

    assert rejected.startswith(b"HTTP/1.1 429 ")


def connect(url: str) -> socket.socket:
    """Return a connection with a timeout."""
    host, _, port = url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)

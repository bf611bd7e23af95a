"""Usage of WebSockets behind uvicorn, with a vendor that fragments and compresses its frames."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect as connect_to_vendor
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tokenpulse_mw import ExchangeMiddleware

from ..support.waiting import PATIENCE, wait_until
from ..support.websockets import Turns
from ..usage.sessions import SESSIONS, Frame, Session

pytestmark = pytest.mark.slow

AUDIO = bytes(range(256)) * 300


@contextmanager
def vendor(
    session: Session, frames: Sequence[Frame], *, size: int, compression: Any
) -> Iterator[int]:
    """Serve a session in fragments of `size` characters or bytes, and return the port."""
    received: list[Frame] = []

    def talk(connection: ServerConnection) -> None:
        received.extend(connection.recv(PATIENCE) for _ in session.client)
        for frame in frames:
            fragments: Any = [frame[start : start + size] for start in range(0, len(frame), size)]
            connection.send(fragments)

    with serve(talk, "127.0.0.1", 0, compression=compression) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(PATIENCE)
    assert received == session.client


def gateway(port: int, turns: Turns, *, metered: bool) -> ASGIApp:
    """Return a gateway that forwards every frame between the client and the vendor."""

    async def forward(websocket: WebSocket) -> None:
        await websocket.accept()
        async with connect_to_vendor(f"ws://127.0.0.1:{port}") as upstream:

            async def to_vendor() -> None:
                while (message := await websocket.receive())["type"] == "websocket.receive":
                    frame = message.get("text")
                    await upstream.send(message["bytes"] if frame is None else frame)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(to_vendor)
                async for frame in upstream:
                    if isinstance(frame, str):
                        await websocket.send_text(frame)
                    else:
                        await websocket.send_bytes(frame)
                tasks.cancel_scope.cancel()
        await websocket.close()

    app = Starlette(routes=[WebSocketRoute("/v1/live", forward)])
    return ExchangeMiddleware(app, observers=[turns], websocket_usage=metered)


@contextmanager
def served(app: ASGIApp, ws: Any) -> Iterator[int]:
    """Serve `app` with uvicorn, and return the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws=ws))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listening.close()


def frames_at_client(session: Session, port: int) -> list[Frame]:
    """Return all frames that a client of the gateway receives."""
    frames: list[Frame] = []
    with connect(f"ws://127.0.0.1:{port}/v1/live") as client:
        for frame in session.client:
            client.send(frame)
        try:
            while True:
                frames.append(client.recv(PATIENCE))
        except ConnectionClosedOK:
            return frames


@pytest.mark.parametrize("session", SESSIONS.values(), ids=SESSIONS)
@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
@pytest.mark.parametrize(
    ("size", "compression"), [(40, "deflate"), (1000, None), (10**6, "deflate")]
)
def test_fragmented_and_compressed_frames_count_to_the_token(
    session: Session, ws: str, size: int, compression: str | None
) -> None:
    """ASGI has whole and decompressed messages, so each response counts in any fragmentation."""
    pytest.importorskip(ws.partition("-")[0])
    frames = [AUDIO, *session.server, AUDIO]
    received: list[list[Frame]] = []
    for metered in (True, False):
        turns = Turns()
        with (
            vendor(session, frames, size=size, compression=compression) as upstream,
            served(gateway(upstream, turns, metered=metered), ws) as port,
        ):
            received.append(frames_at_client(session, port))
            wait_until(turns.is_closed)

        assert turns.outcomes == (session.responses if metered else [])
        assert {item.route for item in turns.seen} <= {"/v1/live"}
        assert turns.errors == []

    assert received == [frames, frames]


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
def test_response_that_the_client_leaves_is_missing(ws: str) -> None:
    """A client that hangs up in the middle of a response does not hide it."""
    pytest.importorskip(ws.partition("-")[0])
    session, turns = SESSIONS["responses"], Turns()

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(str(session.server[0]))
        await websocket.receive()

    app = Starlette(routes=[WebSocketRoute("/v1/live", talk)])
    with served(ExchangeMiddleware(app, observers=[turns], websocket_usage=True), ws) as port:
        with connect(f"ws://127.0.0.1:{port}/v1/live") as client:
            client.recv(PATIENCE)
        wait_until(turns.is_closed)

    assert [(item.usage_source, item.outcome) for item in turns.seen] == [
        ("missing", "client_disconnect")
    ]

"""Outcomes of requests on uvicorn, with clients that disconnect at any time."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics

from ..support.apps import (
    WORDS,
    event,
    raising,
    raising_mid_stream,
    returning_at_disconnect,
    silent,
    streaming,
)
from ..support.waiting import PATIENCE, wait_until
from .routes import AppEndpoint

pytestmark = pytest.mark.slow

WEBSOCKETS = {"websockets-sansio": "websockets", "wsproto": "wsproto"}  # of uvicorn, by module
IMPLEMENTATIONS = [name for name in ("h11", "httptools") if importlib.util.find_spec(name)]


class Server:
    """A uvicorn server of `routes` behind an `ExchangeMiddleware` that records exchanges."""

    def __init__(self, routes: Sequence[BaseRoute], *, ws: Any = "none", **options: Any) -> None:
        self.seen: list[Exchange] = []
        self.metrics = HttpMetrics(CollectorRegistry())
        app = Starlette(routes=routes)
        app.add_middleware(ExchangeMiddleware, observers=[self.seen.append, self.metrics])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, ws=ws, **options)
        )
        self._thread = threading.Thread(
            target=lambda: self._server.run(sockets=[self._socket]), daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self._server.started)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop as an operator does, and wait for the end."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()

    def connect(self) -> socket.socket:
        """Return a connection with a timeout."""
        return socket.create_connection(self._socket.getsockname(), timeout=PATIENCE)

    def request(self, *requests: str, method: str = "POST") -> bytes:
        """Send requests for these paths at once, and read until the server closes."""
        *others, last = requests
        messages = [request(path, method=method) for path in others]
        with self.connect() as client:
            client.sendall(b"".join([*messages, request(last, method=method, connection="close")]))
            return b"".join(iter(lambda: client.recv(65536), b""))

    def finished(self, count: int = 1) -> list[tuple[str, str, int, str]]:
        """Return method, route, status and outcome of exchanges, after all have finished."""
        wait_until(lambda: len(self.seen) >= count and self.in_progress() == 0)
        assert len(self.seen) == count
        for exchange in self.seen:
            first_byte = exchange.time_to_first_byte
            assert first_byte is None or 0 <= first_byte <= exchange.duration
        return [
            (exchange.method, exchange.route, exchange.status, exchange.outcome)
            for exchange in self.seen
        ]

    def in_progress(self) -> float | None:
        """Return the gauge of requests in progress."""
        name = "tokenpulse_http_requests_in_progress"
        return self.metrics.registry.get_sample_value(name)

    def open_websockets(self) -> float | None:
        """Return the gauge of open WebSockets."""
        return self.metrics.registry.get_sample_value("tokenpulse_websocket_connections")


def request(path: str, *, method: str = "POST", connection: str = "keep-alive") -> bytes:
    """Return a request without a body."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n"
    return (head + "Content-Length: 0\r\n\r\n").encode()


class Barrier:
    """A point at which the application waits until the test opens it."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    async def wait(self) -> None:
        """Wait without blocking the server."""
        self.reached.set()
        await anyio.to_thread.run_sync(self.open.wait, PATIENCE)


@pytest.fixture(params=IMPLEMENTATIONS)
def http(request: pytest.FixtureRequest) -> str:
    """Return each installed HTTP implementation of uvicorn."""
    return str(request.param)


async def endless() -> AsyncIterator[bytes]:
    """Yield chunks without an end."""
    while True:
        yield b"piece"
        await anyio.sleep(0.002)


async def stream_for_ever(request: Request) -> Response:
    """Respond with a stream that does not end."""
    return StreamingResponse(endless())


def hanging(*chunks: bytes) -> ASGIApp:
    """Return an application that sends `chunks` and then waits for ever."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if chunks:
            await streaming(chunks, ends=False)(scope, receive, send)
        await anyio.sleep_forever()

    return app


async def times_out(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise TimeoutError in place of a response."""
    with anyio.fail_after(0.01):
        await anyio.sleep_forever()


ENDS: list[tuple[str, ASGIApp, int, str]] = [
    ("whole", streaming([b"whole"], content_type=b"text/plain"), 200, "complete"),
    ("stream", streaming([*WORDS, b"data: [DONE]\n\n"]), 200, "complete"),
    ("empty", streaming([b""], status=204), 204, "complete"),
    ("unchanged", streaming([b""], status=304), 304, "complete"),
    ("failing", streaming([b"{}"], status=503), 503, "complete"),
    ("silent", silent, 500, "error"),
    ("exception before the headers", raising, 500, "error"),
    ("exception after the headers", raising_mid_stream, 200, "error"),
    ("truncated", streaming(WORDS, ends=False), 200, "truncated"),
    ("timeout", times_out, 500, "error"),
    ("error event", streaming([*WORDS, event(error={"message": "no"})]), 200, "error"),
    ("error of Anthropic", streaming([event(type="error", error={})]), 200, "error"),
    (
        "failed response",
        streaming([event(type="response.failed", response={"error": {}})]),
        200,
        "error",
    ),
]


@pytest.mark.parametrize(
    ("app", "status", "outcome"), [end[1:] for end in ENDS], ids=[end[0] for end in ENDS]
)
def test_recorded_status_is_the_one_that_the_client_received(
    http: str, app: ASGIApp, status: int, outcome: str
) -> None:
    """The status of the exchange is in the first line of the response."""
    with Server([Route("/case/{id}", AppEndpoint(app))], http=http) as server:
        response = server.request("/case/1")

        assert server.finished() == [("POST", "/case/{id}", status, outcome)]
    assert response.startswith(f"HTTP/1.1 {status} ".encode())


STATUSES = {"/whole": 200, "/empty": 204, "/unchanged": 304, "/file": 200}


@pytest.mark.parametrize("path", STATUSES)
def test_response_to_head_is_complete(http: str, path: str, tmp_path: Path) -> None:
    """A response to HEAD without a body is complete."""
    file = tmp_path / "file.txt"
    file.write_bytes(b"file")

    async def endpoint(request: Request) -> Response:
        if path == "/file":
            return FileResponse(file)
        return Response(b"whole" if path == "/whole" else b"", status_code=STATUSES[path])

    with Server([Route("/{name}", endpoint)], http=http) as server:
        response = server.request(path, method="HEAD")

        assert server.finished() == [("HEAD", "/{name}", STATUSES[path], "complete")]
    assert response.endswith(b"\r\n\r\n")


def test_file_response_is_complete(http: str, tmp_path: Path) -> None:
    """A file is complete if the application reads it, and if the server sends it."""
    file = tmp_path / "file.txt"
    file.write_bytes(b"x" * 300_000)

    async def endpoint(request: Request) -> Response:
        return FileResponse(file)

    with Server([Route("/file", endpoint)], http=http) as server:
        response = server.request("/file", method="GET")

        assert server.finished() == [("GET", "/file", 200, "complete")]
        assert server.seen[0].time_to_first_byte is not None
    assert response.endswith(b"\r\n\r\n" + b"x" * 300_000)


def test_pipelined_requests_are_separate_exchanges(http: str) -> None:
    """Requests on one connection are recorded in the order of their responses."""

    async def endpoint(request: Request) -> Response:
        return Response(request.path_params["id"])

    with Server([Route("/{id}", endpoint, methods=["POST"])], http=http) as server:
        response = server.request("/1", "/no/route", "/2", "/3")

        assert server.finished(4) == [
            ("POST", "/{id}", 200, "complete"),
            ("POST", "__unmatched__", 404, "complete"),
            ("POST", "/{id}", 200, "complete"),
            ("POST", "/{id}", 200, "complete"),
        ]
    assert response.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("path", ["/api/t/acme/1", "/t/acme/1"])
def test_root_path_of_the_server_is_not_part_of_the_template(http: str, path: str) -> None:
    """The root path is removed, even if a proxy has removed it from the path before."""
    routes = [Mount("/t/{tenant}", routes=[Route("/{id}", AppEndpoint(streaming([b"a"])))])]
    prefix = path.removesuffix("/t/acme/1")

    # uvicorn adds its root path to every path, even if the proxy has not removed it.
    with Server([Mount(prefix, routes=routes)], http=http, root_path="/root") as server:
        server.request(path)

        assert server.finished() == [("POST", prefix + "/t/{tenant}/{id}", 200, "complete")]


def test_disconnect_before_the_headers_is_499(http: str) -> None:
    """An application that receives the disconnect and returns is recorded as 499."""
    with Server([Route("/case/{id}", AppEndpoint(returning_at_disconnect))], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)

        assert server.finished() == [("POST", "/case/{id}", 499, "client_disconnect")]


def test_undetected_disconnect_before_a_response_is_complete(http: str) -> None:
    """Uvicorn discards the response without an error, so its status is recorded."""
    barrier = Barrier()

    async def endpoint(request: Request) -> Response:
        await barrier.wait()
        return Response(b"whole")

    with Server([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            barrier.reached.wait(PATIENCE)
        barrier.open.set()

        assert server.finished() == [("POST", "/case/{id}", 200, "complete")]


def test_disconnect_detected_by_the_application_is_499(http: str) -> None:
    """A disconnect that the application has received is recorded as 499."""

    async def endpoint(request: Request) -> Response:
        while not await request.is_disconnected():  # noqa: ASYNC110 - applications poll so
            await anyio.sleep(0.002)
        return Response(b"discarded")

    with Server([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)

        assert server.finished() == [("POST", "/case/{id}", 499, "client_disconnect")]


def test_disconnect_in_a_stream_is_a_client_disconnect(http: str) -> None:
    """Starlette stops the stream; the status is the one that was sent."""
    routes = [Route("/case/{id}", stream_for_ever, methods=["POST"])]
    with Server(routes, http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")

        assert server.finished() == [("POST", "/case/{id}", 200, "client_disconnect")]
        assert server.seen[0].time_to_first_byte is not None


def test_undetected_disconnect_in_a_stream_is_complete(http: str) -> None:
    """Uvicorn discards the rest of the stream without an error."""
    barrier = Barrier()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        await barrier.wait()
        await send({"type": "http.response.body", "body": b"b"})

    with Server([Route("/case/{id}", AppEndpoint(app))], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        barrier.open.set()

        assert server.finished() == [("POST", "/case/{id}", 200, "complete")]


def test_disconnect_after_the_response_is_ignored(http: str) -> None:
    """A disconnect during a background task does not change the outcome."""
    barrier = Barrier()

    async def endpoint(request: Request) -> Response:
        return Response(b"whole", background=BackgroundTask(barrier.wait))

    with Server([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            received = b""
            while not received.endswith(b"whole"):
                received += client.recv(65536)
            barrier.reached.wait(PATIENCE)

        assert server.finished() == [("POST", "/case/{id}", 200, "complete")]
        barrier.open.set()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_exchange_finishes_before_its_background_task(http: str, stream: bool) -> None:
    """A background task delays neither the end of the exchange nor its duration."""
    barrier = Barrier()

    async def endpoint(request: Request) -> Response:
        task = BackgroundTask(barrier.wait)
        if stream:
            return StreamingResponse(iter([b"a", b"b"]), background=task)
        return Response(b"ab", background=task)

    with Server([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            barrier.reached.wait(PATIENCE)
            finished = server.finished()
            duration = server.seen[0].duration
            barrier.open.set()

        assert finished == [("POST", "/case/{id}", 200, "complete")]
        assert server.finished() == finished
        assert server.seen[0].duration == duration


@pytest.mark.parametrize(
    ("app", "status"),
    [(hanging(), 499), (hanging(b"a"), 200)],
    ids=["before the headers", "in the stream"],
)
def test_shutdown_of_the_server_is_a_client_disconnect(
    http: str, app: ASGIApp, status: int
) -> None:
    """The server cancels open requests after its timeout, and none is left in progress."""
    routes = [Route("/case/{id}", AppEndpoint(app))]
    with Server(routes, http=http, timeout_graceful_shutdown=0) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)
            if status == 200:
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
            server.stop()

        assert server.finished() == [("POST", "/case/{id}", status, "client_disconnect")]


def test_concurrent_requests_are_each_recorded_once(http: str) -> None:
    """Concurrent requests with every outcome are recorded once, and none is left in progress."""
    routes = [Route(f"/{number}", AppEndpoint(app)) for number, (_, app, *_) in enumerate(ENDS)]
    routes += [
        Route("/endless", stream_for_ever, methods=["POST"]),
        Route("/gone", AppEndpoint(returning_at_disconnect)),
    ]
    with Server(routes, http=http) as server:
        clients = []
        for path in ["/endless", "/gone"] * 3 + [f"/{number}" for number in range(len(ENDS))] * 3:
            clients.append(server.connect())
            clients[-1].sendall(request(path, connection="close"))
        wait_until(lambda: len(server.seen) == len(ENDS) * 3 and server.in_progress() == 6)
        for client in clients:
            client.close()

        finished = server.finished(len(clients))
    expected = [("POST", f"/{n}", *end[2:]) for n, end in enumerate(ENDS)]
    expected += [("POST", "/endless", 200, "client_disconnect")]
    expected += [("POST", "/gone", 499, "client_disconnect")]
    assert sorted(finished) == sorted(expected * 3)


@pytest.mark.parametrize("ws", WEBSOCKETS)
def test_websockets_count_while_they_are_open(ws: str) -> None:
    """Connections that clients drop without a closing handshake end, too."""
    pytest.importorskip(WEBSOCKETS[ws])

    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        async for _ in websocket.iter_text():
            pass

    handshake = (
        "GET /live HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with Server([WebSocketRoute("/live", live)], ws=ws) as server:
        with ExitStack() as clients:
            for _ in range(3):
                client = clients.enter_context(server.connect())
                client.sendall(handshake.encode())
                assert client.recv(65536).startswith(b"HTTP/1.1 101 ")
            wait_until(lambda: server.open_websockets() == 3)
            assert server.in_progress() == 0

        wait_until(lambda: server.open_websockets() == 0)
        assert server.finished(3) == [("GET", "/live", 101, "complete")] * 3

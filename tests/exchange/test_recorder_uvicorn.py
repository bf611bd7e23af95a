"""How requests end on a real server: uvicorn, with clients that can leave when they want to."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import AsyncIterator, Sequence
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
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics

from ..support.apps import (
    WORDS,
    event,
    listening,
    raising,
    raising_later,
    silent,
    streaming,
)
from ..support.waiting import PATIENCE, wait_until
from .routes import AppEndpoint

IMPLEMENTATIONS = [name for name in ("h11", "httptools") if importlib.util.find_spec(name)]


class Served:
    """`routes` behind an `ExchangeMiddleware` on uvicorn, and what was told of its exchanges.

    Args:
        routes: What is served.
        options: Of uvicorn.
    """

    def __init__(self, routes: Sequence[BaseRoute], **options: Any) -> None:
        self.seen: list[Exchange] = []
        self.metrics = HttpMetrics(CollectorRegistry())
        app = Starlette(routes=routes)
        app.add_middleware(ExchangeMiddleware, observers=[self.seen.append, self.metrics])
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, ws="none", **options)
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
        """Stop as an operator does, and wait until it has."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()

    def connect(self) -> socket.socket:
        """A connection that will not wait for ever."""
        return socket.create_connection(self._socket.getsockname(), timeout=PATIENCE)

    def ask(self, *requests: str, method: str = "POST") -> bytes:
        """Send `requests` for these paths at once, and read until the server closes."""
        *others, last = requests
        asked = [request(path, method=method) for path in others]
        with self.connect() as client:
            client.sendall(b"".join([*asked, request(last, method=method, connection="close")]))
            return b"".join(iter(lambda: client.recv(65536), b""))

    def told(self, count: int = 1) -> list[tuple[str, str, int, str]]:
        """Method, route, status and outcome of each of `count` exchanges, when all are over."""
        wait_until(lambda: len(self.seen) >= count and self.in_progress() == 0)
        assert len(self.seen) == count
        for each in self.seen:
            first = each.time_to_first_byte
            assert first is None or 0 <= first <= each.duration
        return [(each.method, each.route, each.status, each.outcome) for each in self.seen]

    def in_progress(self) -> float | None:
        """The gauge of requests that have begun and not ended."""
        name = "tokenpulse_http_requests_in_progress"
        return self.metrics.registry.get_sample_value(name)


def request(path: str, *, method: str = "POST", connection: str = "keep-alive") -> bytes:
    """A request without a body."""
    head = f"{method} {path} HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\n"
    return (head + "Content-Length: 0\r\n\r\n").encode()


class Gate:
    """A place where the application waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()

    async def wait(self) -> None:
        """Wait, and let the server go on meanwhile."""
        self.reached.set()
        await anyio.to_thread.run_sync(self.open.wait, PATIENCE)


@pytest.fixture(params=IMPLEMENTATIONS)
def http(request: pytest.FixtureRequest) -> str:
    """Each of uvicorn's implementations of HTTP that is installed."""
    return str(request.param)


async def endless() -> AsyncIterator[bytes]:
    """A body without an end."""
    while True:
        yield b"piece"
        await anyio.sleep(0.002)


async def stream_for_ever(request: Request) -> Response:
    """Streams to whoever reads."""
    return StreamingResponse(endless())


def hanging(*pieces: bytes) -> ASGIApp:
    """Says what it has to say, and waits for an upstream that never answers."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if pieces:
            await streaming(pieces, ends=False)(scope, receive, send)
        await anyio.sleep_forever()

    return app


async def gives_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Waits for an upstream no longer than it wants to, and fails."""
    with anyio.fail_after(0.01):
        await anyio.sleep_forever()


ENDS: list[tuple[str, ASGIApp, int, str]] = [
    ("whole", streaming([b"whole"], content_type=b"text/plain"), 200, "complete"),
    ("stream", streaming([*WORDS, b"data: [DONE]\n\n"]), 200, "complete"),
    ("empty", streaming([b""], status=204), 204, "complete"),
    ("unchanged", streaming([b""], status=304), 304, "complete"),
    ("failing", streaming([b"{}"], status=503), 503, "complete"),
    ("silent", silent, 500, "error"),
    ("exception before the head", raising, 500, "error"),
    ("exception after the head", raising_later, 200, "error"),
    ("truncated", streaming(WORDS, ends=False), 200, "truncated"),
    ("own deadline", gives_up, 500, "error"),
    ("error event", streaming([*WORDS, event(error={"message": "no"})]), 200, "error"),
    ("error of anthropic", streaming([event(type="error", error={})]), 200, "error"),
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
def test_how_an_application_ends(http: str, app: ASGIApp, status: int, outcome: str) -> None:
    """What is told is what the client reads in the first line of the answer."""
    with Served([Route("/case/{id}", AppEndpoint(app))], http=http) as server:
        answer = server.ask("/case/1")

        assert server.told() == [("POST", "/case/{id}", status, outcome)]
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


STATUSES = {"/whole": 200, "/empty": 204, "/unchanged": 304, "/file": 200}


@pytest.mark.parametrize("path", STATUSES)
def test_head(http: str, path: str, tmp_path: Path) -> None:
    """The answer has no body; what is told is the same as for any other."""
    file = tmp_path / "file.txt"
    file.write_bytes(b"file")

    async def endpoint(request: Request) -> Response:
        if path == "/file":
            return FileResponse(file)
        return Response(b"whole" if path == "/whole" else b"", status_code=STATUSES[path])

    with Served([Route("/{name}", endpoint)], http=http) as server:
        answer = server.ask(path, method="HEAD")

        assert server.told() == [("HEAD", "/{name}", STATUSES[path], "complete")]
    assert answer.endswith(b"\r\n\r\n")


def test_a_file(http: str, tmp_path: Path) -> None:
    """Read in pieces by the application, or sent by a server that can."""
    file = tmp_path / "file.txt"
    file.write_bytes(b"x" * 300_000)

    async def endpoint(request: Request) -> Response:
        return FileResponse(file)

    with Served([Route("/file", endpoint)], http=http) as server:
        answer = server.ask("/file", method="GET")

        assert server.told() == [("GET", "/file", 200, "complete")]
        assert server.seen[0].time_to_first_byte is not None
    assert answer.endswith(b"\r\n\r\n" + b"x" * 300_000)


def test_requests_that_come_at_once_on_one_connection(http: str) -> None:
    """Each is an exchange of its own, in the order of the answers."""

    async def endpoint(request: Request) -> Response:
        return Response(request.path_params["id"])

    with Served([Route("/{id}", endpoint, methods=["POST"])], http=http) as server:
        answer = server.ask("/1", "/no/route", "/2", "/3")

        assert server.told(4) == [
            ("POST", "/{id}", 200, "complete"),
            ("POST", "__unmatched__", 404, "complete"),
            ("POST", "/{id}", 200, "complete"),
            ("POST", "/{id}", 200, "complete"),
        ]
    assert answer.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("path", ["/api/t/acme/1", "/t/acme/1"])
def test_a_root_path_of_the_server(http: str, path: str) -> None:
    """It is no part of the template, whether the proxy before it has taken it off or not."""
    routes = [Mount("/t/{tenant}", routes=[Route("/{id}", AppEndpoint(streaming([b"a"])))])]
    prefix = path.removesuffix("/t/acme/1")

    # uvicorn puts its root path before every path; a proxy that takes nothing off has none there.
    with Served([Mount(prefix, routes=routes)], http=http, root_path="/root") as server:
        server.ask(path)

        assert server.told() == [("POST", prefix + "/t/{tenant}/{id}", 200, "complete")]


def test_a_client_that_leaves_before_the_head(http: str) -> None:
    """An application that listens for it gives up: 499, which nobody reads."""
    with Served([Route("/case/{id}", AppEndpoint(listening))], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)

        assert server.told() == [("POST", "/case/{id}", 499, "client_disconnect")]


def test_a_client_that_leaves_before_an_answer_in_one_piece(http: str) -> None:
    """Uvicorn drops what is sent to nobody and says nothing: what the application sent is told."""
    gate = Gate()

    async def endpoint(request: Request) -> Response:
        await gate.wait()
        return Response(b"whole")

    with Served([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            gate.reached.wait(PATIENCE)
        gate.open.set()

        assert server.told() == [("POST", "/case/{id}", 200, "complete")]


def test_a_client_that_leaves_before_an_answer_that_asked_for_it(http: str) -> None:
    """Where the application has asked whether its client is still there, it is known: 499."""

    async def endpoint(request: Request) -> Response:
        while not await request.is_disconnected():  # noqa: ASYNC110 - as applications do
            await anyio.sleep(0.002)
        return Response(b"nobody reads this")

    with Served([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)

        assert server.told() == [("POST", "/case/{id}", 499, "client_disconnect")]


def test_a_client_that_leaves_in_the_stream(http: str) -> None:
    """Starlette stops the stream; the status is the one that the client has seen."""
    routes = [Route("/case/{id}", stream_for_ever, methods=["POST"])]
    with Served(routes, http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")

        assert server.told() == [("POST", "/case/{id}", 200, "client_disconnect")]
        assert server.seen[0].time_to_first_byte is not None


def test_a_client_that_leaves_a_stream_nobody_listens_beside(http: str) -> None:
    """Uvicorn drops the rest and says nothing: an application that goes on to its end has ended."""
    gate = Gate()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await streaming([b"a"], ends=False)(scope, receive, send)
        await gate.wait()
        await send({"type": "http.response.body", "body": b"b"})

    with Served([Route("/case/{id}", AppEndpoint(app))], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
        gate.open.set()

        assert server.told() == [("POST", "/case/{id}", 200, "complete")]


def test_a_client_that_leaves_after_the_answer(http: str) -> None:
    """That is how every connection ends, also while a background task goes on."""
    gate = Gate()

    async def endpoint(request: Request) -> Response:
        return Response(b"whole", background=BackgroundTask(gate.wait))

    with Served([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            read = b""
            while not read.endswith(b"whole"):
                read += client.recv(65536)
            gate.reached.wait(PATIENCE)

        assert server.told() == [("POST", "/case/{id}", 200, "complete")]
        gate.open.set()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_exchange_is_over_before_its_background_task_runs(http: str, stream: bool) -> None:
    """It is told at the last byte: a task that hangs delays neither it nor its duration."""
    gate = Gate()

    async def endpoint(request: Request) -> Response:
        task = BackgroundTask(gate.wait)
        if stream:
            return StreamingResponse(iter([b"a", b"b"]), background=task)
        return Response(b"ab", background=task)

    with Served([Route("/case/{id}", endpoint, methods=["POST"])], http=http) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            gate.reached.wait(PATIENCE)
            told = server.told()
            duration = server.seen[0].duration
            gate.open.set()

        assert told == [("POST", "/case/{id}", 200, "complete")]
        assert server.told() == told
        assert server.seen[0].duration == duration


@pytest.mark.parametrize(
    ("app", "status"),
    [(hanging(), 499), (hanging(b"a"), 200)],
    ids=["before the head", "in the stream"],
)
def test_a_server_that_stops(http: str, app: ASGIApp, status: int) -> None:
    """It cancels what is not done when its patience ends; no request is left in progress."""
    routes = [Route("/case/{id}", AppEndpoint(app))]
    with Served(routes, http=http, timeout_graceful_shutdown=0) as server:
        with server.connect() as client:
            client.sendall(request("/case/1"))
            wait_until(lambda: server.in_progress() == 1)
            if status == 200:
                assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
            server.stop()

        assert server.told() == [("POST", "/case/{id}", status, "client_disconnect")]


def test_many_requests_that_end_in_every_way_at_once(http: str) -> None:
    """Each is told once, whatever happens to the others; in the end none is in progress."""
    routes = [Route(f"/{number}", AppEndpoint(app)) for number, (_, app, *_) in enumerate(ENDS)]
    routes += [
        Route("/endless", stream_for_ever, methods=["POST"]),
        Route("/gone", AppEndpoint(listening)),
    ]
    with Served(routes, http=http) as server:
        clients = []
        for path in ["/endless", "/gone"] * 3 + [f"/{number}" for number in range(len(ENDS))] * 3:
            clients.append(server.connect())
            clients[-1].sendall(request(path, connection="close"))
        wait_until(lambda: len(server.seen) == len(ENDS) * 3 and server.in_progress() == 6)
        for client in clients:
            client.close()

        told = server.told(len(clients))
    expected = [("POST", f"/{n}", *end[2:]) for n, end in enumerate(ENDS)]
    expected += [("POST", "/endless", 200, "client_disconnect")]
    expected += [("POST", "/gone", 499, "client_disconnect")]
    assert sorted(told) == sorted(expected * 3)

"""HTTP server on loopback that records requests and sends configurable responses."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from types import TracebackType
from typing import Any, Self

from .waiting import PATIENCE

# Writes a response, and returns True if the connection can be used again. The event is set when the
# receiver stops.
Responder = Callable[[BufferedIOBase, threading.Event], bool]


@dataclass(frozen=True)
class Received:
    """Recorded request, with header names in lower case and the port of the client."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int

    @property
    def json(self) -> Any:
        """Return the body, parsed as JSON."""
        return json.loads(self.body)


def respond_with(status: int = 200, body: bytes = b"", **headers: str) -> Responder:
    """Return a function that sends a response; `_` in header names is replaced by `-`."""

    def respond(out: BufferedIOBase, ending: threading.Event) -> bool:
        lines = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        out.write("\r\n".join([*lines, "", ""]).encode() + body)
        return True

    return respond


def sending_raw(text: bytes) -> Responder:
    """Return a function that sends `text` and then closes the connection."""

    def respond(out: BufferedIOBase, ending: threading.Event) -> bool:
        out.write(text)
        return False

    return respond


def sending_nothing(out: BufferedIOBase, ending: threading.Event) -> bool:
    """Send nothing until the receiver stops."""
    ending.wait(PATIENCE)
    return False


def sending_slowly(out: BufferedIOBase, ending: threading.Event) -> bool:
    """Send an endless response slowly, one byte at a time."""
    out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not ending.wait(0.02):
        out.write(b".")
    return False


def sending_endlessly(out: BufferedIOBase, ending: threading.Event) -> bool:
    """Send an endless response as fast as the client reads it."""
    out.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not ending.is_set():
        out.write(b"2000\r\n" + b"x" * 0x2000 + b"\r\n")
    return False


class Receiver:
    """Server that listens while its context is entered.

    Args:
        respond: Writes the responses; may be replaced at any time.
        tls: Serves HTTPS with this context.
    """

    def __init__(
        self, respond: Responder | None = None, *, tls: ssl.SSLContext | None = None
    ) -> None:
        self.respond = respond or respond_with()
        self.received: list[Received] = []
        self._stopping = threading.Event()
        self._server = _Server(self)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._thread.join(PATIENCE)
        self._server.server_close()

    def handle(self, request: Received, out: BufferedIOBase) -> bool:
        """Record a request and respond; return True if the connection can be used again."""
        self.received.append(request)
        return self.respond(out, self._stopping)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.receiver = receiver

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore disconnects and rejected certificates, which tests cause on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.path, headers, body, self.client_address[1])
        self.close_connection = not self.server.receiver.handle(request, self.wfile)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no access log."""

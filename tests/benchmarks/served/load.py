"""Requests over HTTP/1.1 connections that stay open, with as little CPU time as possible."""

from __future__ import annotations

import re
import socket
from types import TracebackType

CONNECTIONS = 16
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def request(method: str, path: str, body: bytes = b"") -> bytes:
    """Return a request as it is sent."""
    head = [
        f"{method} {path} HTTP/1.1",
        "host: 127.0.0.1",
        "user-agent: benchmark",
        "accept: */*",
    ]
    if body:
        head += ["content-type: application/json", f"content-length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


class Connections:
    """Connections to one server, each with at most one request at a time.

    Args:
        address: Host and port of the server.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        self._sockets = [socket.create_connection(address, timeout=60) for _ in range(CONNECTIONS)]
        for connection in self._sockets:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Connections:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        for connection in self._sockets:
            connection.close()

    def exchange(self, data: bytes, batches: int) -> int:
        """Send `data` on every connection at once, `batches` times, and return the responses.

        Raises:
            ConnectionError: A response is incomplete, or is not a success.
        """
        for _ in range(batches):
            for connection in self._sockets:
                connection.sendall(data)
            for connection in self._sockets:
                _receive(connection)
        return batches * len(self._sockets)


def _receive(connection: socket.socket) -> None:
    """Receive one response."""
    data = b""
    while not _is_complete(data):
        received = connection.recv(1 << 18)
        if not received:
            raise ConnectionError(f"connection closed after {len(data)} bytes")
        data += received
    if not data.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"response is not a success: {data[:200]!r}")


def _is_complete(data: bytes) -> bool:
    """Return True if `data` is a whole response."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return False
    length = LENGTH.search(data, 0, end)
    if length is None:
        return data.endswith(b"\r\n0\r\n\r\n")  # the last chunk
    return len(data) >= end + int(length[1])

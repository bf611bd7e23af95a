"""Calls an ASGI application without a server and records its messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope


@dataclass
class Answer:
    """Messages that an application sent, and the error that it raised."""

    messages: list[Message] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        """Return the status, or 0 if the response did not start."""
        return int(self._start.get("status", 0))

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        pairs = self._start.get("headers", ())
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}

    @property
    def chunks(self) -> list[bytes]:
        """Return the body of each message."""
        return [
            message.get("body", b"")
            for message in self.messages
            if message["type"] == "http.response.body"
        ]

    @property
    def body(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.chunks)

    @property
    def _start(self) -> Message:
        starts = (message for message in self.messages if message["type"] == "http.response.start")
        return next(starts, {})


def http_scope(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: tuple[str, int] | None = ("192.0.2.1", 50000),
    **more: Any,
) -> Scope:
    """Return the scope of an HTTP request, as a server creates it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": list(headers),
        "client": client,
        "server": ("testserver", 80),
        **more,
    }


async def drive(
    app: ASGIApp,
    scope: Scope | None = None,
    *,
    received: Iterable[Message] = ({"type": "http.request", "body": b"", "more_body": False},),
    on_send: Callable[[Message], None] = lambda message: None,
) -> Answer:
    """Call `app` with one request, and record the response.

    Args:
        app: The application.
        scope: The request; `GET /` if None.
        received: Messages that `receive` returns; `http.disconnect` follows them.
        on_send: Called with each message before it is recorded; may raise, as a server may.
    """
    response = Answer()
    incoming = iter(received)

    async def receive() -> Message:
        return next(incoming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        on_send(message)
        response.messages.append(message)

    try:
        await app(http_scope() if scope is None else scope, receive, send)
    except Exception as error:  # noqa: BLE001 - tests inspect it
        response.error = error
    return response

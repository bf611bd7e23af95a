"""Drives an ASGI application with no server and no client between: every message can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope


@dataclass
class Answer:
    """What an application sent, message by message."""

    messages: list[Message] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def status(self) -> int:
        """The status of the answer, 0 where there is none."""
        started = [each for each in self.messages if each["type"] == "http.response.start"]
        return int(started[0]["status"]) if started else 0

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        started = [each for each in self.messages if each["type"] == "http.response.start"]
        pairs = started[0].get("headers", ()) if started else ()
        return {name.decode(): value.decode() for name, value in pairs}

    @property
    def chunks(self) -> list[bytes]:
        """The pieces of the body, as they were sent."""
        return [
            each.get("body", b"") for each in self.messages if each["type"] == "http.response.body"
        ]

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks)


def http_scope(
    path: str = "/",
    *,
    method: str = "GET",
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: tuple[str, int] | None = ("192.0.2.1", 50000),
    **more: Any,
) -> Scope:
    """An HTTP scope as a server makes it."""
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
    """Send one request through `app`.

    Args:
        app: The application.
        scope: The request; `GET /` when None.
        received: What the server gives; after it, that the client has left.
        on_send: Called with each message before it counts as sent; may raise, as a server may.
    """
    answer = Answer()
    coming = iter(received)

    async def receive() -> Message:
        return next(coming, {"type": "http.disconnect"})

    async def send(message: Message) -> None:
        on_send(message)
        answer.messages.append(message)

    try:
        await app(http_scope() if scope is None else scope, receive, send)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        answer.error = error
    return answer

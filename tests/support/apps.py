"""Small ASGI applications, each with one fixed behavior."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def answering(
    body: bytes = b"{}",
    *,
    status: int = 200,
    content_type: bytes = b"application/json",
    headers: Iterable[tuple[bytes, bytes]] = (),
) -> ASGIApp:
    """Return an application that responds to every request with `body`, in one message."""
    return streaming([body], status=status, content_type=content_type, headers=headers)


def streaming(
    chunks: Iterable[bytes],
    *,
    status: int = 200,
    content_type: bytes = b"text/event-stream",
    headers: Iterable[tuple[bytes, bytes]] = (),
    ends: bool = True,
) -> ASGIApp:
    """Return an application that sends each of `chunks` as a message.

    Args:
        chunks: Parts of the body.
        status: Status of the response.
        content_type: Media type of the response.
        headers: Further headers.
        ends: False to return without a last message.
    """
    parts = list(chunks)
    head = [(b"content-type", content_type), *headers]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": head})
        for number, part in enumerate(parts, start=1):
            more = not ends or number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    return app


class KeyRecorder:
    """Middleware that appends the key of each request to `seen`."""

    def __init__(self, app: ASGIApp, *, key: Callable[[Scope], object], seen: list[object]) -> None:
        self.app, self.key, self.seen = app, key, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record the key and call the application."""
        self.seen.append(self.key(scope))
        await self.app(scope, receive, send)


def event(**fields: Any) -> bytes:
    """Return a server-sent event; like those of Anthropic, it is named by its `type`, if any."""
    name = f"event: {fields['type']}\n" if "type" in fields else ""
    return f"{name}data: {json.dumps(fields)}\n\n".encode()


WORDS = [event(choices=[{"delta": {"content": word}}], usage=None) for word in ("to", "ken")]


def gone(message: Message) -> None:
    """Raise the error of a server whose client has disconnected."""
    if message.get("body") == WORDS[1] or b"text_delta" in message.get("body", b""):
        raise OSError("client disconnected")


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise an error before the response starts."""
    raise RuntimeError("no upstream")


async def raising_mid_stream(scope: Scope, receive: Receive, send: Send) -> None:
    """Raise an error in the middle of the response."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    raise RuntimeError("upstream went away")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Return without a response."""


async def returning_at_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Return when the client disconnects, without a response."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def streaming_until_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Return when the client disconnects, in the middle of the response."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    await returning_at_disconnect(scope, receive, send)

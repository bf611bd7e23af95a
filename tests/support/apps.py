"""Small ASGI applications that behave in one way each."""

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
    """Answers everything with `body`, in one piece."""
    return streaming([body], status=status, content_type=content_type, headers=headers)


def streaming(
    chunks: Iterable[bytes],
    *,
    status: int = 200,
    content_type: bytes = b"text/event-stream",
    headers: Iterable[tuple[bytes, bytes]] = (),
    ends: bool = True,
) -> ASGIApp:
    """Answers everything with `chunks`, one message each; `ends=False` stops without an end."""
    pieces = list(chunks)
    head = [(b"content-type", content_type), *headers]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": head})
        for number, piece in enumerate(pieces, start=1):
            more = not ends or number < len(pieces)
            await send({"type": "http.response.body", "body": piece, "more_body": more})

    return app


class Asks:
    """A middleware that asks `key` about each request."""

    def __init__(self, app: ASGIApp, *, key: Callable[[Scope], object], seen: list[object]) -> None:
        self.app, self.key, self.seen = app, key, seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the key, and pass the request on."""
        self.seen.append(self.key(scope))
        await self.app(scope, receive, send)


def event(**fields: Any) -> bytes:
    """One server-sent event, named by its type where it has one, as Anthropic's are."""
    name = f"event: {fields['type']}\n" if "type" in fields else ""
    return f"{name}data: {json.dumps(fields)}\n\n".encode()


WORDS = [event(choices=[{"delta": {"content": word}}], usage=None) for word in ("to", "ken")]


def gone(message: Message) -> None:
    """A server's `send` once the client has left."""
    if message.get("body") == WORDS[1] or b"text_delta" in message.get("body", b""):
        raise OSError("the client has left")


async def raising(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails before it says anything."""
    raise RuntimeError("no upstream")


async def raising_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Fails in the middle of its answer."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    raise RuntimeError("upstream went away")


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """Says nothing at all."""


async def listening(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives up when its client leaves, before it has said anything."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def listening_later(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives up when its client leaves, in the middle of its answer."""
    await streaming(WORDS, ends=False)(scope, receive, send)
    await listening(scope, receive, send)

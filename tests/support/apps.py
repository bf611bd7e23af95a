"""Small ASGI applications that behave in one way each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Receive, Scope, Send


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

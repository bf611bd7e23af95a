"""WebSockets without a server, and an observer of the responses of models over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, Observer, TokenUsage

Frame = str | bytes

ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}


class Turns(Observer):
    """Observer of the responses over WebSockets, and of everything else by name."""

    def __init__(self) -> None:
        self.seen: list[Exchange] = []
        self.requests: list[Exchange] = []
        self.errors: list[str] = []
        self.events: list[str] = []

    def on_close(self, exchange: Exchange) -> None:
        """Store a finished exchange."""
        self.requests.append(exchange)

    def on_websocket_usage(self, exchange: Exchange) -> None:
        """Store a response."""
        self.seen.append(exchange)
        self.events.append("usage")

    def on_websocket_close(self) -> None:
        """Store the end of a connection."""
        self.events.append("close")

    def on_error(self, component: str) -> None:
        """Store the name of a component that failed."""
        self.errors.append(component)

    def is_closed(self) -> bool:
        """Return True after the end of a connection."""
        return "close" in self.events

    @property
    def outcomes(self) -> list[tuple[str | None, TokenUsage | None, str | None]]:
        """Return model, usage and source of each response."""
        return [(item.model, item.usage, item.usage_source) for item in self.seen]


def message_of(frame: Frame, kind: str = "websocket.send") -> Message:
    """Return the ASGI message of a frame."""
    return {"type": kind, "text" if isinstance(frame, str) else "bytes": frame}


def received(*frames: Frame) -> list[Message]:
    """Return the messages that a server passes to the application."""
    connect: Message = {"type": "websocket.connect"}
    return [connect, *(message_of(frame, "websocket.receive") for frame in frames)]


def proxy(
    *messages: Message | Frame,
    accepted: Callable[[Scope], object] = lambda scope: None,
    reads: bool = True,
) -> ASGIApp:
    """Return an application that accepts, reads what the client sends, and sends `messages`.

    Args:
        messages: Messages, or frames.
        accepted: Called after the connection is accepted.
        reads: True to read until the client leaves, before anything is sent.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(ACCEPT)
        accepted(scope)
        while reads and (await receive())["type"] != "end":
            pass
        for message in messages:
            await send(message_of(message) if isinstance(message, str | bytes) else message)

    return app


async def connect(
    app: ASGIApp,
    *,
    client: Iterable[Frame] = (),
    on_send: Callable[[Message], object] = lambda message: None,
    path: str = "/v1/live",
    end: str = "end",
) -> list[Message]:
    """Open a WebSocket, and return the messages that the server was sent."""
    sent: list[Message] = []
    messages = iter(received(*client))

    async def receive() -> Message:
        return next(messages, {"type": end})

    async def send(message: Message) -> None:
        on_send(message)
        sent.append(message)

    await app({"type": "websocket", "path": path, "headers": []}, receive, send)
    return sent

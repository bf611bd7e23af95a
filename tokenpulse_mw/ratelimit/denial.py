"""How a WebSocket handshake over its limit is turned down."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRY_AGAIN_LATER = 1013  # RFC 6455, 7.4 and the registry of close codes


async def deny(answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Send `answer` in place of the handshake's where the server can; else close with 1013.

    The extension `websocket.http.response` of ASGI lets a server send any HTTP answer. Without
    it, servers turn a close before the handshake into a plain 403.
    """
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send(
            {"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "Too Many Requests"}
        )
        return

    async def send_denial(message: Message) -> None:
        kind = message["type"]
        if kind.startswith("http."):  # an application that knows nothing of WebSockets
            message = {**message, "type": f"websocket.{kind}"}
        await send(message)

    await answer(scope, receive, send_denial)

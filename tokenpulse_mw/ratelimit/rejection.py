"""Rejections of requests and handshakes: by a response, or by an exception that becomes one."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import recorder_of
from .limiters import Decision

_HANDLERS_KEY = "starlette.exception_handlers"
_SWITCHING_PROTOCOLS = 101
_TRY_AGAIN_LATER = 1013  # RFC 6455, 7.4 and the registry of close codes


class RateLimited(Exception):  # noqa: N818 - names the result, as fastapi's RequestValidationError
    """Rejection of a request by a limit at its route; an ASGI application that sends the response.

    Attributes:
        decision: Rejection.
        response: Response to an HTTP request.
    """

    def __init__(self, decision: Decision, response: ASGIApp) -> None:
        super().__init__(f"rate limit {decision.policy!r} is exceeded")
        self.decision = decision
        self.response = response
        self._is_handled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, once; raise this error again if another response has begun."""
        if self._is_handled:  # by a layer inside, which has the recorder of the response
            raise self
        self._is_handled = True
        recorder = recorder_of(scope)
        status = 0 if recorder is None else recorder.status
        if status == _SWITCHING_PROTOCOLS:
            await _close_websocket(send)
        elif status:
            raise self
        else:
            await send_rejection(self.response, scope, receive, send)


def register_handler(scope: Scope) -> None:
    """Handle `RateLimited` in the application of this request, unless it has a handler.

    A handler of this type precedes those for other types and status codes, and makes rejections
    independent of `install`, `wrap` and the nesting of applications.
    """
    handlers = scope.get(_HANDLERS_KEY)  # of the nearest Starlette or FastAPI application
    if handlers is not None:
        handlers[0].setdefault(RateLimited, _response_of)


async def _response_of(connection: HTTPConnection, error: RateLimited) -> ASGIApp:  # noqa: ARG001
    return error


async def send_rejection(response: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Reject a request or a handshake with `response`.

    The ASGI extension `websocket.http.response` lets a server send any HTTP response to a
    handshake. Without it, the handshake is closed with 1013, which servers turn into a plain 403.
    """
    if scope["type"] != "websocket":
        await response(scope, receive, send)
        return
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await _close_websocket(send)
        return

    async def send_denial(message: Message) -> None:
        kind = message["type"]
        if kind.startswith("http."):  # `response` is an HTTP application
            message = {**message, "type": f"websocket.{kind}"}
        await send(message)

    await response(scope, receive, send_denial)


async def _close_websocket(send: Send) -> None:
    await send({"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "Too Many Requests"})

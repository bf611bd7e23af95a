"""Request ids: one for each request, in its response and in all its log lines."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import ErrorReporter, request_headers

SCOPE_KEY = "tokenpulse_mw.request_id"

_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")

_current: ContextVar[str | None] = ContextVar("tokenpulse_mw.request_id", default=None)


def current_request_id() -> str | None:
    """Return the id of the current request, or None outside of a request."""
    return _current.get()


def new_request_id() -> str:
    """Return 128 random bits as 32 hexadecimal digits."""
    return os.urandom(16).hex()


def add_request_id(record: logging.LogRecord) -> bool:
    """Add `request_id` to a record that has none; a filter for logging handlers.

    Returns:
        True: no record is dropped.
    """
    request_id = _current.get()
    if request_id is not None:
        vars(record).setdefault("request_id", request_id)
    return True


class RequestIdMiddleware:
    """Middleware that assigns an id to each request: that of its header, or a new one.

    The id is in `scope["tokenpulse_mw.request_id"]`, in the response header, and in every line
    logged during the request. Make it the outermost middleware. WebSockets have ids too.

    Args:
        app: The application.
        header: Name of the request and response header. A response that already has the header,
            such as a vendor's, keeps its value.
        generate: Returns new ids. If it raises or returns an invalid id, the error is logged and
            `new_request_id` is used.
        trust: Use the id of the request if it has exactly one header line of 1 to 128 characters
            `A-Z a-z 0-9 . _ : / + = @ -`. If False, always generate one.

    Raises:
        ValueError: `header` is not a valid header name, or `generate` is not callable.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        header: str = "x-request-id",
        generate: Callable[[], str] = new_request_id,
        trust: bool = True,
    ) -> None:
        if not _HEADER_NAME.fullmatch(header.lower()):
            raise ValueError(f"header must be a header name such as 'x-request-id', got {header!r}")
        if not callable(generate):
            raise ValueError(f"generate must be a function that returns an id, got {generate!r}")
        self.app = app
        self._header = header.lower().encode()
        self._generate = generate
        self._trust = trust
        self._failures = ErrorReporter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        request_id = scope[SCOPE_KEY] = self._from_header(scope) or self._new_id()
        outer_id = _current.get()
        _current.set(request_id)
        await self.app(scope, receive, self._add_header(send, request_id))
        # Not reset after an exception, so that the server's line about it has the id too.
        _current.set(outer_id)

    def _from_header(self, scope: Scope) -> str | None:
        if not self._trust:
            return None
        values = [value for name, value in request_headers(scope) if name == self._header]
        text = values[0].decode("latin-1") if len(values) == 1 else ""
        return text if _VALID.fullmatch(text) else None

    def _new_id(self) -> str:
        try:
            request_id = self._generate()
            if not _VALID.fullmatch(request_id):
                raise ValueError(f"request id must match {_VALID.pattern}, got {request_id!r}")
        except Exception as error:  # noqa: BLE001 - a broken generator must not fail the request
            self._failures.log("request_id", error)
            return new_request_id()
        return request_id

    def _add_header(self, send: Send, request_id: str) -> Send:
        """Return a `send` that adds the id to the response headers."""
        header = (self._header, request_id.encode())

        def send_with_id(message: Message) -> Awaitable[None]:
            return send(_with_header(header, message) if message["type"] in _STARTS else message)

        return send_with_id


def _with_header(header: tuple[bytes, bytes], message: Message) -> Message:
    headers = list(message.get("headers") or ())  # they may be readable only once
    if header[0] not in [name.lower() for name, _ in headers]:
        headers.append(header)
    return {**message, "headers": headers}

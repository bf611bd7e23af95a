"""An id for each request, which its answer and all its log lines carry."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import ErrorReporter

SCOPE_KEY = "tokenpulse_mw.request_id"

_VALID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}", re.ASCII)
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_HEADS = ("http.response.start", "websocket.accept", "websocket.http.response.start")

_current: ContextVar[str | None] = ContextVar("tokenpulse_mw.request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being answered here; None outside of one."""
    return _current.get()


def new_request_id() -> str:
    """128 random bits, as 32 hexadecimal digits."""
    return os.urandom(16).hex()


def add_request_id(record: logging.LogRecord) -> bool:
    """A filter for handlers: gives a record that has none the `request_id` of its request."""
    request_id = _current.get()
    if request_id is not None:
        vars(record).setdefault("request_id", request_id)
    return True


class RequestIdMiddleware:
    """Give each request an id: the one that it brings, else a new one.

    It is in `scope["tokenpulse_mw.request_id"]`, in the answer's header, and in every line that
    is logged for the request. Put it around all else. WebSockets have one as well.

    Args:
        header: The header that brings an id, and takes it back. An answer that has this header
            already, such as a vendor's, keeps its own.
        generate: Makes new ids. What fails or is not of the form below is logged, and
            `new_request_id` takes its place.
        trust: Take the id that a request brings, if it comes in one line and has 1 to 128 of
            the characters `A-Z a-z 0-9 . _ : / + = @ -`. False always makes a new one.

    Raises:
        ValueError: `header` is no name of a header, or `generate` cannot be called.
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
            raise ValueError(f"header must be a name such as 'x-request-id', got {header!r}")
        if not callable(generate):
            raise ValueError(f"generate must be a function that gives an id, got {generate!r}")
        self.app = app
        self._header = header.lower().encode()
        self._generate = generate
        self._trust = trust
        self._failures = ErrorReporter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request under its id."""
        if scope["type"] not in ("http", "websocket") or SCOPE_KEY in scope:
            await self.app(scope, receive, send)
            return
        request_id = scope[SCOPE_KEY] = self._given(scope) or self._made()
        before = _current.get()
        _current.set(request_id)
        await self.app(scope, receive, self._marked(send, request_id))
        # Not so after an exception: the server's own line about it is to have the id as well.
        _current.set(before)

    def _given(self, scope: Scope) -> str | None:
        if not self._trust:
            return None
        values = [value for name, value in scope.get("headers", ()) if name == self._header]
        text = values[0].decode("latin-1") if len(values) == 1 else ""
        return text if _VALID.fullmatch(text) else None

    def _made(self) -> str:
        try:
            made = self._generate()
            if not _VALID.fullmatch(made):
                raise ValueError(f"a request id must match {_VALID.pattern}, got {made!r}")
        except Exception as error:  # noqa: BLE001 - no request fails for want of a name
            self._failures.log("request_id", error)
            return new_request_id()
        return made

    def _marked(self, send: Send, request_id: str) -> Send:
        """`send`, with the id in the head of the answer."""
        pair = (self._header, request_id.encode())

        def marked(message: Message) -> Awaitable[None]:
            return send(_with(pair, message) if message["type"] in _HEADS else message)

        return marked


def _with(pair: tuple[bytes, bytes], message: Message) -> Message:
    headers = list(message.get("headers") or ())
    if pair[0] in [name.lower() for name, _ in headers]:
        return message
    return {**message, "headers": [*headers, pair]}

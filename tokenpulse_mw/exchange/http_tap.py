"""The tap on an HTTP request: it passes every message on, and looks at what was sent."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import Message

from ..usage import UsageMeter, meter_for
from .exchange import Outcome
from .provider import HEADER as PROVIDER_HEADER
from .server import CLIENT_CLOSED_REQUEST, SENT_BY_SERVER, tells_by_raising
from .tap import Tap

_LEFT = ("http.disconnect", "websocket.disconnect")
_CONTENT_TYPE_SIZE = len(b"content-type")
_ENCODING_SIZE = len(b"content-encoding")
_PROVIDER_SIZE = len(PROVIDER_HEADER)


class HttpTap(Tap):
    """Stands between the application and the server for one HTTP request."""

    __slots__ = ()

    async def receive(self) -> Message:
        """The server's next message; a client that leaves is noted."""
        message = await self._receive()
        if message["type"] in _LEFT and not self.finished:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass `message` on, then look at it."""
        kind = message["type"]
        passed = message
        if self._headers and kind == "http.response.start":
            passed = self._with_headers(message)
        try:
            await self._send(passed)
        except OSError:  # how ASGI 2.4 servers say that the client has left
            self._gone = True
            raise
        if self.finished:
            return
        try:
            if kind == "http.response.body":
                if self._passed:
                    self._catch_up()
                if self._flow is not None and message.get("more_body"):
                    self._flow(message.get("body", b""))
                else:
                    self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind in SENT_BY_SERVER:
                self._file(message)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._give_up("exchange", error)

    def stream(self, message: Message) -> Awaitable[None]:
        """As `send`, but what is nothing but bytes passes without a coroutine of ours around it.

        So it can be looked at only when the next one comes, which is after it was sent.
        """
        flow, body = self._stream, message.get("body")
        # A buffer may be used again by the time that it is looked at; bytes do not change.
        if flow is None or type(body) is not bytes or not message.get("more_body"):
            return self.send(message)
        try:
            flow(self._passed)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._give_up("usage", error)
        self._passed = body
        return self._send(message)

    def _with_headers(self, message: Message) -> Message:
        return {**message, "headers": [*message.get("headers", ()), *self._headers]}

    def _start(self, message: Message) -> None:
        status = message["status"]
        self.status = CLIENT_CLOSED_REQUEST if self._gone else status  # what is on the wire
        content_type = encoding = b""
        for name, value in message.get("headers", ()):
            size = len(name)  # rules out nearly every header without making a lower-case copy
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoding = encoding + b"," + value if encoding else value
            elif size == _PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self.said = {"provider": value.decode("latin-1"), **self.said}
        # Answers of models come from POST alone; reading one back must not count it again.
        is_post = self._scope.get("method") == "POST"
        if is_post and self.station.usage and 200 <= status < 300:
            self._meter = meter_for(content_type, encoding)

    def _body(self, message: Message) -> None:
        now = self.station.clock()
        more = message.get("more_body")
        if body := message.get("body"):
            if self._first_byte is None:
                self._first_byte = now - self.started
            if self._meter is not None:
                self._feed(self._meter, body, now if more else None)
        if not more:
            self._finish("complete", now)
        elif self._flow is None and self._first_byte is not None:
            self._let_flow()

    def _file(self, message: Message) -> None:
        now = self.station.clock()
        if self._first_byte is None:
            self._first_byte = now - self.started
        if not message.get("more_body"):
            self._finish("complete", now)

    def _feed(self, meter: UsageMeter, body: bytes, now: float | None) -> None:
        waiting = meter.waiting
        try:
            meter.feed(body)
        except Exception as error:  # noqa: BLE001 - the exchange goes on without its usage
            self._give_up("usage", error)
        else:
            # In the last piece of an answer the first words are no sooner than all others.
            if waiting and not meter.waiting and now is not None:
                self._first_token = now - self.started

    def _catch_up(self) -> None:
        """Look at what `stream` has passed on, before anything that came later."""
        passed, self._passed = self._passed, b""
        if self._meter is not None:
            self._feed(self._meter, passed, None)

    def _let_flow(self) -> None:
        """Once no time is left to be noted of the body, the rest of it is only bytes."""
        meter = self._meter
        if meter is None or not meter.waiting:
            self._flow = _ignore if meter is None else meter.feed
            if not tells_by_raising(self._scope):
                self._stream = self._flow

    def _give_up(self, component: str, error: Exception) -> None:
        """Look at no more of the body: what has failed once would fail again."""
        self._meter = self._flow = self._stream = None
        self._passed = b""
        self.station.report(component, error)

    def _stop(self, outcome: Outcome) -> None:
        if self._passed:
            self._catch_up()
        super()._stop(outcome)


def _ignore(body: bytes) -> None:
    """Look at nothing: an answer that is not metered flows past."""

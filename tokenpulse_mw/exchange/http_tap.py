"""The tap on an HTTP request: it passes every message on, and looks at what was sent."""

from __future__ import annotations

from starlette.types import Message

from .provider import HEADER as PROVIDER_HEADER
from .server import CLIENT_CLOSED_REQUEST, SENT_BY_SERVER
from .tap import Tap

_LEFT = ("http.disconnect", "websocket.disconnect")
PROVIDER_SIZE = len(PROVIDER_HEADER)


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
                self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind in SENT_BY_SERVER:
                self._file(message)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._give_up("exchange", error)

    def _with_headers(self, message: Message) -> Message:
        return {**message, "headers": [*message.get("headers", ()), *self._headers]}

    def _start(self, message: Message) -> None:
        status = message["status"]
        self.status = CLIENT_CLOSED_REQUEST if self._gone else status  # what is on the wire
        for name, value in message.get("headers", ()):
            # The size rules out nearly every header without making a lower-case copy.
            if len(name) == PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._name_provider(value)

    def _name_provider(self, value: bytes) -> None:
        self.said = {"provider": value.decode("latin-1"), **self.said}

    def _body(self, message: Message) -> None:
        more = message.get("more_body")
        if more and self._first_byte is not None:
            return  # the rest of a stream is nothing but bytes
        now = self.station.clock()
        if self._first_byte is None and message.get("body"):
            self._first_byte = now - self.started
        if not more:
            self._finish("complete", now)

    def _file(self, message: Message) -> None:
        now = self.station.clock()
        if self._first_byte is None:
            self._first_byte = now - self.started
        if not message.get("more_body"):
            self._finish("complete", now)

    def _give_up(self, component: str, error: Exception) -> None:
        self.station.report(component, error)

"""The tap on a WebSocket: its handshake is one exchange, and what follows passes unseen."""

from __future__ import annotations

from starlette.types import Message

from .http_tap import HttpTap
from .server import CLIENT_CLOSED_REQUEST

_SWITCHING_PROTOCOLS = 101
_FORBIDDEN = 403  # what a server answers when the application closes what it has not accepted


class Handshake(HttpTap):
    """Stands between the application and the server until a WebSocket is accepted or denied.

    The exchange has the status 101 where the application accepts, that of its answer where it
    denies with one (the extension `websocket.http.response`), and 403 where it only closes.
    """

    __slots__ = ()

    async def send(self, message: Message) -> None:
        """Pass `message` on, then look at it."""
        kind = message["type"]
        passed = message
        if self._headers and kind == "websocket.http.response.start":
            passed = self._with_headers(message)
        try:
            await self._send(passed)
        except OSError:
            self._gone = True
            raise
        if self.finished:
            return
        try:
            self._note(kind, message)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self.station.report("exchange", error)

    def _note(self, kind: str, message: Message) -> None:
        if kind == "websocket.accept":
            self._answered(_SWITCHING_PROTOCOLS)
        elif kind == "websocket.close":
            self._answered(_FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self._start(message)
        elif kind == "websocket.http.response.body":
            self._body(message)

    def _answered(self, status: int) -> None:
        self.status = CLIENT_CLOSED_REQUEST if self._gone else status
        self._finish("complete", self.station.clock())

"""The one tap on a request: it passes every message on first, and looks at it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from anyio import CancelScope
from starlette.types import Message, Receive, Scope, Send

from ..usage import UsageMeter, meter_for
from .exchange import Exchange, Outcome
from .observers import name_of
from .provider import HEADER as PROVIDER_HEADER
from .station import Station

RawHeaders = Sequence[tuple[bytes, bytes]]

SCOPE_KEY = "tokenpulse_mw.exchange"
CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the answer's head

_SENT_BY_SERVER = ("http.response.pathsend", "http.response.zerocopysend")  # a file is the body
_CONTENT_TYPE_SIZE = len(b"content-type")
_ENCODING_SIZE = len(b"content-encoding")
_PROVIDER_SIZE = len(PROVIDER_HEADER)


class Watcher(Protocol):
    """Waits for the end of one exchange."""

    def finished(self, exchange: Exchange) -> None:
        """It is over: at its last byte, or when the application is gone without one."""
        ...

    async def close(self) -> None:
        """The application is gone; what has to be waited for can be now, if it takes not long."""
        ...


class Tap:
    """Stands between the application and the server for one exchange.

    `exchange` is filled in as messages pass. It is settled once: when the last byte of the body
    is out, or when the application returns or raises without having come so far; from then on
    it is `finished`, and nothing changes it any more.
    """

    __slots__ = (
        "_flow",
        "_gone",
        "_headers",
        "_meter",
        "_receive",
        "_scope",
        "_send",
        "exchange",
        "finished",
        "station",
        "watchers",
    )

    def __init__(self, station: Station, scope: Scope, receive: Receive, send: Send) -> None:
        self.station = station
        self._scope = scope
        self.exchange = Exchange(scope["method"], station.clock())
        self._receive = receive
        self._send = send
        self._meter: UsageMeter | None = None
        # Takes the rest of the body once there is no time left to be noted, only bytes.
        self._flow: Callable[[bytes], None] | None = None
        self._headers: RawHeaders = ()
        self.watchers: tuple[Watcher, ...] = ()
        self._gone = False
        self.finished = False

    async def receive(self) -> Message:
        """The server's next message; a client that leaves is noted."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self.finished:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass `message` on, then look at it."""
        kind = message["type"]
        passed = message
        if self._headers and kind == "http.response.start":
            passed = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        try:
            await self._send(passed)
        except OSError:  # how ASGI 2.4 servers say that the client has left
            self._gone = True
            raise
        if self.finished:
            return
        try:
            if kind == "http.response.body":
                if self._flow is not None and message.get("more_body"):
                    self._flow(message.get("body", b""))
                else:
                    self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind in _SENT_BY_SERVER and not message.get("more_body"):
                self._finish("complete")
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self.station.report("exchange", error)

    def add_headers(self, headers: RawHeaders) -> None:
        """Send `headers` with the answer, beside its own."""
        self._headers = [*self._headers, *headers] if self._headers else headers

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` when this exchange is over."""
        self.watchers = (*self.watchers, watcher)

    async def close(self) -> None:
        """The application is gone, and so are we; let those who watched do what takes time."""
        with CancelScope(shield=True):
            for watcher in self.watchers:
                try:
                    await watcher.close()
                except Exception as error:  # noqa: BLE001 - it is not the request's failure
                    self.station.report(name_of(watcher), error)

    def join(self, station: Station) -> None:
        """Let the observers of another middleware look on too."""
        if self.finished:
            return
        joint = self.station.joined(station)
        new = tuple(each for each in joint.observers if each not in self.station.observers)
        self.station = joint
        joint.failures.call("opened", new)

    def drop(self) -> None:
        """Do not measure this exchange: it is a probe or a scrape, not traffic."""
        if self.finished:
            return
        self.station.dropped()
        if self.watchers:  # they have to know how it ends, whoever else does not
            self.station = replace(self.station, observers=())
        else:
            self._end()

    def returned(self) -> None:
        """The application is done with an answer that is not finished."""
        self._stop("truncated" if self.exchange.status else "error")

    def raised(self, error: BaseException) -> None:
        """The application raised; a cancellation is the server's way to end a request."""
        if not self.finished:
            self._gone = self._gone or not isinstance(error, Exception)
            self._stop("error")

    def _start(self, message: Message) -> None:
        exchange = self.exchange
        exchange.status = status = message["status"]
        content_type = b""
        encoded = False
        for name, value in message.get("headers", ()):
            size = len(name)  # rules out nearly every header without making a lower-case copy
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoded = value.lower() != b"identity"
            elif size == _PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                exchange.provider = exchange.provider or value.decode("latin-1")
        # Answers of models come from POST alone; reading one back must not count it again.
        if exchange.method == "POST" and self.station.usage and 200 <= status < 300:
            meter = meter_for(content_type)
            if not encoded:
                self._meter = meter
            elif meter is not None and exchange.usage is None:
                exchange.usage_source = "missing"  # we cannot read what it says

    def _body(self, message: Message) -> None:
        try:
            if body := message.get("body"):
                self._look_at(body)
        finally:
            if not message.get("more_body"):
                self._finish("complete")

    def _look_at(self, body: bytes) -> None:
        exchange, meter = self.exchange, self._meter
        if exchange.time_to_first_byte is None:
            exchange.time_to_first_byte = self.station.clock() - exchange.started
        if meter is None:
            self._flow = _ignore
            return
        waiting = meter.waiting
        meter.feed(body)
        if not meter.waiting:
            self._flow = meter.feed
            if waiting:
                exchange.time_to_first_token = self.station.clock() - exchange.started

    def _stop(self, outcome: Outcome) -> None:
        if not self.exchange.status:
            self.exchange.status = CLIENT_CLOSED_REQUEST if self._gone else 500
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        exchange = self.exchange
        exchange.duration = self.station.clock() - exchange.started
        exchange.outcome = "client_disconnect" if self._gone else outcome
        self.station.settle(exchange, self._end(), self._meter)
        for watcher in self.watchers:
            try:
                watcher.finished(exchange)
            except Exception as error:  # noqa: BLE001 - as above
                self.station.report(name_of(watcher), error)

    def _end(self) -> Scope:
        """Let go of the scope, which holds this tap: the two need no garbage collector then."""
        self.finished = True
        scope, self._scope = self._scope, {}
        return scope


def _ignore(body: bytes) -> None:
    """Look at nothing: an answer that is not metered flows past."""

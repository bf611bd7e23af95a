"""The one tap on a request: it passes every message on first, and looks at it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anyio import CancelScope
from starlette.types import Message, Receive, Scope, Send

from ..usage import UsageMeter, meter_for
from .exchange import METHODS, OTHER_METHOD, Exchange, Outcome
from .provider import HEADER as PROVIDER_HEADER
from .station import Station
from .watcher import Watcher, closed, told

RawHeaders = Sequence[tuple[bytes, bytes]]

SCOPE_KEY = "tokenpulse_mw.exchange"
CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the answer's head

_NOTHING: dict[str, Any] = {}
_SENT_BY_SERVER = ("http.response.pathsend", "http.response.zerocopysend")  # a file is the body
_CONTENT_TYPE_SIZE = len(b"content-type")
_ENCODING_SIZE = len(b"content-encoding")
_PROVIDER_SIZE = len(PROVIDER_HEADER)


class Tap:
    """Stands between the application and the server for one exchange.

    It notes what passes. The `Exchange` is made of that once: when the last byte of the body is
    out, or when the application returns or raises without having come so far; from then on the
    tap is `finished`, and nothing changes it any more.

    Attributes:
        station: Who is told.
        started: When the request came in, in seconds of the station's clock.
        status: Of the answer, as far as there is one; else 0.
        limited: A rate limit answers instead of the application.
        said: What the application has said of the exchange, by the names of its fields.
        watchers: Wait for the end.
        finished: The exchange is over.
    """

    __slots__ = (
        "_first_byte",
        "_first_token",
        "_flow",
        "_gone",
        "_headers",
        "_meter",
        "_receive",
        "_scope",
        "_send",
        "finished",
        "limited",
        "said",
        "started",
        "station",
        "status",
        "watchers",
    )

    def __init__(self, station: Station, scope: Scope, receive: Receive, send: Send) -> None:
        self.station = station
        self.started = station.clock()
        self.status = 0
        self.limited = False
        self.said: Mapping[str, Any] = _NOTHING
        self.watchers: tuple[Watcher, ...] = ()
        self.finished = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: RawHeaders = ()
        self._gone = False
        self._meter: UsageMeter | None = None
        # Takes the rest of the body once there is no time left to be noted, only bytes.
        self._flow: Callable[[bytes], None] | None = None
        self._first_byte: float | None = None
        self._first_token: float | None = None

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
                if self._flow is not None and message.get("more_body"):
                    self._flow(message.get("body", b""))
                else:
                    self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind in _SENT_BY_SERVER and not message.get("more_body"):
                self._finish("complete", self.station.clock())
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._flow = _ignore  # what has failed once would fail again
            self._meter = None
            self.station.report("exchange", error)

    def say(self, **facts: Any) -> None:
        """Note what the application knows of the exchange; later words override earlier ones."""
        if not self.finished:
            self.said = {**self.said, **facts}

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
                await closed(watcher, self.station.report)

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
            self.finished = True
            self._scope = _NOTHING

    def returned(self) -> None:
        """The application is done with an answer that is not finished."""
        self._stop("truncated" if self.status else "error")

    def raised(self, error: BaseException) -> None:
        """The application raised; a cancellation is the server's way to end a request."""
        if not self.finished:
            self._gone = self._gone or not isinstance(error, Exception)
            self._stop("error")

    def _with_headers(self, message: Message) -> Message:
        return {**message, "headers": [*message.get("headers", ()), *self._headers]}

    def _start(self, message: Message) -> None:
        if self._gone:
            self.status = CLIENT_CLOSED_REQUEST  # none of it is on the wire
            return
        self.status = message["status"]
        content_type = encoding = b""
        for name, value in message.get("headers", ()):
            size = len(name)  # rules out nearly every header without making a lower-case copy
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoding = value
            elif size == _PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self.said = {"provider": value.decode("latin-1"), **self.said}
        # Answers of models come from POST alone; reading one back must not count it again.
        is_post = self._scope.get("method") == "POST"
        if is_post and self.station.usage and 200 <= self.status < 300:
            self._meter = meter_for(content_type, encoding)

    def _body(self, message: Message) -> None:
        now = self.station.clock()
        if body := message.get("body"):
            if self._first_byte is None:
                self._first_byte = now - self.started
            if self._meter is None:
                self._flow = _ignore
            else:
                self._feed(self._meter, body, now)
        if not message.get("more_body"):
            self._finish("complete", now)

    def _feed(self, meter: UsageMeter, body: bytes, now: float) -> None:
        waiting = meter.waiting
        try:
            meter.feed(body)
        except Exception as error:  # noqa: BLE001 - the exchange goes on without its usage
            self._meter = None
            self.station.report("usage", error)
            return
        if not meter.waiting:
            self._flow = meter.feed
            if waiting:
                self._first_token = now - self.started

    def _stop(self, outcome: Outcome) -> None:
        if not self.status:
            self.status = CLIENT_CLOSED_REQUEST if self._gone else 500
        self._finish(outcome, self.station.clock())

    def _finish(self, outcome: Outcome, now: float) -> None:
        self.finished = True
        # Let go of the scope, which holds this tap: the two need no garbage collector then.
        scope, self._scope = self._scope, _NOTHING
        method = scope.get("method", "GET")  # a WebSocket's handshake has none of its own
        exchange = Exchange(
            method if method in METHODS else OTHER_METHOD,
            self.started,
            status=self.status,
            outcome="client_disconnect" if self._gone else outcome,
            limited=self.limited,
            duration=now - self.started,
            time_to_first_byte=None if method == "HEAD" else self._first_byte,
            time_to_first_token=self._first_token,
        )
        if self.said:
            for name, fact in self.said.items():
                setattr(exchange, name, fact)
        self.station.settle(exchange, scope, self._meter)
        for watcher in self.watchers:
            told(watcher, exchange, self.station.report)


def _ignore(body: bytes) -> None:
    """Look at nothing: an answer that is not metered flows past."""

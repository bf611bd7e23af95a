"""The tap on a POST, which is what models are asked by: it reads what their answers have used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Scope, Send

from ..usage import UsageMeter, meter_for
from .exchange import Outcome
from .http_tap import PROVIDER_SIZE, HttpTap
from .provider import HEADER as PROVIDER_HEADER
from .server import CLIENT_CLOSED_REQUEST, tells_by_raising
from .station import Station

_CONTENT_TYPE_SIZE = len(b"content-type")
_ENCODING_SIZE = len(b"content-encoding")


class MeteredTap(HttpTap):
    """Stands before what may be the answer of a model, and lets a meter read it.

    Of other methods nothing is metered: reading an answer back must not count it again.
    """

    __slots__ = ("_flow", "_passed", "_stream")

    def __init__(self, station: Station, scope: Scope, receive: Receive, send: Send) -> None:
        HttpTap.__init__(self, station, scope, receive, send)
        self._flow: Callable[[bytes], None] | None = None  # takes what is left of the body
        self._stream: Callable[[bytes], None] | None = None  # the same, where nothing is awaited
        self._passed = b""  # what was passed on so, and not looked at

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        """Pass `message` on, then look at it.

        Answers of models are streams, in which a chunk is to cost as little as can be: what is
        nothing but bytes passes without a coroutine of ours around it. So it can be looked at
        only when the next one comes, which is after it was sent.
        """
        flow, body = self._stream, message.get("body")
        # A buffer may be used again by the time that it is looked at; bytes do not change.
        if flow is None or type(body) is not bytes or not message.get("more_body"):
            return HttpTap.send(self, message)
        try:
            flow(self._passed)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._give_up("usage", error)
        self._passed = body
        return self._send(message)

    def _start(self, message: Message) -> None:
        # Not by way of the other `_start`: one walk through the headers is enough.
        status = message["status"]
        self.status = CLIENT_CLOSED_REQUEST if self._gone else status
        content_type = encoding = b""
        for name, value in message.get("headers", ()):
            size = len(name)
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoding = encoding + b"," + value if encoding else value
            elif size == PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._name_provider(value)
        if self.station.usage and 200 <= status < 300:
            meter = self._meter = meter_for(content_type, encoding)
            if meter is not None and self.watchers:  # such as a token limit
                meter.ledger.counts_events = True

    def _body(self, message: Message) -> None:
        if self._passed:
            self._catch_up()
        more, body = message.get("more_body"), message.get("body")
        if more and self._flow is not None:
            self._flow(body or b"")
            return
        now = self.station.clock()
        if body:
            if self._first_byte is None:
                self._first_byte = now - self.started
            if self._meter is not None:
                self._feed(self._meter, body, now if more else None)
        if not more:
            self._finish("complete", now)
        elif self._first_byte is not None:
            self._let_flow()

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
        """Look at what was passed on unseen, before anything that came later."""
        passed, self._passed = self._passed, b""
        if self._meter is not None:
            self._feed(self._meter, passed, None)

    def _let_flow(self) -> None:
        """Once no time is left to be noted of the body, the rest of it is only bytes."""
        meter = self._meter
        if meter is None or not (meter.waiting and meter.ledger.listens):
            self._flow = _ignore if meter is None else meter.feed
            if not tells_by_raising(self._scope):
                self._stream = self._flow

    def _give_up(self, component: str, error: Exception) -> None:
        """Look at no more of the body: what has failed once would fail again."""
        self._let_go()
        self._passed = b""
        super()._give_up(component, error)

    def _stop(self, outcome: Outcome) -> None:
        if self._passed:
            self._catch_up()
        super()._stop(outcome)

    def _finish(self, outcome: Outcome, now: float) -> None:
        super()._finish(outcome, now)
        self._let_go()  # it may hold a body, and we may live on

    def _let_go(self) -> None:
        self._meter = self._flow = self._stream = None


def _ignore(body: bytes) -> None:
    """Look at nothing: an answer that is not metered flows past."""

"""What is known of an exchange while it goes on, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anyio import CancelScope
from starlette.types import Message, Receive, Scope, Send

from ..usage import UsageMeter, meter_for
from .dispatcher import Dispatcher
from .exchange import METHODS, OTHER_METHOD, Exchange, Outcome
from .observers import ExchangeCallback, notify_closed, notify_finished
from .provider import HEADER as PROVIDER_HEADER
from .scope import CLIENT_CLOSED_REQUEST, FILE_MESSAGES, send_may_raise

RawHeaders = Sequence[tuple[bytes, bytes]]


SCOPE_KEY = "tokenpulse_mw.exchange"


_NOTHING: dict[str, Any] = {}


class Recorder:
    """Stands between the application and the server for one exchange.

    What passes is noted. The `Exchange` is made of that once: when the last byte of the body is
    out, or when the application returns or raises without having come so far; from then on the
    tap is `finished`, and nothing changes it any more.

    Attributes:
        dispatcher: Who is told.
        started: When the request came in, in seconds of the station's clock.
        status: Of the answer, as far as there is one; else 0.
        limited: A rate limit answers instead of the application.
        annotations: What the application has said of the exchange, by the names of its fields.
        callbacks: Wait for the end.
        finished: The exchange is over.
    """

    __slots__ = (
        "_client_left",
        "_first_byte",
        "_first_token",
        "_headers",
        "_meter",
        "_receive",
        "_scope",
        "_send",
        "annotations",
        "callbacks",
        "dispatcher",
        "finished",
        "limited",
        "started",
        "status",
    )

    def __init__(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        self.dispatcher = dispatcher
        self.started = dispatcher.clock()
        self.status = 0
        self.limited = False
        self.annotations: Mapping[str, Any] = _NOTHING
        self.callbacks: tuple[ExchangeCallback, ...] = ()
        self.finished = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: RawHeaders = ()
        self._client_left = False
        self._meter: UsageMeter | None = None
        self._first_byte: float | None = None
        self._first_token: float | None = None

    def annotate(self, **facts: Any) -> None:
        """Note what the application knows of the exchange; later words override earlier ones."""
        if not self.finished:
            self.annotations = {**self.annotations, **facts}

    def report_error(self, failure: Exception) -> None:
        """Report that something the application knows could not be told."""
        self.dispatcher.report("annotate", failure)

    def add_headers(self, headers: RawHeaders) -> None:
        """Send `headers` with the answer, beside its own."""
        self._headers = [*self._headers, *headers] if self._headers else headers

    def add_callback(self, callback: ExchangeCallback) -> None:
        """Tell `callback` when this exchange is over."""
        self.callbacks = (*self.callbacks, callback)

    async def close(self) -> None:
        """The application is gone, and so are we; let those who watched do what takes time."""
        with CancelScope(shield=True):
            for watcher in self.callbacks:
                await notify_closed(watcher, self.dispatcher.report)

    def join(self, dispatcher: Dispatcher) -> None:
        """Let the observers of another middleware look on too."""
        if self.finished:
            return
        joint = self.dispatcher.merge(dispatcher)
        new = tuple(each for each in joint.observers if each not in self.dispatcher.observers)
        self.dispatcher = joint
        joint.errors.notify("on_open", new)

    def drop(self) -> None:
        """Do not measure this exchange: it is a probe or a scrape, not traffic."""
        if self.finished:
            return
        self.dispatcher.on_drop()
        if self.callbacks:  # they have to know how it ends, whoever else does not
            self.dispatcher = replace(self.dispatcher, observers=(), silent=True)
        else:
            self.finished = True
            self._scope = _NOTHING

    def returned(self) -> None:
        """The application is done with an answer that is not finished."""
        self._stop("truncated" if self.status else "error")

    def raised(self, error: BaseException) -> None:
        """Finish the exchange of an application that raised, or was cancelled by the server."""
        if not self.finished:
            self._client_left = self._client_left or not isinstance(error, Exception)
            self._stop("error")
        if isinstance(error, GeneratorExit):
            self.callbacks = ()  # destroyed after the event loop: nothing can be awaited any more

    def _stop(self, outcome: Outcome) -> None:
        if not self.status:
            self.status = CLIENT_CLOSED_REQUEST if self._client_left else 500
        self._finish(outcome, self.dispatcher.clock())

    def _finish(self, outcome: Outcome, now: float) -> None:
        self.finished = True
        # Let go of the scope, which holds this tap: the two need no garbage collector then.
        scope, self._scope = self._scope, _NOTHING
        method = scope.get("method", "GET")  # a WebSocket's handshake has none of its own
        exchange = Exchange(
            method if method in METHODS else OTHER_METHOD,
            self.started,
            status=self.status,
            outcome="client_disconnect" if self._client_left else outcome,
            limited=self.limited,
            duration=now - self.started,
            time_to_first_byte=None if method == "HEAD" else self._first_byte,
            time_to_first_token=self._first_token,
        )
        if self.annotations:
            for name, fact in self.annotations.items():
                setattr(exchange, name, fact)
        self.dispatcher.finalize(exchange, scope, self._meter)
        for watcher in self.callbacks:
            notify_finished(watcher, exchange, self.dispatcher.report)


_SWITCHING_PROTOCOLS = 101


_FORBIDDEN = 403  # what a server answers when the application closes what it has not accepted


class HttpRecorder(Recorder):
    """Stands between the application and the server for one HTTP request."""

    __slots__ = ()

    async def receive(self) -> Message:
        """The server's next message; a client that leaves is noted."""
        message = await self._receive()
        if message["type"] in _DISCONNECT_MESSAGES and not self.finished:
            self._client_left = True
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
            self._client_left = True
            raise
        if self.finished:
            return
        try:
            if kind == "http.response.body":
                self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind in FILE_MESSAGES:
                self._file(message)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._disable_metering("exchange", error)

    def _with_headers(self, message: Message) -> Message:
        return {**message, "headers": [*message.get("headers", ()), *self._headers]}

    def _start(self, message: Message) -> None:
        status = message["status"]
        self.status = CLIENT_CLOSED_REQUEST if self._client_left else status  # what is on the wire
        for name, value in message.get("headers", ()):
            # The size rules out nearly every header without making a lower-case copy.
            if len(name) == PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._set_provider(value)

    def _set_provider(self, value: bytes) -> None:
        self.annotations = {"provider": value.decode("latin-1"), **self.annotations}

    def _body(self, message: Message) -> None:
        more = message.get("more_body")
        if more and self._first_byte is not None:
            return  # the rest of a stream is nothing but bytes
        now = self.dispatcher.clock()
        if self._first_byte is None and message.get("body"):
            self._first_byte = now - self.started
        if not more:
            self._finish("complete", now)

    def _file(self, message: Message) -> None:
        now = self.dispatcher.clock()
        if self._first_byte is None:
            self._first_byte = now - self.started
        if not message.get("more_body"):
            self._finish("complete", now)

    def _disable_metering(self, component: str, error: Exception) -> None:
        self.dispatcher.report(component, error)


class WebSocketRecorder(HttpRecorder):
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
            self._client_left = True
            raise
        if self.finished:
            return
        try:
            self._inspect(kind, message)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self.dispatcher.report("exchange", error)

    def _inspect(self, kind: str, message: Message) -> None:
        if kind == "websocket.accept":
            self._complete(_SWITCHING_PROTOCOLS)
        elif kind == "websocket.close":
            self._complete(_FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self._start(message)
        elif kind == "websocket.http.response.body":
            self._body(message)

    def _complete(self, status: int) -> None:
        self.status = CLIENT_CLOSED_REQUEST if self._client_left else status
        self._finish("complete", self.dispatcher.clock())


_DISCONNECT_MESSAGES = ("http.disconnect", "websocket.disconnect")


PROVIDER_SIZE = len(PROVIDER_HEADER)


_CONTENT_TYPE_SIZE = len(b"content-type")


_ENCODING_SIZE = len(b"content-encoding")


class MeteredRecorder(HttpRecorder):
    """Stands before what may be the answer of a model, and lets a meter read it.

    Of other methods nothing is metered: reading an answer back must not count it again.
    """

    __slots__ = ("_feed_directly", "_feed_rest", "_pending")

    def __init__(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        HttpRecorder.__init__(self, dispatcher, scope, receive, send)
        self._feed_rest: Callable[[bytes], None] | None = None  # takes what is left of the body
        self._feed_directly: Callable[[bytes], None] | None = (
            None  # the same, where nothing is awaited
        )
        self._pending = b""  # what was passed on so, and not looked at

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        """Pass `message` on, then look at it.

        Answers of models are streams, in which a chunk is to cost as little as can be: what is
        nothing but bytes passes without a coroutine of ours around it. So it can be looked at
        only when the next one comes, which is after it was sent.
        """
        flow, body = self._feed_directly, message.get("body")
        # A buffer may be used again by the time that it is looked at; bytes do not change.
        if flow is None or type(body) is not bytes or not message.get("more_body"):
            return HttpRecorder.send(self, message)
        try:
            flow(self._pending)
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self._disable_metering("usage", error)
        self._pending = body
        return self._send(message)

    def _start(self, message: Message) -> None:
        # Not by way of the other `_start`: one walk through the headers is enough.
        status = message["status"]
        self.status = CLIENT_CLOSED_REQUEST if self._client_left else status
        content_type = encoding = b""
        for name, value in message.get("headers", ()):
            size = len(name)
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoding = encoding + b"," + value if encoding else value
            elif size == PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._set_provider(value)
        if self.dispatcher.usage and 200 <= status < 300:
            meter = self._meter = meter_for(content_type, encoding)
            if meter is not None and self.callbacks:  # such as a token limit
                meter.account.counts_events = True

    def _body(self, message: Message) -> None:
        if self._pending:
            self._feed_pending()
        more, body = message.get("more_body"), message.get("body")
        if more and self._feed_rest is not None:
            self._feed_rest(body or b"")
            return
        now = self.dispatcher.clock()
        if body:
            if self._first_byte is None:
                self._first_byte = now - self.started
            if self._meter is not None:
                self._feed(self._meter, body, now if more else None)
        if not more:
            self._finish("complete", now)
        elif self._first_byte is not None:
            self._enter_passthrough()

    def _feed(self, meter: UsageMeter, body: bytes, now: float | None) -> None:
        waiting = meter.awaits_output
        try:
            meter.feed(body)
        except Exception as error:  # noqa: BLE001 - the exchange goes on without its usage
            self._disable_metering("usage", error)
        else:
            # In the last piece of an answer the first words are no sooner than all others.
            if waiting and not meter.awaits_output and now is not None:
                self._first_token = now - self.started

    def _feed_pending(self) -> None:
        """Look at what was passed on unseen, before anything that came later."""
        passed, self._pending = self._pending, b""
        if self._meter is not None:
            self._feed(self._meter, passed, None)

    def _enter_passthrough(self) -> None:
        """Once no time is left to be noted of the body, the rest of it is only bytes."""
        meter = self._meter
        if meter is None or not (meter.awaits_output and meter.account.awaits_first_token):
            self._feed_rest = _ignore if meter is None else meter.feed
            if not send_may_raise(self._scope):
                self._feed_directly = self._feed_rest

    def _disable_metering(self, component: str, error: Exception) -> None:
        """Look at no more of the body: what has failed once would fail again."""
        self._release_meter()
        self._pending = b""
        super()._disable_metering(component, error)

    def _stop(self, outcome: Outcome) -> None:
        if self._pending:
            self._feed_pending()
        super()._stop(outcome)

    def _finish(self, outcome: Outcome, now: float) -> None:
        super()._finish(outcome, now)
        self._release_meter()  # it may hold a body, and we may live on

    def _release_meter(self) -> None:
        self._meter = self._feed_rest = self._feed_directly = None


def _ignore(body: bytes) -> None:
    """Look at nothing: an answer that is not metered flows past."""

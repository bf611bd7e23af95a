"""Recorders of exchanges in progress: the ASGI `receive` and `send` given to the application."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from anyio import CancelScope
from starlette.types import Message, Receive, Scope, Send

from ..usage import UsageMeter, meter_for, parse_cost
from .dispatcher import Dispatcher
from .exchange import METHODS, OTHER_METHOD, Exchange, Outcome
from .in_progress import Phase
from .observers import ExchangeCallback, notify_closed, notify_finished
from .provider import HEADER as PROVIDER_HEADER
from .request_model import FEW_STEPS, MAX_PEEK_BYTES, MAX_PEEK_MESSAGES, find_model
from .scope import CLIENT_CLOSED_REQUEST, FILE_MESSAGES, send_may_raise
from .upstream import MIN_NAME_SIZE, NAME_PREFIXES, PREFIX_SIZE

RawHeaders = Sequence[tuple[bytes, bytes]]

SCOPE_KEY = "tokenpulse_mw.exchange"

DISCONNECT_MESSAGES = ("http.disconnect", "websocket.disconnect")
_CONTENT_TYPE_SIZE = len(b"content-type")
_ENCODING_SIZE = len(b"content-encoding")
_PROVIDER_SIZE = len(PROVIDER_HEADER)
_COST_HEADER = b"x-litellm-response-cost"
_COST_SIZE = len(_COST_HEADER)
_EMPTY: dict[str, Any] = {}
_NO_NAMES = frozenset[bytes]()
# Chunks of a stream that are metered together: at most 64 KiB.
_MAX_PENDING_CHUNKS = 32
_MAX_PENDING_CHUNK_BYTES = 2048


class Recorder:
    """Recorder of one exchange, between the application and the server.

    It creates the `Exchange` once: at the last byte of the body, or when the application returns
    or raises before that. The recorder is then `finished` and ignores everything that follows.

    Attributes:
        dispatcher: Delivers the finished exchange.
        started: Arrival of the request, in seconds of the dispatcher's clock.
        status: Status code of the response; 0 until it begins.
        limited: True if a rate limit rejected the request.
        annotations: Facts from the application, by field of `Exchange`.
        client_left: The client has disconnected before the end of the response.
        callbacks: Called at the end of the exchange; after it, those that have to be closed.
        decisions: Decisions of rate limits, which the added headers describe.
        finished: True after the end of the exchange.
        keeps_body: True to keep the first 64 KiB of the request's body, as the application reads
            it, for a response that names no model.
        requested_model: Model in the body of the request, if it is known; or None.
        is_text_error: The response is plain text with the status 500, as that of Starlette to an
            unhandled exception.
        outer_error: The exception that was handled when the request arrived, such as by the code
            that runs the server; or None.
        quota_headers: Headers of the response that may be about a provider's rate limits.
    """

    __slots__ = (
        "_first_byte",
        "_first_token",
        "_headers",
        "_messages",
        "_meter",
        "_receive",
        "_replaced",
        "_request_body",
        "_scope",
        "_send",
        "annotations",
        "callbacks",
        "client_left",
        "decisions",
        "dispatcher",
        "finished",
        "is_text_error",
        "keeps_body",
        "limited",
        "outer_error",
        "quota_headers",
        "requested_model",
        "started",
        "status",
    )

    def __init__(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        self.dispatcher = dispatcher
        self.started = dispatcher.clock()
        self.status = 0
        self.limited = False
        self.decisions: Sequence[Any] = ()
        self.annotations: Mapping[str, Any] = _EMPTY
        self.callbacks: tuple[ExchangeCallback, ...] = ()
        self.finished = False
        self.keeps_body = dispatcher.request_model
        self._request_body: tuple[bytes, ...] = ()
        self.requested_model: str | None = None
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: RawHeaders = ()
        self._replaced: frozenset[bytes] = _NO_NAMES
        self.client_left = False
        self._meter: UsageMeter | None = None
        self._first_byte: float | None = None
        self._first_token: float | None = None
        self._messages = 0
        self.is_text_error = False
        self.outer_error = sys.exception()
        self.quota_headers: list[tuple[bytes, bytes]] | None = None

    def annotate(self, **facts: Any) -> None:
        """Add facts to the exchange; later ones override earlier ones."""
        if not self.finished:
            self.annotations = {**self.annotations, **facts}

    def find_requested_model(self) -> str | None:
        """Return the model in the body of the request, as far as the application has read it."""
        if self._request_body and self.requested_model is None:
            if self.finished:
                self.requested_model = find_model(self._request_body)
            else:  # of many requests at once, and repeatedly, so it must be short
                body = b"".join(self._request_body)
                self.requested_model = find_model((body,), max_steps=FEW_STEPS)
        if self.finished or self.requested_model is not None:
            self.keeps_body = False
            self._request_body = ()
        return self.requested_model

    @property
    def messages(self) -> int:
        """Number of messages of the request and the response so far."""
        return self._messages + bool(self.status)

    @property
    def phase(self) -> Phase:
        """`waiting` for the first byte of the response body, then `streaming`."""
        return "waiting" if self._first_byte is None else "streaming"

    @property
    def may_be_idle(self) -> bool:
        """True for a stream that is not the response to a POST, such as an event feed."""
        return self._first_byte is not None

    def snapshot(self) -> Exchange:
        """Return the exchange in progress as far as it is known."""
        exchange = self._exchange("complete", self.dispatcher.clock())
        self.dispatcher.describe(exchange, self._scope, self._meter, self)
        return exchange

    def report_error(self, error: Exception) -> None:
        """Report the error of an invalid fact."""
        self.dispatcher.report("annotate", error)

    def keep_quota_headers(self, headers: RawHeaders) -> None:
        """Keep the headers about a provider's rate limits, which are about to be replaced."""
        if self.quota_headers is None:
            self.quota_headers = [
                (name, value)
                for name, value in headers
                if len(name) >= MIN_NAME_SIZE and name[:PREFIX_SIZE].lower() in NAME_PREFIXES
            ]

    def add_headers(self, headers: RawHeaders) -> None:
        """Add `headers` to the response; those of the same name become one list."""
        self._headers = _joined(self._headers, headers) if self._headers else headers

    def replace_headers(self, headers: RawHeaders, names: frozenset[bytes]) -> None:
        """Add `headers` to the response, instead of added headers with the same names.

        Args:
            headers: Headers to add.
            names: Names in lower case that are removed from the headers of the application too.
        """
        added = {name for name, _ in headers}
        self._headers = [*(pair for pair in self._headers if pair[0] not in added), *headers]
        self._replaced = names

    def add_callback(self, callback: ExchangeCallback) -> None:
        """Call `callback` at the end of this exchange."""
        self.callbacks = (*self.callbacks, callback)

    async def close(self) -> None:
        """Await the `close` of each callback, shielded from cancellation."""
        with CancelScope(shield=True):
            for callback in self.callbacks:
                await notify_closed(callback, self.dispatcher.report)

    def join(self, dispatcher: Dispatcher) -> None:
        """Add the observers and options of another middleware."""
        if self.finished:
            return
        merged = self.dispatcher.merge(dispatcher)
        if merged is self.dispatcher:
            return
        new = tuple(
            observer for observer in merged.observers if observer not in self.dispatcher.observers
        )
        if merged.request_model and not self.dispatcher.request_model:
            self.keeps_body = True
        for in_progress in merged.in_progress:
            in_progress.open.setdefault(self)
        self.dispatcher = merged
        merged.errors.notify("on_open", new)

    def drop(self) -> None:
        """Exclude this exchange, such as a probe, from measurement."""
        if self.finished:
            return
        self.dispatcher.notify("on_drop")
        for in_progress in self.dispatcher.in_progress:
            in_progress.open.pop(self, None)
        if self.callbacks:  # such as a reservation, which must be released at the end
            self.dispatcher = replace(self.dispatcher, observers=(), silent=True)
        else:
            self.finished = True
            self._scope = _EMPTY

    def returned(self) -> None:
        """Finish the exchange of an application that returned before the end of its response."""
        self._stop("truncated" if self.status else "error")

    def raised(self, error: BaseException) -> None:
        """Finish the exchange of an application that raised, or was cancelled by the server."""
        if not self.finished:
            self.client_left = self.client_left or not isinstance(error, Exception)
            self._stop("error")
        if isinstance(error, GeneratorExit):
            self.callbacks = ()  # the event loop is closed, so nothing can be awaited

    def disconnected(self) -> None:
        """Handle the end of the connection; that of HTTP is not observed."""

    def _stop(self, outcome: Outcome) -> None:
        if not self.status:
            self.status = CLIENT_CLOSED_REQUEST if self.client_left else 500
        self._finish(outcome, self.dispatcher.clock())

    def _finish(self, outcome: Outcome, now: float) -> None:
        self.finished = True
        for in_progress in self.dispatcher.in_progress:
            in_progress.open.pop(self, None)
        exchange = self._exchange(outcome, now)
        # Break the cycle with the scope, so that reference counting frees both.
        scope, self._scope = self._scope, _EMPTY
        self.dispatcher.finalize(exchange, scope, self._meter, self)
        if self.callbacks:
            for callback in self.callbacks:
                notify_finished(callback, exchange, self.dispatcher.report)
            self.callbacks = tuple(
                [callback for callback in self.callbacks if callback.needs_close]
            )

    def _exchange(self, outcome: Outcome, now: float) -> Exchange:
        """Return the exchange without what the dispatcher adds."""
        method = self._scope.get("method", "GET")  # the scope of a WebSocket has no method
        exchange = Exchange(
            method if method in METHODS else OTHER_METHOD,
            self.started,
            status=self.status,
            outcome="client_disconnect" if self.client_left else outcome,
            limited=self.limited,
            duration=now - self.started,
            time_to_first_byte=None if method == "HEAD" else self._first_byte,
            time_to_first_token=self._first_token,
        )
        if self.annotations:
            for name, fact in self.annotations.items():
                setattr(exchange, name, fact)
        return exchange


class HttpRecorder(Recorder):
    """Recorder of one HTTP request without token usage."""

    __slots__ = ()

    async def receive(self) -> Message:
        """Return the next message of the server, and record a disconnect."""
        message = await self._receive()
        self._messages += 1
        if message["type"] in DISCONNECT_MESSAGES and not self.finished:
            self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        """Send `message` to the server, then record it.

        Its contents are read first, because outer layers may change the message in place.
        """
        kind = message["type"]
        status = body = more = None
        if kind == "http.response.start":
            status = message.get("status")
            message = self._read_start(message)
        else:
            body, more = message.get("body"), message.get("more_body")
        try:
            await self._send(message)
        except OSError:  # an ASGI 2.4 server reports a disconnect so
            self.client_left = True
            raise
        if self.finished:
            return
        try:
            if status is not None:  # a server sends nothing to a client that has left
                self.status = CLIENT_CLOSED_REQUEST if self.client_left else status
            elif kind == "http.response.body":
                self._body(body, more)
            elif kind in FILE_MESSAGES:
                self._file(more)
        except Exception as error:  # noqa: BLE001 - isolates the request
            self._disable_metering("exchange", error)

    def _read_start(self, message: Message) -> Message:
        """Read the headers of a response, and return the message with the added headers.

        ASGI allows any iterable of headers, also one that can be read only once.
        """
        try:
            headers = message.get("headers", [])
            is_list = type(headers) is list
            if not is_list:
                headers = list(headers)
            if not self.finished:
                status = message["status"]
                self._read_headers(headers, status)
                if status == 500:
                    self.is_text_error = _is_text(headers)
            if self._headers or not is_list:
                if self._replaced:
                    headers = [pair for pair in headers if pair[0].lower() not in self._replaced]
                message = {**message, "headers": [*headers, *self._headers]}
        except Exception as error:  # noqa: BLE001 - isolates the request
            self._disable_metering("exchange", error)
        return message

    def _read_headers(self, headers: RawHeaders, status: int) -> None:  # noqa: ARG002
        for name, value in headers:
            # Comparing sizes first avoids a lower-case copy of nearly every name.
            if len(name) == _PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._set_provider(value)

    def _set_provider(self, value: bytes) -> None:
        self.annotations = {"provider": value.decode("latin-1"), **self.annotations}

    def _body(self, body: bytes | None, more: bool | None) -> None:
        if more:
            self._messages += 1
            if self._first_byte is not None:
                return  # later chunks of a stream set no other field
        now = self.dispatcher.clock()
        if self._first_byte is None and body:
            self._first_byte = now - self.started
        if not more:
            self._finish("complete", now)

    def _file(self, more: bool | None) -> None:
        self._messages += 1
        now = self.dispatcher.clock()
        if self._first_byte is None:
            self._first_byte = now - self.started
        if not more:
            self._finish("complete", now)

    def _disable_metering(self, component: str, error: Exception) -> None:
        self.dispatcher.report(component, error)


class MeteredRecorder(HttpRecorder):
    """Recorder of one POST request, whose response a meter reads for token usage.

    Other methods are not metered, because reading a stored response again uses no tokens.
    """

    __slots__ = ("_feed_rest", "_pending")

    may_be_idle = False

    def __init__(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        HttpRecorder.__init__(self, dispatcher, scope, receive, send)
        # Once no more times are recorded, the meter's `feed` takes the rest of the body.
        self._feed_rest: Callable[[bytes], None] | None = None
        # Chunks that were sent directly and are not metered yet; None until chunks are sent so.
        self._pending: list[bytes] | None = None

    @property
    def messages(self) -> int:
        """Number of messages of the request and the response so far."""
        return self._messages + bool(self.status) + len(self._pending or ())

    async def receive(self) -> Message:
        """Return the next message of the server; record a disconnect, and keep the body."""
        message = await self._receive()
        self._messages += 1
        if message["type"] in DISCONNECT_MESSAGES:
            if not self.finished:
                self.client_left = True
        elif self.keeps_body:
            try:
                self._keep(message)
            except Exception as error:  # noqa: BLE001 - isolates the request
                self.keeps_body = False
                self.dispatcher.report("exchange", error)
        return message

    def _keep(self, message: Message) -> None:
        body, parts = message.get("body") or b"", self._request_body
        left = MAX_PEEK_BYTES - sum(map(len, parts)) if parts else MAX_PEEK_BYTES
        self._request_body = (*parts, bytes(body[:left]))
        if not message.get("more_body") or len(body) >= left or len(parts) + 1 >= MAX_PEEK_MESSAGES:
            self.keeps_body = False

    def send(self, message: Message) -> Awaitable[None]:  # type: ignore[override]
        """Send `message` to the server, then record it.

        Most chunks of a stream only go to the meter. They are sent without a coroutine around
        the server's `send`, and metered several at a time, which is faster. A chunk is metered
        when a later message arrives, because it must be sent first.
        """
        pending, body = self._pending, message.get("body")
        if (
            pending is None
            # Only bytes: the application may change another buffer before it is metered.
            or type(body) is not bytes
            or len(body) > _MAX_PENDING_CHUNK_BYTES
            or not message.get("more_body")
        ):
            return HttpRecorder.send(self, message)
        if len(pending) >= _MAX_PENDING_CHUNKS:
            self._feed_pending(pending)
        pending.append(body)
        return self._send(message)

    def _read_headers(self, headers: RawHeaders, status: int) -> None:
        # `super()._read_headers` would iterate over the headers a second time.
        content_type = encoding = b""
        quotas: list[tuple[bytes, bytes]] | None = None
        for name, value in headers:
            size = len(name)
            if size == _CONTENT_TYPE_SIZE and name.lower() == b"content-type":
                content_type = value
            elif size == _ENCODING_SIZE and name.lower() == b"content-encoding":
                encoding = encoding + b"," + value if encoding else value
            elif size == _PROVIDER_SIZE and name.lower() == PROVIDER_HEADER:
                self._set_provider(value)
            elif size == _COST_SIZE and name.lower() == _COST_HEADER:
                self._set_cost(value)
            elif size >= MIN_NAME_SIZE and name[:PREFIX_SIZE].lower() in NAME_PREFIXES:
                quotas = [*(quotas or ()), (name, value)]
        if quotas is not None and self.quota_headers is None:
            self.quota_headers = quotas
        if self.dispatcher.usage and 200 <= status < 300:
            meter = self._meter = meter_for(content_type, encoding)
            if meter is not None and self.callbacks:  # such as a token limit
                meter.account.counts_events = True

    def _set_cost(self, value: bytes) -> None:
        nanos = parse_cost(value)
        if nanos is not None:
            cost = {"cost_nanos": nanos, "cost_source": "reported"}
            self.annotations = {**cost, **self.annotations}

    def _body(self, body: bytes | None, more: bool | None) -> None:
        if self._pending:
            self._feed_pending(self._pending)
        if more:
            self._messages += 1
            if self._feed_rest is not None:
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
        awaited = meter.awaits_output
        try:
            meter.feed(body)
        except Exception as error:  # noqa: BLE001 - isolates the request
            self._disable_metering("usage", error)
        else:
            # The last chunk has `now` None: a response in one piece has no first token.
            if awaited and not meter.awaits_output and now is not None:
                self._first_token = now - self.started

    def _feed_pending(self, pending: list[bytes]) -> None:
        """Meter the chunks that were sent directly, before any later one."""
        body = b"".join(pending)
        self._messages += len(pending)
        pending.clear()
        if self._meter is not None:
            self._feed(self._meter, body, None)

    def _enter_passthrough(self) -> None:
        """Pass the rest of the body to the meter alone, once no more times are recorded."""
        meter = self._meter
        if meter is None or not (meter.awaits_output and meter.account.awaits_first_token):
            self._feed_rest = _ignore if meter is None else meter.feed
            if not send_may_raise(self._scope):
                self._pending = []

    def _disable_metering(self, component: str, error: Exception) -> None:
        """Meter no more of the body after an error, which would be raised again."""
        self._release_meter()
        super()._disable_metering(component, error)

    def _stop(self, outcome: Outcome) -> None:
        if self._pending:
            self._feed_pending(self._pending)
        super()._stop(outcome)

    def _finish(self, outcome: Outcome, now: float) -> None:
        HttpRecorder._finish(self, outcome, now)  # faster than `super()`
        # Both may hold a body, while background tasks keep the recorder alive.
        self._release_meter()
        self.keeps_body = False
        self._request_body = ()

    def _release_meter(self) -> None:
        self._meter = self._feed_rest = self._pending = None


def _joined(headers: RawHeaders, more: RawHeaders) -> RawHeaders:
    """Return all headers, each name once: the values form a list (RFC 9110, 5.3)."""
    values: dict[bytes, bytes] = {}
    for name, value in (*headers, *more):
        values[name] = values[name] + b"," + value if name in values else value
    return list(values.items())


def _is_text(headers: RawHeaders) -> bool:
    types = [value for name, value in headers if name.lower() == b"content-type"]
    return not types or types[0].lower().startswith(b"text/plain")


def _ignore(body: bytes) -> None:
    """Ignore a chunk of a response that is not metered."""

"""Recorder of a WebSocket: its handshake, and the usage of the models that respond over it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ..usage import SessionResponse, WebSocketMeter
from .dispatcher import Dispatcher
from .exchange import SWITCHING_PROTOCOLS, Exchange, Outcome
from .observers import component_name
from .recorder import DISCONNECT_MESSAGES, HttpRecorder, Recorder
from .scope import CLIENT_CLOSED_REQUEST

_FORBIDDEN = 403  # a server responds so if the application closes without accepting
_COMPONENT = "websocket_usage"
# Annotations that are those of one response, not of the connection.
_OF_RESPONSE = frozenset(("usage", "usage_source", "cost_nanos", "cost_source", "fault"))

_EMPTY: dict[str, Any] = {}

UsageCallback = Callable[[Exchange], object]


class WebSocketRecorder(HttpRecorder):
    """Recorder of one WebSocket handshake, and of the responses of models over the connection.

    The status is 101 if the application accepts, that of the response if it denies with one
    (the extension `websocket.http.response`), and 403 if it only closes. Observers are notified of
    the end of an accepted connection: the application closes it, the client leaves, or the
    application returns or raises. If usage is metered, they are also notified of the end of each
    response; frames are sent unchanged before they are read.
    """

    __slots__ = (
        "_connection",
        "_is_connected",
        "_meter_of_frames",
        "_reads_client",
        "_usage_callbacks",
    )

    def __init__(self, dispatcher: Dispatcher, scope: Scope, receive: Receive, send: Send) -> None:
        HttpRecorder.__init__(self, dispatcher, scope, receive, send)
        self._is_connected = False
        self._connection: Scope = _EMPTY
        self._meter_of_frames: WebSocketMeter | None = None
        self._reads_client = False
        self._usage_callbacks: tuple[UsageCallback, ...] = ()

    def annotate(self, **facts: object) -> None:
        """Add facts to the exchange; while usage is metered, also to the following responses."""
        if not self.finished or self._meter_of_frames is not None:
            self.annotations = {**self.annotations, **facts}

    def add_usage_callback(self, callback: UsageCallback) -> None:
        """Call `callback` with each response of a model over this connection."""
        self._usage_callbacks = (*self._usage_callbacks, callback)

    def raised(self, error: BaseException) -> None:
        """Finish the exchange of an application that raised, or was cancelled by the server."""
        self.end_responses(_outcome_of(error))
        HttpRecorder.raised(self, error)

    def disconnected(self, outcome: Outcome = "truncated") -> None:
        """Notify the observers of the end of an accepted connection, once.

        Args:
            outcome: Outcome of the responses that are in progress.
        """
        if self._is_connected:
            self._is_connected = False
            self.end_responses(outcome)
            self.dispatcher.notify("on_websocket_close")

    def end_responses(self, outcome: Outcome) -> None:
        """End the responses in progress with this outcome; no more frames are read."""
        meter, self._meter_of_frames = self._meter_of_frames, None
        self._reads_client = False
        if meter is not None:
            try:
                self._report(meter, meter.finish(), outcome)
            except Exception as error:  # noqa: BLE001 - isolates the connection
                self._disable_metering(_COMPONENT, error)

    async def receive(self) -> Message:
        """Return the next message of the server, and record a disconnect."""
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive":
            if self._reads_client:
                self._read_client_frame(message)
        elif kind in DISCONNECT_MESSAGES:
            if self.finished:
                self.disconnected("client_disconnect")
            else:
                self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        """Send `message` to the server, then record it."""
        kind = message["type"]
        if kind == "websocket.send":
            meter = self._meter_of_frames
            frame = None if meter is None else _frame_of(message)
        else:
            status, body = message.get("status"), message.get("body")
            more = message.get("more_body")
            if kind == "websocket.http.response.start":
                message = self._read_start(message)
        try:
            await self._send(message)
        except OSError:
            self.client_left = True
            self.disconnected("client_disconnect")
            raise
        if kind == "websocket.send":
            # The client may have left meanwhile, which ended the responses in progress.
            if frame and meter is not None and meter is self._meter_of_frames:
                self._read_frame(meter, frame)
        elif self.finished:
            if kind == "websocket.close":
                self.disconnected()
        elif kind == "websocket.accept":
            self._accept()
        elif kind == "websocket.close":
            self._complete(_FORBIDDEN)
        elif kind == "websocket.http.response.start" and status is not None:
            self.status = CLIENT_CLOSED_REQUEST if self.client_left else status
        elif kind == "websocket.http.response.body":
            self._body(body, more)

    def _accept(self) -> None:
        scope = self._scope
        self._complete(SWITCHING_PROTOCOLS)
        self._is_connected = not self.client_left
        if not self._is_connected:
            return
        self.dispatcher.notify("on_websocket_accept")
        if self.dispatcher.websocket_usage:
            self._connection = scope
            self._meter_of_frames = WebSocketMeter(clock=self.dispatcher.clock)
            self._reads_client = True

    def _complete(self, status: int) -> None:
        self.status = CLIENT_CLOSED_REQUEST if self.client_left else status
        self._finish("complete", self.dispatcher.clock())

    def _read_client_frame(self, message: Message) -> None:
        meter, frame = self._meter_of_frames, _frame_of(message)
        try:
            if meter is not None and frame:
                meter.feed_client(frame)
                self._reads_client = meter.awaits_setup
        except Exception as error:  # noqa: BLE001 - isolates the connection
            self._disable_metering(_COMPONENT, error)

    def _read_frame(self, meter: WebSocketMeter, frame: str | bytes) -> None:
        try:
            responses = meter.feed(frame)
            if responses is not None:
                self._report(meter, responses, "truncated")
        except Exception as error:  # noqa: BLE001 - isolates the connection
            self._disable_metering(_COMPONENT, error)

    def _report(
        self, meter: WebSocketMeter, responses: Iterable[SessionResponse], outcome: Outcome
    ) -> None:
        """Notify the observers of responses; `outcome` is that of the cut ones."""
        for _ in range(meter.take_unreadable()):
            self.dispatcher.notify_error(_COMPONENT)
        for response in responses:
            exchange = self._exchange_of(response, outcome)
            # An error that a vendor reports is not that of the application.
            is_cut = outcome == "error" and not (response.complete or response.failed)
            cause = sys.exception() if is_cut else None
            dispatcher = self.dispatcher
            dispatcher.finalize_websocket_usage(exchange, self._connection, cause, self.outer_error)
            for callback in self._usage_callbacks:
                try:
                    callback(exchange)
                except Exception as error:  # noqa: BLE001 - isolates the callback
                    self.dispatcher.report(component_name(callback), error)

    def _exchange_of(self, response: SessionResponse, outcome: Outcome) -> Exchange:
        first, complete = response.first_output, response.complete
        exchange = Exchange(
            "GET",  # the method of the handshake
            response.started,
            status=SWITCHING_PROTOCOLS,
            outcome="error" if response.failed else "complete" if complete else outcome,
            duration=response.ended - response.started,
            time_to_first_token=None if first is None else first - response.started,
            usage=response.usage,
            usage_source=response.source,
            usage_doubtful=response.doubtful,
        )
        if response.model is not None:
            exchange.model, exchange.model_source = response.model, "response"
        if response.cost_nanos is not None and response.source == "reported":
            exchange.cost_nanos, exchange.cost_source = response.cost_nanos, "reported"
        for name, fact in self.annotations.items():
            if name not in _OF_RESPONSE:
                setattr(exchange, name, fact)
        return exchange

    def _disable_metering(self, component: str, error: Exception) -> None:
        """Meter no more frames after an error, which would be raised again."""
        self._meter_of_frames = None
        self._reads_client = False
        HttpRecorder._disable_metering(self, component, error)


def add_usage_callback(recorder: Recorder | None, callback: UsageCallback) -> bool:
    """Call `callback` with each response of a model over a WebSocket, if usage is metered there.

    Returns:
        False if there is no such WebSocket, or if it is accepted already.
    """
    if not isinstance(recorder, WebSocketRecorder) or recorder.finished:
        return False
    if recorder.dispatcher.websocket_usage:
        recorder.add_usage_callback(callback)
    return recorder.dispatcher.websocket_usage


def end_responses(recorder: Recorder | None, error: BaseException | None = None) -> None:
    """End the responses over a WebSocket whose application has returned, or raised `error`."""
    if isinstance(recorder, WebSocketRecorder):
        recorder.end_responses("truncated" if error is None else _outcome_of(error))


def _outcome_of(error: BaseException) -> Outcome:
    """Return the outcome of an application that raised, or was cancelled by the server."""
    return "error" if isinstance(error, Exception) else "client_disconnect"


def _frame_of(message: Message) -> str | bytes | None:
    """Return the contents of a frame; a copy if the application may change them."""
    frame = message.get("text")
    if frame is None:
        frame = message.get("bytes")
    if isinstance(frame, bytearray | memoryview):
        return bytes(frame)
    return frame if isinstance(frame, str | bytes) else None

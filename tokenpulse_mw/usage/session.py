"""Responses of models in a session: a connection with messages in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from .document import NOTHING, UNREADABLE, is_small, opens_with
from .reported_cost import COST_NAMES, ImplausibleCostError, reported_cost
from .tokens import TokenUsage

MAX_OPEN_RESPONSES = 32  # of one session
_MAX_TEXT_BYTES = 1024  # of an id or a name

_decode_text = msgspec.json.Decoder(str).decode


class SessionMessage(msgspec.Struct):
    """The top-level fields in use of one message of a server; all of them stay undecoded.

    OpenAI's messages have a `type`; those of Gemini have one of the other fields.
    """

    type: msgspec.Raw = NOTHING
    event_id: msgspec.Raw = NOTHING  # of Realtime only
    stream_id: msgspec.Raw = NOTHING  # of Responses with several streams
    response_id: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING
    session: msgspec.Raw = NOTHING
    usage: msgspec.Raw = NOTHING
    setupComplete: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling
    serverContent: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling
    toolCall: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling
    usageMetadata: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling


class SessionResponse(msgspec.Struct, eq=False):
    """One response of a model.

    Attributes:
        id: Id that the vendor gave it; empty without one.
        started: Time of its first message, in seconds of the session's clock.
        stream: Stream of a session that has several.
        model: Name of the model, or None.
        first_output: Time of the first output, or None if it is unknown.
        ended: Time of its end.
        complete: The vendor ended it.
        failed: The vendor reported an error.
        usage: Tokens that the vendor reported, or None.
        doubtful: A report had counts that no response can have.
        cost_nanos: Cost that the vendor reported, in nano-dollars, or None.
    """

    id: str
    started: float
    stream: str | None = None
    model: str | None = None
    first_output: float | None = None
    ended: float = 0.0
    complete: bool = False
    failed: bool = False
    usage: TokenUsage | None = None
    doubtful: bool = False
    cost_nanos: int | None = None

    @property
    def source(self) -> Literal["reported", "partial", "missing"]:
        """Return the reliability of `usage`."""
        if self.usage is None:
            return "missing"
        return "reported" if self.complete and not self.doubtful else "partial"


class SessionResponses:
    """Responses of one session: those in progress, of which the number is bounded, and the ended.

    Args:
        clock: Monotonic seconds.
        max_open: Responses in progress; one more ends the oldest of them as cut.

    Attributes:
        model: Model of responses that name none, or None.
        in_progress: The responses that have not ended, by id, the oldest first.
        awaits_output: True while the first output of a response is awaited.
        ended: The responses that have ended and were not taken.
        unreadable: Messages that may have had a usage and could not be read.
    """

    __slots__ = (
        "_clock",
        "_max_open",
        "awaits_output",
        "ended",
        "in_progress",
        "model",
        "unreadable",
    )

    def __init__(self, clock: Callable[[], float], *, max_open: int = MAX_OPEN_RESPONSES) -> None:
        self.model: str | None = None
        self.in_progress: dict[str, SessionResponse] = {}
        self.awaits_output = False
        self.ended: list[SessionResponse] = []
        self.unreadable = 0
        self._clock = clock
        self._max_open = max_open

    def begin(
        self, name: str = "", *, model: str | None = None, stream: str | None = None
    ) -> SessionResponse:
        """Begin a response, or return the one in progress with this id."""
        known = self.in_progress.get(name)
        if known is not None:
            return known
        if len(self.in_progress) >= self._max_open:
            self.end(next(iter(self.in_progress.values())), complete=False)
        response = SessionResponse(name, self._clock(), stream, model)
        self.in_progress[name] = response
        self.awaits_output = True
        return response

    def add_usage(
        self, response: SessionResponse, usage: TokenUsage, fields: dict[str, Any]
    ) -> None:
        """Set the usage that a response reports; an implausible one changes no count."""
        if not usage.is_plausible:
            response.doubtful = True
            self.unreadable += 1
            return
        response.usage = usage
        if not COST_NAMES.isdisjoint(fields):
            try:
                response.cost_nanos = reported_cost(fields)
            except ImplausibleCostError:
                self.unreadable += 1

    def find(self, name: str | None, stream: str | None = None) -> SessionResponse | None:
        """Return the response in progress with this id; without an id, the only one of a stream."""
        if name:
            return self.in_progress.get(name)
        of_stream = self.of_stream(stream)
        return of_stream[0] if len(of_stream) == 1 else None

    def of_stream(self, stream: str | None) -> list[SessionResponse]:
        """Return the responses in progress of a stream."""
        return [item for item in self.in_progress.values() if item.stream == stream]

    def mark_output(self, name: str | None, stream: str | None = None) -> None:
        """Record the first output of a response, which is found as by `find`."""
        response = self.find(name, stream)
        if response is not None and response.first_output is None:
            response.first_output = self._clock()
            self._update()

    def end(
        self, response: SessionResponse, *, complete: bool = True, failed: bool = False
    ) -> None:
        """End a response in progress."""
        del self.in_progress[response.id]
        response.complete = complete
        response.failed = failed
        self._update()
        self._add(response)

    def add(self, model: str | None, usage: TokenUsage, fields: dict[str, Any]) -> None:
        """Add a response that was never in progress."""
        response = SessionResponse("", self._clock(), model=model, complete=True)
        self.add_usage(response, usage, fields)
        self._add(response)

    def end_all(self) -> None:
        """End the responses in progress as cut."""
        for response in list(self.in_progress.values()):
            self.end(response, complete=False)

    def take(self) -> list[SessionResponse]:
        """Return the responses that have ended since the last call."""
        ended, self.ended = self.ended, []
        return ended

    def _add(self, response: SessionResponse) -> None:
        response.ended = self._clock()
        response.model = response.model or self.model
        self.ended.append(response)

    def _update(self) -> None:
        self.awaits_output = any(
            response.first_output is None for response in self.in_progress.values()
        )


def text_of(raw: msgspec.Raw) -> str | None:
    """Return a short string; None if it is empty, or if `raw` is anything else."""
    data = bytes(raw)
    if data[:1] != b'"' or len(data) > _MAX_TEXT_BYTES:
        return None
    try:
        return _decode_text(data) or None
    except UNREADABLE:  # raw fields are only validated here
        return None


def object_of(raw: msgspec.Raw) -> dict[str, Any]:
    """Return a small object; an empty one if `raw` is anything else."""
    if not (opens_with(raw, b"{") and is_small(raw)):
        return {}
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except UNREADABLE:
        return {}

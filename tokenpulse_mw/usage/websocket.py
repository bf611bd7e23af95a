"""Meter of the responses that models send over a WebSocket."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from .bounds import MAX_DOCUMENT_BYTES
from .document import NOTHING, UNREADABLE, fix_json, opens_with
from .formats.gemini import GeminiSession, model_of_setup
from .formats.markers import COUNT
from .formats.openai_responses import END_TYPES, SESSION_TYPES, OpenAISession, is_delta
from .oversized import TAIL_BYTES, usage_from_tail
from .session import SessionMessage, SessionResponse, SessionResponses, text_of

MAX_SETUP_BYTES = 64 * 1024
MAX_CLIENT_FRAMES = 4  # searched for a setup

_MAX_SCANNED = 64 * 1024  # characters of a frame that cannot be read
_HEAD = 320  # characters that show the type of a message
_COMPACT, _SPACED = '{"type":"', '{"type": "'  # the openings of most messages
_TYPE_END = 96
_TYPE = re.compile(
    r'\s{0,8}\{\s{0,8}(?:"event_id"\s{0,8}:\s{0,8}"[^"\\]{0,128}"\s{0,8},\s{0,8})?'
    r'"type"\s{0,8}:\s{0,8}"([a-z0-9_.]{1,80})"'
)
_SPACE, _SPACES = " \t\r\n", 64
_TEXT_MARKS = ("{", '"usageMetadata"', '"turnComplete"')
_BYTE_MARKS = (b"{", b'"usageMetadata"', b'"turnComplete"')
_SETUP_MARK, _SETUP_CHARS = '"setup"', 64
_RESPONSE_ID = re.compile(rb'"response"\s*:\s*\{\s*"id"\s*:\s*("[^"\\]{1,256}")')
_NOT_READABLE = (*UNREADABLE, UnicodeError)
_NO_RESPONSES: Sequence[SessionResponse] = ()

_decode = msgspec.json.Decoder(SessionMessage).decode


class WebSocketMeter:
    """Reads the frames of one WebSocket, after they were sent.

    Vendors send one JSON document in each frame, as text or as bytes. Most frames are recognised by
    their beginning or by two names as without usage, and are not decoded. A frame that is only a
    part of a document cannot be read.

    Args:
        clock: Monotonic seconds.
        max_bytes: Size of the longest frame that is decoded. Of a longer one that ends a response
            of OpenAI, the end is read.
    """

    __slots__ = (
        "_client_frames",
        "_gemini",
        "_max_bytes",
        "_openai",
        "_responses",
        "_setup",
    )

    def __init__(self, *, clock: Callable[[], float], max_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self._responses = SessionResponses(clock)
        self._openai = OpenAISession(self._responses)
        self._gemini: GeminiSession | None = None
        self._max_bytes = max_bytes
        self._client_frames = MAX_CLIENT_FRAMES
        self._setup: bytes | None = None

    @property
    def awaits_setup(self) -> bool:
        """Return True while frames of the client are searched for the setup of a session."""
        return self._client_frames > 0

    def feed_client(self, frame: str | bytes) -> None:
        """Keep a frame of the client if it is the setup of a session of Gemini, which it names."""
        self._client_frames -= 1
        head = frame[:_SETUP_CHARS]
        if isinstance(head, bytes):
            head = head.decode("latin-1")
        if _SETUP_MARK in head:
            self._client_frames = 0
            setup = frame[:MAX_SETUP_BYTES]
            self._setup = setup if isinstance(setup, bytes) else setup.encode(errors="replace")

    def feed(self, frame: str | bytes) -> Sequence[SessionResponse] | None:
        """Read a frame of the server.

        Returns:
            The responses that have ended, or None if the frame was not decoded.
        """
        if self._gemini is not None:
            brace, usage, end = _TEXT_MARKS if isinstance(frame, str) else _BYTE_MARKS
            if (
                self._gemini.in_turn
                and frame.startswith(brace)  # type: ignore[arg-type]
                and frame.rfind(usage) < 0  # type: ignore[arg-type]
                and frame.rfind(end) < 0  # type: ignore[arg-type]
            ):
                return None
            return self._read_untyped(frame)
        head = frame if isinstance(frame, str) else frame[:_HEAD].decode("latin-1")
        start = 9 if head.startswith(_COMPACT) else 10 if head.startswith(_SPACED) else 0
        if start:
            kind = head[start : head.find('"', start, _TYPE_END)]
        elif (match := _TYPE.match(head)) is not None:
            kind = match[1]
        else:
            return self._read_untyped(frame)
        return self._read(frame, kind) if self._has_effect(kind) else None

    def finish(self) -> Sequence[SessionResponse]:
        """End the responses in progress, as the connection has ended, and return them."""
        if self._gemini is not None:
            self._gemini.finish()
        self._responses.end_all()
        return self._responses.take()

    def take_unreadable(self) -> int:
        """Return the number of unreadable frames since the last call."""
        unreadable, self._responses.unreadable = self._responses.unreadable, 0
        return unreadable

    def _has_effect(self, kind: str) -> bool:
        return kind in SESSION_TYPES or (self._responses.awaits_output and is_delta(kind))

    def _read_untyped(self, frame: str | bytes) -> Sequence[SessionResponse] | None:
        start = frame[:_SPACES]
        text = start if isinstance(start, str) else start.decode("latin-1")
        if text.lstrip(_SPACE).startswith("{"):
            return self._read(frame, None)
        if isinstance(frame, bytes) and self._gemini is None:
            return None  # audio
        return self._fail(frame, None)

    def _read(self, frame: str | bytes, kind: str | None) -> Sequence[SessionResponse] | None:
        if len(frame) > self._max_bytes:
            return self._read_oversized(frame, kind)
        try:
            message = _decode(frame)
        except _NOT_READABLE:
            if kind not in SESSION_TYPES and COUNT.search(_bytes_of(frame)) is None:
                return None
            try:
                message = _decode(fix_json(_bytes_of(frame)))
            except UNREADABLE:
                return self._fail(frame, kind)
        if self._gemini is None and kind is None and message.type is not NOTHING:
            kind = text_of(message.type)
            if kind is None or not self._has_effect(kind):
                return None
        if kind is not None:
            self._openai.read(kind, message)
        elif self._gemini is not None:
            self._gemini.read(message)
        elif _is_of_gemini(message) and not self._responses.in_progress:
            self._gemini = GeminiSession(self._responses)
            self._client_frames = 0
            if self._setup is not None:
                self._responses.model = model_of_setup(self._setup)
                self._setup = None
            self._gemini.read(message)
        return self._responses.take()

    def _read_oversized(
        self, frame: str | bytes, kind: str | None
    ) -> Sequence[SessionResponse] | None:
        """Read the usage at the end of a long frame that ends a response of OpenAI."""
        tail = _bytes_of(frame[-TAIL_BYTES:])
        if kind not in END_TYPES:
            return self._fail(tail, kind)
        opening = b'{"type":"%b"' % kind.encode()
        short = usage_from_tail(opening, tail)
        if not short:
            self._responses.unreadable += 1
            short = opening + b',"response":{"usage":null}}'
        name = _RESPONSE_ID.search(_bytes_of(frame[:_HEAD]))
        if name is not None:
            short = short.replace(b'"response":{', b'"response":{"id":%b,' % name[1], 1)
        self._openai.read(kind, _decode(fix_json(short)))
        return self._responses.take()

    def _fail(self, frame: str | bytes, kind: str | None) -> Sequence[SessionResponse] | None:
        """Count a frame that cannot be read, if it may have a usage."""
        if kind in END_TYPES or COUNT.search(_bytes_of(frame[-_MAX_SCANNED:])) is not None:
            self._responses.unreadable += 1
            return _NO_RESPONSES
        return None


def _bytes_of(frame: str | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.encode(errors="replace")


def _is_of_gemini(message: SessionMessage) -> bool:
    fields = (message.setupComplete, message.serverContent, message.usageMetadata)
    return any(opens_with(field, b"{") for field in fields)

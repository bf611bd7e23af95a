"""Meters: the bytes of one answer in, as they pass; its token usage out, once."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Protocol

from . import answer
from .ledger import Ledger
from .sse import Event, EventBuffer, around, blocks, parse

LONGEST = 1024 * 1024  # bytes of one event, or of one JSON body
_LONGEST_TYPE = 128  # bytes of a Content-Type
_BATCH = 16 * 1024  # bytes of a stream that are looked through at once
_TAIL = 32 * 1024  # bytes at the end of a stream in which an error is looked for
# What makes an event worth decoding: a key that every vendor's usage has, in some spelling. Inside
# a JSON string its quote would be escaped, so text that a model writes cannot look like it. Each
# pattern begins with fixed bytes, and these are rare ones, which makes the search fast.
_COUNT = re.compile(rb'oken(?:s|Count)"\s*:')
_ERRORS = (re.compile(rb'"error"'), re.compile(rb"event: ?error"))


class UsageMeter(Protocol):
    """Reads one answer as it passes."""

    ledger: Ledger

    @property
    def waiting(self) -> bool:
        """The first piece of the model's own words, whose time is of interest, is still to come."""
        ...

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the body, in any chunking."""
        ...

    def finish(self, *, complete: bool) -> None:
        """Look at what is left; `complete` says whether the body came to its end."""
        ...


class JsonMeter:
    """Reads an answer that is one JSON document (or one array of them)."""

    __slots__ = ("_body", "_longest", "_size", "ledger")

    waiting = False  # all comes at once

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self._longest = longest
        self._size = 0
        self._body = bytearray()

    def feed(self, chunk: bytes) -> None:
        """Keep the bytes; a body that grows too long is let go."""
        self._size += len(chunk)
        if self._size <= self._longest:
            self._body += chunk
        elif self._body:
            self._body = bytearray()

    def finish(self, *, complete: bool) -> None:
        """Read the body, if all of it was kept."""
        self.ledger.complete = complete
        if self._size > self._longest:
            self.ledger.unreadable += 1
        elif self._size:
            self.ledger.read(bytes(self._body))


class StreamMeter:
    """Reads an answer that is a stream of server-sent events.

    Until the model's first words every event is looked at as it comes, so that their time can be
    told; from then on the stream is looked through in batches, and only events that speak of
    usage are decoded. Errors are looked for in the last 32 KiB: vendors end a stream with them.
    """

    __slots__ = ("_buffer", "_recent", "_recent_size", "ledger", "waiting")

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self.waiting = True
        self._buffer = EventBuffer(longest=longest)
        self._recent: deque[bytes] = deque()
        self._recent_size = 0

    def feed(self, chunk: bytes) -> None:
        """Look at the events that `chunk` completes."""
        held = self._buffer.held
        held += chunk
        if len(held) >= _BATCH or self.waiting:
            self._look_through(self._buffer.release())

    def finish(self, *, complete: bool) -> None:
        """Look at what is held, an event that no blank line has ended included."""
        ledger = self.ledger
        ledger.complete = complete
        self._look_through(self._buffer.release())
        unreadable = ledger.unreadable
        self._buffer.held += b"\n\n"  # ends an event that the vendor has left open
        self._look_through(self._buffer.release())
        if not complete:  # an event that was cut in two is nobody's fault
            ledger.unreadable = unreadable
        ledger.unreadable += self._buffer.overlong
        tail = b"".join(self._recent)[-_TAIL:]
        ledger.failed = any(
            _tells_of_error(event) for pattern in _ERRORS for event in _events_with(pattern, tail)
        )

    def _look_through(self, whole: bytes) -> None:
        if not whole:
            return
        if self.waiting:
            self.waiting = not any(answer.speaks(parse(block).data) for block in blocks(whole))
        for event in _events_with(_COUNT, whole):
            self.ledger.read(event.data)
        recent = self._recent
        recent.append(whole)
        self._recent_size += len(whole)
        while self._recent_size - len(recent[0]) >= _TAIL:
            self._recent_size -= len(recent.popleft())


def _events_with(pattern: re.Pattern[bytes], whole: bytes) -> Iterator[Event]:
    """Those events of `whole` in which `pattern` is found."""
    position = 0
    while (hit := pattern.search(whole, position)) is not None:
        block, position = around(whole, hit.start(), position)
        yield parse(block)


def _tells_of_error(event: Event) -> bool:
    if event.name == b"error":
        return True
    try:
        return any(map(answer.failed, answer.read(event.data)))
    except answer.UNREADABLE:
        return False


def meter_for(content_type: bytes) -> UsageMeter | None:
    """A meter for a body of this media type, or None for one that no vendor answers with."""
    make = _meter_of(content_type[:_LONGEST_TYPE])
    return make() if make is not None else None


@lru_cache(maxsize=256)
def _meter_of(content_type: bytes) -> Callable[[], UsageMeter] | None:
    media_type = content_type.partition(b";")[0].strip().lower()
    if media_type == b"text/event-stream":
        return StreamMeter
    if media_type == b"application/json" or media_type.endswith(b"+json"):
        return JsonMeter
    return None

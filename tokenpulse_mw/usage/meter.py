"""Meters: the bytes of one answer in, as they pass; its token usage out, once."""

from __future__ import annotations

import re
from typing import Protocol

from . import answer
from .ledger import Ledger
from .sse import EventBuffer, around, blocks, parse

LONGEST = 1024 * 1024  # bytes of one event, or of one JSON body
_BATCH = 16 * 1024  # bytes of a stream that are looked through at once
# What makes an event worth decoding. Inside a JSON string its quotes would be escaped, so text
# that a model writes cannot look like this; `"usage":null` on every chunk does not either.
_TELLING = re.compile(
    rb'"usage(?:Metadata)?"\s*:\s*\{|"error"\s*:\s*[{"]|"response\.failed"|event:\s*error'
)


class UsageMeter(Protocol):
    """Reads one answer as it passes."""

    ledger: Ledger

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the body, in any chunking."""
        ...

    def finish(self, *, complete: bool) -> None:
        """Look at what is left; `complete` says whether the body came to its end."""
        ...


class JsonMeter:
    """Reads an answer that is one JSON document (or one array of them)."""

    __slots__ = ("_chunks", "_longest", "_size", "ledger")

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self._longest = longest
        self._size = 0
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        """Keep the bytes; a body that grows too long is let go."""
        self._size += len(chunk)
        if self._size <= self._longest:
            self._chunks.append(chunk)
        elif self._chunks:
            self._chunks.clear()

    def finish(self, *, complete: bool) -> None:
        """Read the body, if all of it was kept."""
        self.ledger.complete = complete
        if self._size > self._longest:
            self.ledger.unreadable += 1
        elif self._size:
            self.ledger.read(b"".join(self._chunks))
        self._chunks.clear()


class StreamMeter:
    """Reads an answer that is a stream of server-sent events.

    Until the model's first words every event is looked at as it comes, so that their time can be
    told; from then on the stream is looked through in batches, and only events that speak of
    usage or of errors are decoded.
    """

    __slots__ = ("_buffer", "ledger")

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self._buffer = EventBuffer(longest=longest)

    def feed(self, chunk: bytes) -> None:
        """Look at the events that `chunk` completes."""
        whole = self._buffer.feed(chunk, at_least=_BATCH if self.ledger.speaking else 0)
        if whole:
            self._look_through(whole)

    def finish(self, *, complete: bool) -> None:
        """Look at what no blank line has ended: some vendors leave the last one out."""
        ledger = self.ledger
        ledger.complete = complete
        unreadable = ledger.unreadable
        self._look_through(self._buffer.feed(b"\n\n"))
        if not complete:  # an event that was cut in two is nobody's fault
            ledger.unreadable = unreadable
        ledger.unreadable += self._buffer.overlong

    def _look_through(self, whole: bytes) -> None:
        ledger = self.ledger
        if not ledger.speaking:
            ledger.speaking = any(answer.speaks(parse(block).data) for block in blocks(whole))
        position = 0
        while (hit := _TELLING.search(whole, position)) is not None:
            block, position = around(whole, hit.start())
            self._read(block)

    def _read(self, block: bytes) -> None:
        event = parse(block)
        documents = self.ledger.read(event.data) if event.data.startswith(b"{") else []
        if event.name == b"error" or any(map(answer.failed, documents)):
            self.ledger.failed = True


def meter_for(content_type: str) -> UsageMeter | None:
    """A meter for a body of this media type, or None for one that no vendor answers with."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "text/event-stream":
        return StreamMeter()
    if media_type == "application/json" or media_type.endswith("+json"):
        return JsonMeter()
    return None

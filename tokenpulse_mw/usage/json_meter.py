"""The meter of JSON answers: one document, or a streamed array of them."""

from __future__ import annotations

from .arrays import ArrayBuffer
from .bounds import LONGEST
from .digest import HEAD, OPENING, TAIL, digest, digest_of_opening
from .failure import refused
from .ledger import Ledger
from .protocol import UsageMeter
from .statement import COUNT

BEFORE = b"\xef\xbb\xbf \t\r\n"  # what may stand before a document: a mark, and white space


class JsonMeter:
    """Reads an answer that is one JSON document, or an array of them.

    A document is kept and read when it has ended: its words come all at once, so that none of them
    are the first, and `waiting` never ends. Of one that is too long only both ends are kept. Gemini
    streams an array where it is not asked for server-sent events: its elements are read as they
    come.
    """

    __slots__ = ("_body", "_head", "_longest", "_reader", "ledger", "waiting")

    def __init__(self, *, longest: int = LONGEST, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.waiting = True
        self._longest = longest
        self._body: bytes | bytearray = b""  # the latter, from its second piece on
        self._head = b""  # of a document that is too long
        self._reader: UsageMeter | None = None  # of what is no document

    def feed(self, chunk: bytes) -> None:
        """Keep the bytes of a document, or look at the elements that `chunk` completes."""
        if self._reader is None:
            chunk = bytes(chunk)  # applications send any kind of them
            if not self._body:
                chunk = chunk.lstrip(BEFORE)
                if not chunk.startswith(b"{"):
                    self._reader = self._reader_of(chunk)
        if self._reader is None:
            self._keep(chunk)
        else:
            self._reader.feed(chunk)
            self.waiting = self.waiting and self._reader.waiting

    def _reader_of(self, start: bytes) -> UsageMeter | None:
        """What reads a body that does not begin as a document does."""
        return _ArrayReader(self.ledger, self._longest) if start.startswith(b"[") else None

    def _keep(self, chunk: bytes) -> None:
        if not self._body:
            self._body = chunk  # which mostly is all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk
        if self._head or len(self._body) > self._longest:
            self._head = self._head or bytes(self._body[: min(OPENING, self._longest)])
            self._body = self._body[-min(TAIL, self._longest) :]

    def finish(self, *, complete: bool) -> None:
        """Read the document, if all of it was kept, or what its end says of usage."""
        if self._reader is not None:
            self._reader.finish(complete=complete)
            return
        ledger = self.ledger
        ledger.complete = complete
        ledger.searched = True
        if self._head:
            self._read_ends(complete)
        elif self._body:
            ledger.read(bytes(self._body))
            if not complete:  # a document that was cut in two is nobody's fault
                ledger.unreadable = 0

    def _read_ends(self, complete: bool) -> None:
        """Where it was cut, its end may lie anywhere in it."""
        short = digest(self._head[:HEAD], bytes(self._body)) if complete else b""
        if short := short or digest_of_opening(self._head):
            self.ledger.read(short)
        else:
            self.ledger.unreadable += 1


class _ArrayReader:
    """Reads the elements of an array as they come."""

    __slots__ = ("_buffer", "_last", "ledger", "waiting")

    def __init__(self, ledger: Ledger, longest: int) -> None:
        self.waiting = True
        self.ledger = ledger
        self._buffer = ArrayBuffer(longest=longest)
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        elements = self._buffer.feed(bytes(chunk))
        if not elements:
            return
        self.ledger.events += len(elements)
        self.waiting = self.waiting and not any(map(self.ledger.opens, elements))
        self.ledger.hear(each for each in reversed(elements) if COUNT.search(each))
        self._last = elements[-1]

    def finish(self, *, complete: bool) -> None:
        ledger, buffer = self.ledger, self._buffer
        ledger.complete = complete and buffer.closed
        ledger.unreadable += buffer.overlong + (complete and not buffer.closed)
        ledger.events += buffer.overlong
        ledger.searched = ledger.listens  # else elements were not looked at any more
        ledger.fails(self._last, refused)

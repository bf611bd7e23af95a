"""The meter of JSON answers: one document, or a streamed array of them."""

from __future__ import annotations

from .arrays import ArrayBuffer
from .bounds import LONGEST
from .digest import HEAD, TAIL, digest
from .failure import refused
from .ledger import Ledger
from .statement import COUNT

_BEFORE = b"\xef\xbb\xbf \t\r\n"  # what may stand before a document: a mark, and white space


class JsonMeter:
    """Reads an answer that is one JSON document, or an array of them.

    A document is kept and read when it has ended: its words come all at once, so that none of them
    are the first, and `waiting` never ends. Of one that is too long only the end is kept. Gemini
    streams an array where it is not asked for server-sent events: its elements are read as they
    come.
    """

    __slots__ = ("_array", "_body", "_head", "_longest", "ledger", "waiting")

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self.waiting = True
        self._longest = longest
        self._body: bytes | bytearray = b""  # the latter, from its second piece on
        self._head = b""  # of a document that is too long
        self._array: _ArrayReader | None = None

    def feed(self, chunk: bytes) -> None:
        """Keep the bytes of a document, or look at the elements that `chunk` completes."""
        chunk = bytes(chunk)  # applications send any kind of them
        if self._array is None and not self._body:
            chunk = chunk.lstrip(_BEFORE)
            if chunk.startswith(b"["):
                self._array = _ArrayReader(self.ledger, self._longest)
        if self._array is not None:
            self._array.feed(chunk)
            self.waiting = self._array.waiting
        else:
            self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        if not self._body:
            self._body = chunk  # which mostly is all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk
        if self._head or len(self._body) > self._longest:
            self._head = self._head or bytes(self._body[: min(HEAD, self._longest)])
            self._body = self._body[-min(TAIL, self._longest) :]

    def finish(self, *, complete: bool) -> None:
        """Read the document, if all of it was kept, or what its end says of usage."""
        ledger = self.ledger
        ledger.complete = complete
        ledger.searched = True
        if self._array is not None:
            self._array.finish(complete)
        elif self._head:
            short = digest(self._head, bytes(self._body)) if complete else b""
            ledger.unreadable += not short
            if short:
                ledger.read(short)
        elif self._body:
            ledger.read(bytes(self._body))
            if not complete:  # a document that was cut in two is nobody's fault
                ledger.unreadable = 0


class _ArrayReader:
    """Reads the elements of an array as they come."""

    __slots__ = ("_buffer", "_last", "_ledger", "waiting")

    def __init__(self, ledger: Ledger, longest: int) -> None:
        self.waiting = True
        self._ledger = ledger
        self._buffer = ArrayBuffer(longest=longest)
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        elements = self._buffer.feed(chunk)
        if not elements:
            return
        self.waiting = self.waiting and not any(map(self._ledger.opens, elements))
        self._ledger.hear(each for each in reversed(elements) if COUNT.search(each))
        self._last = elements[-1]

    def finish(self, complete: bool) -> None:
        ledger, buffer = self._ledger, self._buffer
        ledger.complete = complete and buffer.closed
        ledger.unreadable += buffer.overlong + (complete and not buffer.closed)
        ledger.searched = ledger.listens  # else elements were not looked at any more
        ledger.fails(self._last, refused)

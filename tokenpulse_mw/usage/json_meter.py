"""Meter of JSON responses: one document, or a streamed array, which is split as it arrives."""

from __future__ import annotations

import re

import msgspec

from .account import UsageAccount, UsageMeter
from .bounds import ARRAY_BYTE_WORK_NS, BRACKET_WORK_NS, MAX_DOCUMENT_BYTES, QUOTE_WORK_NS
from .budget import slices
from .formats import is_error_response
from .formats.markers import COUNT
from .oversized import HEAD_BYTES, PREFIX_BYTES, TAIL_BYTES, usage_from_head, usage_from_tail

BEFORE = b"\xef\xbb\xbf \t\r\n"  # byte order mark and white space before a document


class JsonMeter(msgspec.Struct, eq=False, kw_only=True):
    """Reads a response that is one JSON document, or an array of them.

    A document is buffered and read at its end, so that `awaits_output` stays True. A document
    that is too long is reduced to its two ends. Gemini streams an array if server-sent events are
    not requested: its elements are read as they arrive.

    Attributes:
        account: The usage found so far.
        max_bytes: Maximum bytes of a document or element that is held.
        awaits_output: The first output, whose time is measured, has not been seen.
    """

    account: UsageAccount = msgspec.field(default_factory=UsageAccount)
    max_bytes: int = MAX_DOCUMENT_BYTES
    awaits_output: bool = True
    _body: bytes | bytearray = b""  # a bytearray from the second chunk on
    _head: bytes = b""  # the start of a document that is too long
    _reader: UsageMeter | None = None  # of a body that is not a document

    def feed(self, chunk: bytes) -> None:
        """Buffer the bytes of a document, or read the elements that `chunk` completes."""
        if self._reader is None:
            chunk = bytes(chunk)  # applications may send any bytes-like object
            if not self._body and not chunk.startswith(b"{"):
                chunk = chunk.lstrip(BEFORE)
                if not chunk.startswith(b"{"):
                    self._reader = self._reader_of(chunk)
        if self._reader is None:
            self._hold(chunk)
        else:
            self._reader.feed(chunk)
            self.awaits_output = self.awaits_output and self._reader.awaits_output

    def _reader_of(self, start: bytes) -> UsageMeter | None:
        """Return the meter of a body that does not start like a document, or None."""
        return _ArrayReader(self.account, self.max_bytes) if start.startswith(b"[") else None

    def _hold(self, chunk: bytes) -> None:
        if not self._body:
            self._body = chunk  # usually all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk
        if self._head or len(self._body) > self.max_bytes:
            self._shorten()

    def _shorten(self) -> None:
        """Reduce a document that is too long to its two ends."""
        tail = min(TAIL_BYTES, self.max_bytes)
        self._head = self._head or bytes(self._body[: min(HEAD_BYTES, self.max_bytes)])
        if len(self._body) > 2 * tail:
            self._body = self._body[-tail:]

    def finish(self, *, complete: bool) -> None:
        """Read the document, or the usage at its ends if it is too long."""
        if self._reader is not None:
            self._reader.finish(complete=complete)
            return
        account = self.account
        account.complete = complete
        account.complete_scan = True
        if account.budget.exhausted:  # by decompression
            account.unreadable += 1
        elif self._head:
            self._read_ends(complete)
        elif self._body:
            account.read(bytes(self._body))
            if not complete:  # a cut document is not an error of the vendor
                account.unreadable = 0

    def _read_ends(self, complete: bool) -> None:
        """Read the usage at the end, unless the document was cut, or at the start."""
        tail = min(TAIL_BYTES, self.max_bytes)
        usage = (
            usage_from_tail(self._head[:PREFIX_BYTES], bytes(self._body[-tail:]))
            if complete
            else b""
        )
        if usage := usage or usage_from_head(self._head):
            self.account.read(usage)
        else:
            self.account.unreadable += 1


class _ArrayReader:
    """Reads the elements of an array as they arrive."""

    __slots__ = ("_buffer", "_last", "account", "awaits_output")

    def __init__(self, account: UsageAccount, max_bytes: int) -> None:
        self.awaits_output = True
        self.account = account
        self._buffer = JsonArraySplitter(max_bytes=max_bytes)
        self._last = b""

    def feed(self, chunk: bytes) -> None:
        budget = self.account.budget
        budget.start(len(chunk))
        for piece in slices(bytes(chunk)):
            work = 0
            quotes = _count(piece, b'"\\')
            if quotes or not self._buffer.in_string:  # not the middle of a long string
                brackets = _count(piece, b"{}[]")
                work = BRACKET_WORK_NS * brackets + QUOTE_WORK_NS * quotes
                work += ARRAY_BYTE_WORK_NS * len(piece)
            if not budget.spend(work):
                return
            self._take(self._buffer.feed(piece))

    def _take(self, elements: list[bytes]) -> None:
        if elements:
            self.account.events += len(elements)
            self.awaits_output = self.awaits_output and not any(
                map(self.account.check_first_token, elements)
            )
            self.account.add_usage_events(
                element for element in reversed(elements) if COUNT.search(element)
            )
            self._last = elements[-1]

    def finish(self, *, complete: bool) -> None:
        account, buffer = self.account, self._buffer
        account.budget.start(0)
        stopped = account.budget.exhausted
        account.complete = complete and buffer.closed and not stopped
        account.unreadable += buffer.overlong + (stopped or (complete and not buffer.closed))
        account.events += buffer.overlong
        # After the search for output, elements without usage are not read.
        account.complete_scan = account.awaits_first_token
        account.check_error(self._last, is_error_response)


def _count(data: bytes, marks: bytes) -> int:
    """Return how many bytes of `data` are among `marks`."""
    return len(data) - len(data.translate(None, marks))


# One step through JSON: to the next bracket outside strings, to the quote of a string that
# continues in the next chunk, or to the end. It matches at every position, so that no byte is
# searched twice.
_STEP = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+(?:(["{}\[\]])|\Z)', re.DOTALL)
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE, _OPENING = b'"'[0], b"{["


class JsonArraySplitter:
    """Buffers a streamed array until its objects are complete.

    Args:
        max_bytes: Maximum bytes of an object; a longer one is reduced to the usage at its end.

    Attributes:
        overlong: Objects that were too long and have no usage at their end.
        closed: The array is complete.
        in_string: The input so far ends inside a string.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_head",
        "_held",
        "closed",
        "in_string",
        "max_bytes",
        "overlong",
    )

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.overlong = 0
        self.closed = False
        self._held = bytearray()  # the start of an incomplete element
        self._head = b""  # its beginning, if it is too long
        self._depth = 0  # 1 in the array, 2 in an element of it
        self.in_string = False
        self._escaped = False  # the last byte was a backslash in a string

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the objects that `chunk` completes."""
        elements: list[bytes] = []
        start = 0  # of the open element in this chunk
        for step in _STEP.finditer(chunk, self._after_string(chunk, 0)):
            position = step.start(1)
            if position < 0:
                continue
            if chunk[position] == _QUOTE:  # of a string that continues in the next chunk
                self.in_string = True
                self._after_string(chunk, position + 1)
                break
            if chunk[position] in _OPENING:
                self._depth += 1
                start = position if self._depth == 2 else start
            elif not self.closed:
                self._depth -= 1
                self.closed = self._depth <= 0
                if self._depth == 1:
                    elements += self._complete(chunk[start : position + 1])
        if self._depth >= 2:
            self._hold(chunk[start:])
        return elements

    def _after_string(self, chunk: bytes, position: int) -> int:
        """Return the end of the open string, or of the chunk if the string continues."""
        if not self.in_string or not chunk:
            return position
        if not self._escaped and chunk.find(b'"', position) < 0 and b"\\" not in chunk:
            return len(chunk)  # the middle of a long string
        end = _STRING.match(chunk, position + self._escaped).end()  # type: ignore[union-attr]
        self.in_string = end >= len(chunk) or chunk[end] != _QUOTE
        self._escaped = self.in_string and end < len(chunk)
        return len(chunk) if self.in_string else end + 1

    def _hold(self, piece: bytes) -> None:
        held = self._held
        held += piece
        if self._head or len(held) > self.max_bytes:
            self.overlong += not self._head
            self._head = self._head or bytes(held[: min(PREFIX_BYTES, self.max_bytes)])
            del held[: -min(TAIL_BYTES, self.max_bytes)]

    def _complete(self, piece: bytes) -> list[bytes]:
        """Return the element that ends with `piece`, or its usage if it is too long."""
        self._hold(piece)
        element, head = bytes(self._held), self._head
        self._held.clear()
        self._head = b""
        if head:
            element = usage_from_tail(head, element)
            self.overlong -= bool(element)
        return [element] if element.startswith(b"{") else []

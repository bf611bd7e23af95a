"""Meter of JSON responses: one document, or a streamed array of them."""

from __future__ import annotations

from .account import UsageAccount, UsageMeter
from .bounds import ARRAY_BYTE_WORK_NS, BRACKET_WORK_NS, MAX_DOCUMENT_BYTES, QUOTE_WORK_NS
from .budget import slices
from .formats import is_error_response
from .formats.markers import COUNT
from .json_array import JsonArraySplitter
from .oversized import HEAD_BYTES, PREFIX_BYTES, TAIL_BYTES, usage_from_head, usage_from_tail

BEFORE = b"\xef\xbb\xbf \t\r\n"  # byte order mark and white space before a document


class JsonMeter:
    """Reads a response that is one JSON document, or an array of them.

    A document is buffered and read at its end, so that `awaits_output` stays True. A document
    that is too long is reduced to its two ends. Gemini streams an array if server-sent events are
    not requested: its elements are read as they arrive.
    """

    __slots__ = ("_body", "_head", "_longest", "_reader", "_tail", "account", "awaits_output")

    def __init__(
        self, *, longest: int = MAX_DOCUMENT_BYTES, account: UsageAccount | None = None
    ) -> None:
        self.account = UsageAccount() if account is None else account
        self.awaits_output = True
        self._longest = longest
        self._tail = min(TAIL_BYTES, longest)
        self._body: bytes | bytearray = b""  # a bytearray from the second chunk on
        self._head = b""  # the start of a document that is too long
        self._reader: UsageMeter | None = None  # of a body that is not a document

    def feed(self, chunk: bytes) -> None:
        """Buffer the bytes of a document, or read the elements that `chunk` completes."""
        if self._reader is None:
            chunk = bytes(chunk)  # applications may send any bytes-like object
            if not self._body:
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
        return _ArrayReader(self.account, self._longest) if start.startswith(b"[") else None

    def _hold(self, chunk: bytes) -> None:
        if not self._body:
            self._body = chunk  # usually all of it
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += chunk
        if len(self._body) > (2 * self._tail if self._head else self._longest):
            self._head = self._head or bytes(self._body[: min(HEAD_BYTES, self._longest)])
            self._body = self._body[-self._tail :]

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
        usage = (
            usage_from_tail(self._head[:PREFIX_BYTES], bytes(self._body[-self._tail :]))
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

    def __init__(self, account: UsageAccount, longest: int) -> None:
        self.awaits_output = True
        self.account = account
        self._buffer = JsonArraySplitter(longest=longest)
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

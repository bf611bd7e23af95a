"""Parser of server-sent events; bounded, and independent of the chunking.

The format is https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .bounds import MAX_EVENT_LINES
from .oversized import HEAD_BYTES, PREFIX_BYTES, TAIL_BYTES, usage_from_head, usage_from_tail
from .scan import find_any, rfind_any

_LINE_ENDS = re.compile(rb"[\r\n]*+")
# A blank line as two bytes: "\r\n" itself is not one; the "\n" of "\r\n\r\n" starts the next event
# with an empty line, which has no meaning there.
_NEAR = 4096  # bytes searched for the most frequent kind first
_BLANK_LINES = (b"\n\n", b"\n\r", b"\r\r")


def _last_blank(held: bytes | bytearray, start: int, end: int) -> int:
    """Return the end of the last blank line before `end`, or 0 if there is none."""
    near = max(start, end - _NEAR)
    last = held.rfind(b"\n\n", near, end)
    is_first = last < 0 and near == start  # unless there is another kind
    if (last < 0 and not is_first) or held.find(b"\r", start if is_first else last, end) >= 0:
        last = rfind_any(held, _BLANK_LINES, start, end)
    return last + 2 if last >= 0 else 0


def _next_blank(whole: bytes, start: int) -> int:
    """Return the start of the first blank line after `start`, or the end of `whole`."""
    begin = whole.find(b"\n\n", start, start + _NEAR)
    if begin < 0 or whole.find(b"\r", start, begin) >= 0:
        begin = find_any(whole, _BLANK_LINES, start)
        if begin < 0:
            return len(whole)
        if whole[begin - 1 : begin + 1] == b"\r\n" and begin > start:
            begin -= 1
    return begin


def _first_blank(whole: bytes, start: int) -> tuple[int, int]:
    """Return the bounds of the first blank line after `start`."""
    begin = _next_blank(whole, start)
    end: int = _LINE_ENDS.match(whole, begin).end()  # type: ignore[union-attr]
    return begin, end


class Event(NamedTuple):
    """One server-sent event: its name (may be empty) and its data, lines joined by LF."""

    name: bytes
    data: bytes


class EventBuffer:
    """Buffers a stream until its events are complete.

    Append chunks to `held`, and call `take_complete`.

    Args:
        max_bytes: Maximum bytes of an event; a longer one is reduced to the usage at its end. If it
            has none, it is counted in `overlong`.
    """

    __slots__ = ("_head", "_scanned", "_skipping", "cut", "held", "max_bytes", "overlong")

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.overlong = 0
        self.held = bytearray()
        self.cut = False  # the event that is held was cut
        self._head = b""  # of the event that is skipped
        self._scanned = 0
        self._skipping = False

    def take_complete(self) -> bytes:
        """Return and remove all complete events; b"" if there are none."""
        held = self.held
        end = _last_blank(held, max(self._scanned - 1, 0), len(held))
        whole = self._take(end) if end else b""
        self._scanned = len(held)
        # Up to four of the held bytes can be line ends around the event; see `_shortened`.
        if len(held) > self.max_bytes + 4:
            self._skip()
        return whole

    def _take(self, end: int) -> bytes:
        held, left = self.held, b""
        whole = bytes(held if end == len(held) else held[:end])
        del held[:end]
        if self._skipping:  # starts with the tail of the skipped event
            self._skipping = False
            begin, start = _first_blank(whole, 0)
            left = self._usage_of(self._head, whole[:begin])
            whole = whole[start:]
        return left + (whole if len(whole) <= self.max_bytes else b"".join(self._shortened(whole)))

    def _shortened(self, whole: bytes) -> Iterator[bytes]:
        """Yield the events; those that are too long are reduced to their usage."""
        start = 0
        while len(whole) - start > self.max_bytes:
            begin, end = _first_blank(whole, start)
            block = whole[start:begin].strip(b"\r\n")
            if len(block) <= self.max_bytes:
                yield block + b"\n\n"
            else:
                self.overlong += 1
                yield self._usage_of(block, block)
            start = end
        yield whole[start:]

    def _skip(self) -> None:
        if not self._skipping:
            self._skipping = True
            self.overlong += 1
            self._head = bytes(self.held[: HEAD_BYTES + 4]).lstrip(b"\r\n")
        # The last bytes may be half of the blank line that ends the event.
        del self.held[: -min(TAIL_BYTES, self.max_bytes) - 4]
        self._scanned = len(self.held)

    def _usage_of(self, head: bytes, block: bytes) -> bytes:
        """Return an event with the usage of an over-long one, that was counted as overlong."""
        tail = block[-min(TAIL_BYTES, self.max_bytes) :]
        line = max(tail.splitlines(), key=len, default=b"")  # the data
        usage = b""
        if not self.cut:
            prefix = head[: min(PREFIX_BYTES, self.max_bytes)]
            usage = usage_from_tail(prefix, line) or usage_from_head(_data_in(head))
        self.overlong -= bool(usage)
        return b"data: %s\n\n" % usage if usage else b""


def _data_in(head: bytes) -> bytes:
    """Return the beginning of the data of an event, of which `head` is the start."""
    return data_of(head[:HEAD_BYTES])


def split_events(whole: bytes) -> Iterator[bytes]:
    """Yield each event of `whole`, without the blank lines around it."""
    start = 0
    while start < len(whole):
        begin, end = _first_blank(whole, start)
        if block := whole[start:begin].strip(b"\r\n"):
            yield block
        start = end


def start_of(whole: bytes, position: int) -> int:
    """Return the start of the event of `whole` that contains `position`."""
    return _last_blank(whole, 0, position)


def event_bounds(whole: bytes, position: int, start: int = 0) -> tuple[int, int]:
    """Return the bounds of the event of `whole` that contains `position`.

    The search stops at `start`, which must be between two events.
    """
    return _last_blank(whole, start, position) or start, _next_blank(whole, position)


def events_matching(pattern: re.Pattern[bytes], whole: bytes) -> Iterator[bytes]:
    """Yield the events of `whole` that match `pattern`."""
    end = 0
    while (hit := pattern.search(whole, end)) is not None:
        start, end = event_bounds(whole, hit.start(), end)
        yield whole[start:end]


def _line_ends(block: bytes) -> int:
    return block.count(b"\n") + block.count(b"\r")


def parse(block: bytes) -> Event:
    """Parse one event; other fields and comments are ignored, and events of too many lines."""
    name = b""
    data: list[bytes] = []
    if len(block) > MAX_EVENT_LINES and _line_ends(block) > MAX_EVENT_LINES:
        return Event(b"", b"")
    for line in block.removeprefix(b"\xef\xbb\xbf").splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(name, b"\n".join(data))


def data_of(block: bytes) -> bytes:
    """Return the data of one event."""
    # Nearly all events of a chat are one line.
    if block.startswith(b"data: ") and block.find(b"\n") < 0 and block.find(b"\r") < 0:
        return block[6:]
    return parse(block).data


def count_events(whole: bytes) -> int:
    """Return the number of data lines in `whole`, usually one per event.

    Line ends in JSON strings are escaped, so the text of a model cannot add lines.
    """
    count = whole.count(b"\ndata:") + whole.startswith(b"data:")
    return count + whole.count(b"\rdata:") if b"\r" in whole else count

"""Server-sent events: any chunking of a stream in, the same whole events out, in bounded memory.

The format is https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .digest import HEAD, TAIL, digest

# Blank lines are two line ends or more in a row. Atomic groups keep both halves of "\r\n" together.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r){2,}+")


def _last_blank(held: bytes | bytearray, start: int, end: int) -> int:
    r"""Where the last blank line before `end` is over, or 0 where there is none.

    As pairs of bytes: "\r\n" itself is none of them; a "\n" left over starts the next event
    with an empty line, which means nothing there.
    """
    last = -1
    if held.find(b"\r", start, end) >= 0:
        # Where there is one of these, another kind of blank line can only come after it.
        last = held.rfind(b"\n\r", start, end)
        start = max(start, last)
        last = max(last, held.rfind(b"\r\r", start, end))
    last = max(last, held.rfind(b"\n\n", start, end))
    return last + 2 if last >= 0 else 0


class Event(NamedTuple):
    """One server-sent event: its name ("" when it has none) and its data, lines joined by LF."""

    name: bytes
    data: bytes


class EventBuffer:
    """Holds a stream back until whole events of it can be read.

    Append what comes to `held`, and take from `release` what is complete.

    Args:
        longest: Bytes of the longest event that is kept; of a longer one only what its end says
            of usage is left. One that says nothing there is counted in `overlong`.
    """

    __slots__ = ("_head", "_scanned", "_skipping", "cut", "held", "longest", "overlong")

    def __init__(self, *, longest: int) -> None:
        self.longest = longest
        self.overlong = 0
        self.held = bytearray()
        self.cut = False  # the event that is held was cut
        self._head = b""  # of the event that is skipped
        self._scanned = 0
        self._skipping = False

    def release(self) -> bytes:
        """All events that are complete, or b"" while there are none."""
        held = self.held
        end = _last_blank(held, max(self._scanned - 1, 0), len(held))
        whole = self._take(end) if end else b""
        self._scanned = len(held)
        # Up to four bytes of what is held can be line ends around the event; see `_kept`.
        if len(held) > self.longest + 4:
            self._skip()
        return whole

    def _take(self, end: int) -> bytes:
        held, left = self.held, b""
        whole = bytes(held if end == len(held) else held[:end])
        del held[:end]
        if self._skipping:  # what comes first is the tail of the skipped event
            self._skipping = False
            skipped, whole = _BLANK_LINE.split(whole, maxsplit=1)
            left = self._left(self._head, skipped)
        return left + (whole if len(whole) <= self.longest else b"".join(self._kept(whole)))

    def _kept(self, whole: bytes) -> Iterator[bytes]:
        """The events of `whole` that are not over-long, as if they had come in small pieces."""
        for block in blocks(whole):
            if len(block) <= self.longest:
                yield block + b"\n\n"
            else:
                self.overlong += 1
                yield self._left(block, block)

    def _skip(self) -> None:
        if not self._skipping:
            self._skipping = True
            self.overlong += 1
            self._head = bytes(self.held[: HEAD + 4]).lstrip(b"\r\n")
        # Its last bytes may be half of the blank line that ends the event.
        del self.held[: -min(TAIL, self.longest) - 4]
        self._scanned = len(self.held)

    def _left(self, head: bytes, block: bytes) -> bytes:
        """What is left of an over-long event, which is counted already."""
        tail = block[-min(TAIL, self.longest) :]
        line = max(tail.splitlines(), key=len, default=b"")  # that of the data
        short = b"" if self.cut else digest(head[: min(HEAD, self.longest)], line)
        self.overlong -= bool(short)
        return b"data: %s\n\n" % short if short else b""


def blocks(whole: bytes) -> Iterator[bytes]:
    """The bytes of each event in what was released, without the blank lines that end them."""
    start = 0
    for blank in _BLANK_LINE.finditer(whole):
        if block := whole[start : blank.start()].strip(b"\r\n"):
            yield block
        start = blank.end()


def start_of(whole: bytes, place: int) -> int:
    """Where the event of `whole` begins that `place` lies in."""
    return _last_blank(whole, 0, place)


def around(whole: bytes, place: int, start: int = 0) -> tuple[int, int]:
    """From where to where the event of `whole` goes that `place` lies in.

    Nothing before `start`, which no event straddles, is looked at.
    """
    blank = _BLANK_LINE.search(whole, place)
    end = blank.start() if blank else len(whole)
    return _last_blank(whole, start, place) or start, end


def blocks_with(pattern: re.Pattern[bytes], whole: bytes) -> Iterator[bytes]:
    """The bytes of those events of `whole` in which `pattern` is found."""
    end = 0
    while (hit := pattern.search(whole, end)) is not None:
        start, end = around(whole, hit.start(), end)
        yield whole[start:end]


def parse(block: bytes) -> Event:
    """Read one event; comments and fields that carry no payload are passed over."""
    name = b""
    data: list[bytes] = []
    for line in block.removeprefix(b"\xef\xbb\xbf").splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return Event(name, b"\n".join(data))


def count_events(whole: bytes) -> int:
    """Return the number of data lines in `whole`, which mostly is one for each event.

    A line end inside of a JSON string is escaped, so the text of a model cannot add lines.
    """
    count = whole.count(b"\ndata:") + whole.startswith(b"data:")
    return count + whole.count(b"\rdata:") if b"\r" in whole else count

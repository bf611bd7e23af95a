"""Server-sent events: any chunking of a stream in, the same whole events out, in bounded memory.

The format is https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# A blank line is two line ends in a row. Atomic groups keep the two halves of one "\r\n" together.
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")


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
        longest: Bytes of the longest event that is kept; a longer one is skipped and counted
            in `overlong`.
    """

    __slots__ = ("_scanned", "_skipping", "held", "longest", "overlong")

    def __init__(self, *, longest: int) -> None:
        self.longest = longest
        self.overlong = 0
        self.held = bytearray()
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
        return whole if len(whole) <= self.longest else b"".join(self._kept(whole))

    def _take(self, end: int) -> bytes:
        held = self.held
        whole = bytes(held if end == len(held) else held[:end])
        del held[:end]
        if self._skipping:  # what comes first is the tail of the skipped event
            self._skipping = False
            whole = _BLANK_LINE.split(whole, maxsplit=1)[1]
        return whole

    def _kept(self, whole: bytes) -> Iterator[bytes]:
        """The events of `whole` that are not over-long, as if they had come in small pieces."""
        for block in blocks(whole):
            if len(block) <= self.longest:
                yield block + b"\n\n"
            else:
                self.overlong += 1

    def _skip(self) -> None:
        if not self._skipping:
            self._skipping = True
            self.overlong += 1
        del self.held[:-1]  # its last byte may be half of the blank line that ends the event
        self._scanned = len(self.held)


def blocks(whole: bytes) -> Iterator[bytes]:
    """The bytes of each event in what was released, without the blank lines that end them."""
    start = 0
    for blank in _BLANK_LINE.finditer(whole):
        if block := whole[start : blank.start()].strip(b"\r\n"):
            yield block
        start = blank.end()


def around(whole: bytes, place: int, start: int = 0) -> tuple[int, int]:
    """From where to where the event of `whole` goes that `place` lies in.

    Nothing before `start`, which no event straddles, is looked at.
    """
    blank = _BLANK_LINE.search(whole, place)
    end = blank.start() if blank else len(whole)
    return _last_blank(whole, start, place) or start, end


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

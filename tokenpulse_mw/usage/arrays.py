"""JSON arrays that are streamed: any chunking in, the same whole objects out, in bounded memory."""

from __future__ import annotations

import re

# One step through JSON: a string that ends here, one that goes on in the next chunk, or a bracket.
_STEP = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["{}\[\]]', re.DOTALL)
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE, _OBJECT, _OPENING = b'"'[0], b"{"[0], b"{["


class ArrayBuffer:
    """Holds an array of objects back until whole objects of it can be read.

    Args:
        longest: Bytes of the longest object that is kept; a longer one is skipped and counted
            in `overlong`.

    Attributes:
        closed: The array has come to its end.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_held",
        "_in_string",
        "_skipping",
        "closed",
        "longest",
        "overlong",
    )

    def __init__(self, *, longest: int) -> None:
        self.longest = longest
        self.overlong = 0
        self.closed = False
        self._held = bytearray()  # what has come of the element that is open
        self._skipping = False  # it has grown too long
        self._depth = 0  # 1 in the array, 2 in an element of it
        self._in_string = False
        self._escaped = False  # the last byte was a backslash in a string

    def feed(self, chunk: bytes) -> list[bytes]:
        """The objects that `chunk` completes."""
        elements: list[bytes] = []
        start = 0  # where the open element begins, or goes on, in this chunk
        for step in _STEP.finditer(chunk, self._after_string(chunk, 0)):
            place = step.start()
            if chunk[place] == _QUOTE:
                if step.end() == place + 1:  # it does not end in this chunk
                    self._in_string = True
                    self._after_string(chunk, place + 1)
                    break
            elif chunk[place] in _OPENING:
                self._depth += 1
                start = place if self._depth == 2 else start
            elif not self.closed:
                self._depth -= 1
                self.closed = self._depth <= 0
                if self._depth == 1:
                    elements += self._complete(chunk[start : place + 1])
        if self._depth >= 2:
            self._hold(chunk[start:])
        return elements

    def _after_string(self, chunk: bytes, position: int) -> int:
        """Where the string that is open is over; the chunk's end when it goes on."""
        if not self._in_string or not chunk:
            return position
        end = _STRING.match(chunk, position + self._escaped).end()  # type: ignore[union-attr]
        self._in_string = end >= len(chunk) or chunk[end] != _QUOTE
        self._escaped = self._in_string and end < len(chunk)
        return len(chunk) if self._in_string else end + 1

    def _hold(self, piece: bytes) -> None:
        self._held += piece
        if len(self._held) > self.longest:
            self.overlong += not self._skipping
            self._skipping = True
            self._held.clear()

    def _complete(self, piece: bytes) -> list[bytes]:
        """The element that ends with `piece`, if it is an object that was kept."""
        self._hold(piece)
        element, skipped = bytes(self._held), self._skipping
        self._held.clear()
        self._skipping = False
        return [element] if not skipped and element[0] == _OBJECT else []

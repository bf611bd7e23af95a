"""Splitter of streamed JSON arrays; bounded, and independent of the chunking."""

from __future__ import annotations

import re

from .oversized import PREFIX_BYTES, TAIL_BYTES, usage_from_tail

# One step through JSON: to the next bracket outside strings, to the quote of a string that
# continues in the next chunk, or to the end. It matches at every position, so that no byte is
# searched twice.
_STEP = re.compile(rb'(?:[^"{}\[\]]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+(?:(["{}\[\]])|\Z)', re.DOTALL)
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_QUOTE, _OPENING = b'"'[0], b"{["


class JsonArraySplitter:
    """Buffers a streamed array until its objects are complete.

    Args:
        longest: Maximum bytes of an object; a longer one is reduced to the usage at its end.

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
        "longest",
        "overlong",
    )

    def __init__(self, *, longest: int) -> None:
        self.longest = longest
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
        if self._head or len(held) > self.longest:
            self.overlong += not self._head
            self._head = self._head or bytes(held[: min(PREFIX_BYTES, self.longest)])
            del held[: -min(TAIL_BYTES, self.longest)]

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

"""The last events of a stream, in which an error is looked for: vendors end a stream with it."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from .failure import SIGNS
from .sse import blocks_with, parse, start_of

_LEAST = 32 * 1024  # bytes at the end of a stream in which an error is looked for
_SIGNS = (*map(re.compile, SIGNS), re.compile(rb"event: ?error"))
# Google ends a stream with an error that is no event at all, but JSON on lines of its own.
# No repeat passes the end of a line, at which the pattern begins: the search is linear.
_BARE_ERROR = re.compile(rb'^[ \t\r]*+(?:\{[ \t\r]*+)?+"error"[ \t\r]*+:', re.MULTILINE)


class Tail:
    """Keeps so many whole events of a stream's end as together pass 32 KiB, the last one always."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, whole: bytes) -> None:
        """Take in the next events."""
        pieces = self._pieces
        piece = _end_of(whole)
        pieces.append(piece)
        self._size += len(piece)
        while self._size - len(pieces[0]) >= _LEAST:
            self._size -= len(pieces.popleft())

    def suspects(self) -> Iterator[bytes]:
        """Those events that may tell of an error."""
        tail = _end_of(b"".join(self._pieces))
        for sign in _SIGNS:
            yield from blocks_with(sign, tail)


def _end_of(whole: bytes) -> bytes:
    """Its end from the beginning of an event on, so that 32 KiB are passed."""
    return whole[start_of(whole, len(whole) - _LEAST) :] if len(whole) > _LEAST else whole


def names_error(block: bytes) -> bool:
    """Return True if an event is an error by its name, or is not an event but states an error."""
    event = parse(block)
    return event.name == b"error" or (not event.data and _BARE_ERROR.search(block) is not None)

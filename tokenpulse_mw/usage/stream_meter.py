"""The meter of server-sent events, which most answers of models are."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from . import answer
from .bounds import LONGEST
from .ledger import Ledger
from .sse import EventBuffer, around, blocks, parse

_BATCH = 16 * 1024  # bytes of a stream that are looked through at once
_TAIL = 32 * 1024  # bytes at the end of a stream in which an error is looked for
_ERRORS = (re.compile(rb'"error"'), re.compile(rb"event: ?error"))
# Google ends a stream with an error that is no event at all, but JSON on lines of its own.
_BARE_ERROR = re.compile(rb'^\s*(?:\{\s*)?"error"\s*:', re.MULTILINE)


class StreamMeter:
    """Reads an answer that is a stream of server-sent events.

    Until the model's first words every event is looked at as it comes, so that their time can be
    told; from then on the stream is looked through in batches, and only events that speak of
    usage are decoded. Errors are looked for in the last 32 KiB: vendors end a stream with them.
    """

    __slots__ = ("_batch", "_buffer", "_held", "_recent", "_recent_size", "ledger", "waiting")

    def __init__(self, *, longest: int = LONGEST) -> None:
        self.ledger = Ledger()
        self.waiting = True
        self._batch = 0  # look through what is held when it is more than this
        self._buffer = EventBuffer(longest=longest)
        self._held = self._buffer.held
        self._recent: deque[bytes] = deque()
        self._recent_size = 0

    def feed(self, chunk: bytes) -> None:
        """Look at the events that `chunk` completes."""
        held = self._held
        held += chunk
        if len(held) > self._batch:
            self._look_through(self._buffer.release())

    def finish(self, *, complete: bool) -> None:
        """Look at what is held, an event that no blank line has ended included."""
        ledger = self.ledger
        ledger.complete = complete
        self._look_through(self._buffer.release())
        unreadable = ledger.unreadable
        self._held += b"\n\n"  # ends an event that the vendor has left open
        self._look_through(self._buffer.release())
        if not complete:  # an event that was cut in two is nobody's fault
            ledger.unreadable = min(unreadable, ledger.unreadable)
        ledger.unreadable += self._buffer.overlong
        tail = b"".join(self._recent)[-_TAIL:]
        ledger.failed = any(
            _tells_of_error(block) for pattern in _ERRORS for block in _blocks_with(pattern, tail)
        )

    def _look_through(self, whole: bytes) -> None:
        if not whole:
            return
        if self.waiting and any(self.ledger.opens(parse(block).data) for block in blocks(whole)):
            self.waiting = False
            self._batch = _BATCH
        self.ledger.hear(_counts(whole))
        recent = self._recent
        recent.append(whole)
        self._recent_size += len(whole)
        while self._recent_size - len(recent[0]) >= _TAIL:
            self._recent_size -= len(recent.popleft())


def _counts(whole: bytes) -> Iterator[bytes]:
    """The data of those events that may speak of usage, the latest first.

    The latest is mostly all that is asked for, and is found without looking through the others.
    """
    place = answer.last_count(whole)
    if place < 0:
        return
    start, end = around(whole, place)
    yield parse(whole[start:end]).data
    for block in reversed(list(_blocks_with(answer.COUNT, whole[:start]))):
        yield parse(block).data


def _blocks_with(pattern: re.Pattern[bytes], whole: bytes) -> Iterator[bytes]:
    """Those events of `whole` in which `pattern` is found."""
    end = 0
    while (hit := pattern.search(whole, end)) is not None:
        start, end = around(whole, hit.start(), end)
        yield whole[start:end]


def _tells_of_error(block: bytes) -> bool:
    event = parse(block)
    if event.name == b"error" or answer.tells_of_error(event.data):
        return True
    return not event.data and _BARE_ERROR.search(block) is not None

"""The meter of server-sent events, which most answers of models are."""

from __future__ import annotations

from collections.abc import Iterator

from .bounds import LONGEST
from .ledger import Ledger
from .sse import EventBuffer, around, blocks, blocks_with, count_events, parse
from .statement import COUNT, last_count
from .tail import Tail, names_error

_BATCH = 16 * 1024  # bytes of a stream that are looked through at once


class StreamMeter:
    """Reads an answer that is a stream of server-sent events.

    Until the model's first words every event is looked at as it comes, so that their time can be
    told; from then on the stream is looked through in batches, and only events that speak of
    usage are decoded. Errors are looked for in the last events: vendors end a stream with them.
    """

    __slots__ = ("_batch", "_buffer", "_held", "_tail", "ledger", "waiting")

    def __init__(self, *, longest: int = LONGEST, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.waiting = True
        self._batch = 0  # look through what is held when it is more than this
        self._buffer = EventBuffer(longest=longest)
        self._held = self._buffer.held
        self._tail = Tail()

    def feed(self, chunk: bytes) -> None:
        """Look at the events that `chunk` completes."""
        held = self._held
        held += chunk
        if len(held) > self._batch:
            self._look_through(self._buffer.release())

    def finish(self, *, complete: bool) -> None:
        """Look at what is held, an event that no blank line has ended included."""
        ledger, buffer = self.ledger, self._buffer
        ledger.complete = complete
        self._look_through(buffer.release())
        unreadable = ledger.unreadable
        buffer.cut = not complete
        self._held += b"\n\n"  # ends an event that the vendor has left open
        self._look_through(buffer.release())
        if not complete:  # an event that was cut in two is nobody's fault
            ledger.unreadable = min(unreadable, ledger.unreadable)
        ledger.unreadable += buffer.overlong
        ledger.events += buffer.overlong
        for block in self._tail.suspects():
            ledger.fails(parse(block).data)
            ledger.failed = ledger.failed or names_error(block)

    def _look_through(self, whole: bytes) -> None:
        if not whole:
            return
        if not self._batch:
            self._listen(whole)
        if self.ledger.counts_events:
            self.ledger.events += count_events(whole)
        self.ledger.hear(_counts(whole))
        self._tail.add(whole)

    def _listen(self, whole: bytes) -> None:
        """Look for the model's first words, as long as they may still come."""
        ledger = self.ledger
        for block in blocks(whole):
            self.waiting = not ledger.opens(parse(block).data)
            if not (self.waiting and ledger.listens):
                self._batch = _BATCH
                break


def _counts(whole: bytes) -> Iterator[bytes]:
    """The data of those events that may speak of usage, the latest first.

    The latest is mostly all that is asked for, and is found without looking through the others.
    What has no data is the JSON of a gateway that calls it a stream, or nothing that can be read.
    """
    place = last_count(whole)
    if place < 0:
        return
    start, end = around(whole, place)
    block = whole[start:end]
    yield parse(block).data or block
    for block in reversed(list(blocks_with(COUNT, whole[:start]))):
        yield parse(block).data or block

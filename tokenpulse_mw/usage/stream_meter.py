"""The meter of server-sent events, which most answers of models are."""

from __future__ import annotations

from collections.abc import Iterator

from .bounds import MAX_DOCUMENT_BYTES, MAX_SLICE_BYTES
from .budget import slices
from .ledger import Ledger
from .sse import EventBuffer, around, blocks, count_events, parse
from .statement import last_count
from .tail import Tail, names_error

_BATCH = 16 * 1024  # bytes of a stream that are looked through at once


class StreamMeter:
    """Reads an answer that is a stream of server-sent events.

    Until the model's first words every event is looked at as it comes, so that their time can be
    told; from then on the stream is looked through in batches, and only events that speak of
    usage are decoded. Errors are looked for in the last events: vendors end a stream with them.
    """

    __slots__ = ("_batch", "_budget", "_buffer", "_held", "_tail", "ledger", "waiting")

    def __init__(self, *, longest: int = MAX_DOCUMENT_BYTES, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self.waiting = True
        self._batch = 0  # look through what is held when it is more than this
        self._buffer = EventBuffer(longest=longest)
        self._budget = self.ledger.budget
        self._held = self._buffer.held
        self._tail = Tail()

    def feed(self, chunk: bytes) -> None:
        """Examine the events that `chunk` completes."""
        held = self._held
        held += chunk
        if len(held) > self._batch:
            self._advance(chunk)

    def _advance(self, chunk: bytes) -> None:
        held, budget = self._held, self._budget
        if budget.exhausted:
            held.clear()
        elif len(chunk) <= MAX_SLICE_BYTES:
            whole = self._buffer.release()
            budget.start(len(whole))
            self._look_through(whole)
        else:
            budget.start(len(chunk))
            del held[-len(chunk) :]
            self._advance_in_slices(bytes(chunk))

    def _advance_in_slices(self, chunk: bytes) -> None:
        for piece in slices(chunk):
            if self._budget.exhausted:
                return
            self._held += piece
            if len(self._held) > self._batch:
                self._look_through(self._buffer.release())

    def finish(self, *, complete: bool) -> None:
        """Examine what is held, including an event that no blank line has ended."""
        ledger, buffer = self.ledger, self._buffer
        self._budget.start(0)
        if not self._budget.exhausted:
            self._finish(complete)
        ledger.complete = complete and not self._budget.exhausted
        ledger.unreadable += buffer.overlong + self._budget.exhausted

    def _finish(self, complete: bool) -> None:
        ledger, buffer = self.ledger, self._buffer
        self._look_through(buffer.release())
        unreadable = ledger.unreadable
        buffer.cut = not complete
        self._held += b"\n\n"  # ends an event that the vendor has left open
        self._look_through(buffer.release())
        if not complete:  # an event that was cut in two is nobody's fault
            ledger.unreadable = min(unreadable, ledger.unreadable)
        ledger.events += buffer.overlong
        for block in self._tail.suspects():
            if not self._budget.spend_event(block):
                return
            ledger.fails(parse(block).data)
            ledger.failed = ledger.failed or names_error(block)

    def _look_through(self, whole: bytes) -> None:
        if not whole:
            return
        if not self._batch:
            self._listen(whole)
        if self.ledger.counts_events:
            self.ledger.events += count_events(whole)
        self.ledger.hear(self._counts(whole))
        self._tail.add(whole)

    def _listen(self, whole: bytes) -> None:
        """Look for the model's first output, as long as it may still come."""
        ledger = self.ledger
        for block in blocks(whole):
            if not self._budget.spend_event(block):
                return
            self.waiting = not ledger.opens(parse(block).data)
            if not (self.waiting and ledger.listens):
                self._batch = _BATCH
                break

    def _counts(self, whole: bytes) -> Iterator[bytes]:
        """Yield the data of those events that may state a usage, the latest first.

        The latest is mostly sufficient, and is found without a search through the others. A block
        without data is the JSON of a gateway that calls it a stream, or cannot be read.
        """
        start = len(whole)
        while (place := last_count(whole, start)) >= 0:
            start, end = around(whole, place)
            block = whole[start:end]
            if not self._budget.spend_event(block):
                return
            yield parse(block).data or block

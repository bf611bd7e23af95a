"""Meter of server-sent events, the format of most streamed responses."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from .account import UsageAccount
from .bounds import MAX_DOCUMENT_BYTES, MAX_SLICE_BYTES
from .budget import slices
from .formats.markers import ERROR_SIGNS, last_count
from .sse import (
    EventBuffer,
    count_events,
    data_of,
    event_bounds,
    events_matching,
    parse,
    split_events,
    start_of,
)

_BATCH = 16 * 1024  # bytes of a stream that are scanned at once


class SSEMeter:
    """Reads a response that is a stream of server-sent events.

    Every event is decoded as it arrives until the first output, whose time is measured. Then the
    stream is scanned in batches, and only events that may report usage are decoded. Errors are
    searched for in the last events, because vendors end a stream with them.
    """

    __slots__ = ("_batch", "_budget", "_buffer", "_held", "_tail", "account", "awaits_output")

    def __init__(
        self, *, max_bytes: int = MAX_DOCUMENT_BYTES, account: UsageAccount | None = None
    ) -> None:
        self.account = UsageAccount() if account is None else account
        self.awaits_output = True
        self._batch = 0  # scan when more bytes than this are held
        self._buffer = EventBuffer(max_bytes=max_bytes)
        self._budget = self.account.budget
        self._held = self._buffer.held
        self._tail = RecentEvents()

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
            whole = self._buffer.take_complete()
            budget.start(len(whole))
            self._scan(whole)
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
                self._scan(self._buffer.take_complete())

    def finish(self, *, complete: bool) -> None:
        """Examine the rest, including an event without a blank line after it."""
        account, buffer = self.account, self._buffer
        self._budget.start(0)
        if not self._budget.exhausted:
            self._finish(complete)
        account.complete = complete and not self._budget.exhausted
        account.unreadable += buffer.overlong + self._budget.exhausted

    def _finish(self, complete: bool) -> None:
        account, buffer = self.account, self._buffer
        if not complete:  # the events before the one that was cut
            self._scan(buffer.take_complete())
            buffer.cut = True
        unreadable = account.unreadable
        self._held += b"\n\n"  # ends the last event
        self._scan(buffer.take_complete())
        if not complete:  # a cut event is not an error of the vendor
            account.unreadable = min(unreadable, account.unreadable)
        account.events += buffer.overlong
        for block in self._tail.candidates():
            if not self._budget.spend_event(block):
                return
            account.check_error(data_of(block))
            account.failed = account.failed or names_error(block)

    def _scan(self, whole: bytes) -> None:
        if not whole:
            return
        if not self._batch:
            self._scan_for_output(whole)
        if self.account.counts_events:
            self.account.events += count_events(whole)
        position = last_count(whole, len(whole))
        if position >= 0:
            self.account.add_usage_events(self._counts(whole, position))
        self._tail.add(whole)

    def _scan_for_output(self, whole: bytes) -> None:
        """Search for the first output, within the bound of the search."""
        account = self.account
        for block in split_events(whole):
            if not self._budget.spend_event(block):
                return
            self.awaits_output = not account.check_first_token(data_of(block))
            if not (self.awaits_output and account.awaits_first_token):
                self._batch = _BATCH
                break

    def _counts(self, whole: bytes, position: int) -> Iterator[bytes]:
        """Yield the data of the events that may report usage, the latest first.

        The latest, which contains `position`, is usually sufficient: the others are not searched
        for. A block without data may be JSON that a gateway declares as a stream.
        """
        while position >= 0:
            start, end = event_bounds(whole, position)
            block = whole[start:end]
            if not self._budget.spend_event(block):
                return
            yield data_of(block) or block
            position = last_count(whole, start)


_MIN_TAIL_BYTES = 8 * 1024  # of a stream, searched for errors, which vendors send last

_ERROR = b"error"  # part of these signs
_ERROR_SIGNS = (re.compile(re.escape(ERROR_SIGNS[0])), re.compile(rb"event: ?error"))
_FAILED_SIGN = re.compile(re.escape(ERROR_SIGNS[1]))

# Google ends a stream with an error that is not an event, but JSON on separate lines.
# No repetition crosses a line end, at which the pattern starts: the search is linear.
_BARE_ERROR = re.compile(rb'^[ \t\r]*+(?:\{[ \t\r]*+)?+"error"[ \t\r]*+:', re.MULTILINE)


class RecentEvents:
    """Keeps the last events of a stream: at least 8 KiB, and always the last one."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, whole: bytes) -> None:
        """Add the next events."""
        pieces = self._pieces
        piece = _end_of(whole)
        pieces.append(piece)
        self._size += len(piece)
        while self._size - len(pieces[0]) >= _MIN_TAIL_BYTES:
            self._size -= len(pieces.popleft())

    def candidates(self) -> Iterator[bytes]:
        """Yield the events that may report an error."""
        tail = _end_of(b"".join(self._pieces))
        # The signs are usually absent, which `rfind` shows three times faster than a pattern.
        if tail.rfind(_ERROR) >= 0:
            for sign in _ERROR_SIGNS:
                yield from events_matching(sign, tail)
        if tail.rfind(ERROR_SIGNS[1]) >= 0:
            yield from events_matching(_FAILED_SIGN, tail)


def _end_of(whole: bytes) -> bytes:
    """Return the last whole events of `whole` that have at least 8 KiB."""
    return (
        whole[start_of(whole, len(whole) - _MIN_TAIL_BYTES) :]
        if len(whole) > _MIN_TAIL_BYTES
        else whole
    )


def names_error(block: bytes) -> bool:
    """Return True if an event is named `error`, or is a bare JSON error."""
    event = parse(block)
    return event.name == b"error" or (not event.data and _BARE_ERROR.search(block) is not None)

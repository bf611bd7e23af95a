"""Work budget of one response body."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .bounds import (
    DOCUMENT_BYTE_WORK_NS,
    DOCUMENT_PART_WORK_NS,
    DOCUMENT_WORK_NS,
    EVENT_LINE_WORK_NS,
    MAX_BODY_WORK_NS,
    MAX_BODY_WORK_PER_BYTE_NS,
    MAX_BUILT_VALUES,
    MAX_DOCUMENT_LINES,
    MAX_FEED_WORK_NS,
    MAX_SLICE_BYTES,
    OBJECT_WORK_NS,
    REPAIR_BYTE_WORK_NS,
    REPAIR_EACH_WORK_NS,
    REPAIR_WORK_NS,
    REPAIRED,
)


class Budget(msgspec.Struct, eq=False):
    """Limits the work of each `feed`, and of all feeds of a body.

    Searching for bytes is not counted: it is linear and takes about a nanosecond per byte.

    Attributes:
        exhausted: The budget was exceeded; no more of the body is read.
        encoded: The body is compressed: only the meter of the compressed bytes starts a feed.
    """

    exhausted: bool = False
    encoded: bool = False
    _feed: int = MAX_FEED_WORK_NS
    _body: int = MAX_BODY_WORK_NS

    def start(self, size: int, *, encoded: bool = False) -> None:
        """Start a feed of `size` bytes."""
        if self.encoded is encoded:
            self._feed = MAX_FEED_WORK_NS
            self._body += size * MAX_BODY_WORK_PER_BYTE_NS

    def spend(self, work: int) -> bool:
        """Return True if `work` is within the budget, and deduct it."""
        self._feed = feed = self._feed - work
        self._body = body = self._body - work
        if feed < 0 or body < 0:
            self.exhausted = True
        return not self.exhausted

    def spend_document(self, data: bytes, extra: int = 0) -> bool:
        """Deduct the work of decoding `data`, which may be several documents."""
        work = DOCUMENT_WORK_NS + DOCUMENT_BYTE_WORK_NS * len(data) + extra
        part = OBJECT_WORK_NS if data.startswith(b"{") else DOCUMENT_PART_WORK_NS
        # Upper bound of the values of a long document that become objects.
        objects = MAX_BUILT_VALUES
        if len(data) <= MAX_SLICE_BYTES:
            objects = data.count(b"{") + data.count(b"[")
        return self.spend(work + part * objects)

    def spend_repair(self, data: bytes) -> bool:
        """Deduct the work of repairing `data`, and of reading its lines as documents."""
        work = REPAIR_WORK_NS + REPAIR_BYTE_WORK_NS * len(data)
        work += REPAIR_EACH_WORK_NS * sum(map(data.count, REPAIRED))
        if lines := data.count(b"\n"):
            arrays = data.count(b"\n[") > data.count(b"\n[DONE]")
            parts = data.count(b"{") if arrays else min(lines, MAX_DOCUMENT_LINES)
            work += DOCUMENT_PART_WORK_NS * parts
        return self.spend(work)

    def spend_event(self, block: bytes) -> bool:
        """Deduct the work of splitting an event into its lines."""
        if block.find(b"\n") < 0 and block.find(b"\r") < 0:  # the fastest search
            return not self.exhausted
        return self.spend(EVENT_LINE_WORK_NS * (block.count(b"\n") + block.count(b"\r")))


def slices(data: bytes, size: int = MAX_SLICE_BYTES) -> Iterable[bytes]:
    """Return `data` in slices of at most `size` bytes."""
    if len(data) <= size:  # the common case, without a generator
        return (data,) if data else ()
    return (data[start : start + size] for start in range(0, len(data), size))

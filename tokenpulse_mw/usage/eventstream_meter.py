"""Meter of AWS eventstream responses, which Amazon Bedrock streams."""

from __future__ import annotations

import msgspec

from .account import UsageAccount
from .bounds import FRAME_WORK_NS, MAX_DOCUMENT_BYTES
from .budget import slices
from .document import UNREADABLE
from .eventstream import Frame, FrameBuffer
from .formats.markers import COUNT, may_have_error


class _Chunk(msgspec.Struct):
    """An event of InvokeModel, which wraps an event of the model's vendor in base64."""

    event: bytes = msgspec.field(default=b"", name="bytes")


_chunks = msgspec.json.Decoder(_Chunk)


class EventStreamMeter:
    """Reads a response that is a stream of eventstream frames.

    Converse names its events in a header of the frame; InvokeModel wraps those of the vendor.
    """

    __slots__ = ("_frames", "account", "awaits_output")

    def __init__(self, *, longest: int = MAX_DOCUMENT_BYTES) -> None:
        self.account = UsageAccount()
        self.awaits_output = True
        self._frames = FrameBuffer(longest=longest)

    def feed(self, chunk: bytes) -> None:
        """Examine the frames that `chunk` completes."""
        budget = self.account.budget
        budget.start(len(chunk))
        for piece in slices(bytes(chunk)):
            if budget.exhausted:
                self._frames.stop()
                return
            unreadable = self._frames.unreadable
            frames = self._frames.feed(piece)
            budget.spend(2 * FRAME_WORK_NS * (self._frames.unreadable - unreadable))
            for frame in frames:
                if budget.spend(FRAME_WORK_NS):
                    self._take(frame)

    def finish(self, *, complete: bool) -> None:
        """Count unreadable frames; a body that ends inside a frame is not complete."""
        account, frames = self.account, self._frames
        stopped = account.budget.exhausted
        account.complete = complete and not (frames.inside or frames.broken or stopped)
        account.unreadable += frames.unreadable + (stopped or (complete and frames.inside))

    def _take(self, frame: Frame) -> None:
        account, kind = self.account, frame.headers.get(b":event-type")
        if frame.headers.get(b":message-type", b"event") != b"event":  # "exception" or "error"
            account.failed = True
            return
        account.events += 1
        data = self._unwrap(frame.payload) if kind == b"chunk" else frame.payload
        if self.awaits_output:
            self.awaits_output = not account.check_first_token(data)
        if COUNT.search(data) is not None:
            account.add_usage_events([data])
        if may_have_error(data):
            account.check_error(data)

    def _unwrap(self, payload: bytes) -> bytes:
        """Return the event of the model's vendor, or b"" if it cannot be read."""
        try:
            return _chunks.decode(payload).event
        except UNREADABLE:
            self.account.unreadable += 1
            return b""

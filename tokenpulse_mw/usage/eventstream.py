"""Parser and meter of AWS eventstream responses; bounded, and independent of the chunking.

The format is https://smithy.io/2.0/aws/amazon-eventstream.html: a prelude (lengths of the frame and
of its headers, checksum of both), headers, payload, and a checksum of all previous bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

import msgspec

from .account import UsageAccount
from .bounds import FRAME_WORK_NS, MAX_DOCUMENT_BYTES, MAX_FRAME_HEADERS
from .budget import slices
from .document import UNREADABLE
from .formats.markers import COUNT, may_have_error

_PRELUDE = struct.Struct(">III")
_CHECKSUM = struct.Struct(">I")
_SHORTEST = _PRELUDE.size + _CHECKSUM.size
# Bytes of a header's value by the number of its type. Byte arrays (6) and strings (7) are
# preceded by their length; the type of a boolean (0 and 1) is its value.
_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
_BYTES, _STRING = 6, 7


class Frame(NamedTuple):
    """The string headers and the payload of one frame."""

    headers: dict[bytes, bytes]
    payload: bytes


class FrameBuffer:
    """Buffers a stream until its frames are complete.

    Args:
        max_bytes: Maximum bytes of a frame; a longer one is skipped.

    Attributes:
        unreadable: Frames that were too long, or did not match their checksum.
        broken: A prelude was invalid; nothing more is read, as the next frame cannot be found.
    """

    __slots__ = ("_held", "_needed", "_to_skip", "broken", "max_bytes", "unreadable")

    def __init__(self, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.unreadable = 0
        self.broken = False
        self._held = bytearray()
        self._needed = _PRELUDE.size  # bytes to hold before the next frame can be read
        self._to_skip = 0  # remaining bytes of an over-long frame

    @property
    def inside(self) -> bool:
        """Return True if a frame is incomplete."""
        return bool(self._held or self._to_skip)

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that `chunk` completes."""
        if self.broken:
            return []
        skipped = min(self._to_skip, len(chunk))
        self._to_skip -= skipped
        self._held += chunk[skipped:] if skipped else chunk
        return self._frames() if len(self._held) >= self._needed else []

    def stop(self) -> None:
        """Read no more frames, and discard the buffer."""
        self.broken = True
        self._held.clear()

    def _frames(self) -> list[Frame]:
        held, frames, start = self._held, [], 0
        while len(held) - start >= _PRELUDE.size and (total := self._length(start)):
            if total > self.max_bytes:
                self.unreadable += 1
                self._to_skip = max(start + total - len(held), 0)
            elif start + total > len(held):
                break
            elif (frame := _read(bytes(held[start : start + total]))) is not None:
                frames.append(frame)
            else:
                self.unreadable += 1
            start += total
        del held[: len(held) if self.broken else start]
        self._needed = self._length(0) if len(held) >= _PRELUDE.size else _PRELUDE.size
        return frames

    def _length(self, start: int) -> int:
        """Return the size of the frame that begins at `start`, or 0 if its prelude is invalid."""
        total, headers, checksum = _PRELUDE.unpack_from(self._held, start)
        is_valid = crc32(self._held[start : start + 8]) == checksum
        if is_valid and total >= _SHORTEST + headers:
            return int(total)
        self.broken = True
        self.unreadable += 1
        return 0


def _read(message: bytes) -> Frame | None:
    """Return the frame in `message`, whose prelude is valid, or None if the rest is invalid."""
    (checksum,) = _CHECKSUM.unpack_from(message, len(message) - _CHECKSUM.size)
    if crc32(message[: -_CHECKSUM.size]) != checksum:
        return None
    _, size, _ = _PRELUDE.unpack_from(message)
    body = _PRELUDE.size + size
    try:
        headers = dict(_headers(message[_PRELUDE.size : body]))
    except (IndexError, KeyError):
        return None
    return Frame(headers, message[body : -_CHECKSUM.size])


def _headers(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers that are strings.

    Raises:
        IndexError: The headers end too early, or are too many.
        KeyError: The type of a header is unknown.
    """
    headers, offset, count = [], 0, 0
    while offset < len(data):
        count += 1
        if count > MAX_FRAME_HEADERS:
            raise IndexError(count)
        name = data[offset + 1 : offset + 1 + data[offset]]
        offset += 1 + data[offset]
        kind = data[offset]
        offset += 1
        if kind in (_BYTES, _STRING):
            size = data[offset] << 8 | data[offset + 1]
            offset += 2
            if kind == _STRING:
                headers.append((name, data[offset : offset + size]))
        else:
            size = _SIZES[kind]
        offset += size
    if offset > len(data):
        raise IndexError(offset)
    return headers


class _Chunk(msgspec.Struct):
    """An event of InvokeModel, which wraps an event of the model's vendor in base64."""

    event: bytes = msgspec.field(default=b"", name="bytes")


_chunks = msgspec.json.Decoder(_Chunk)


class EventStreamMeter:
    """Reads a response that is a stream of eventstream frames.

    Converse names its events in a header of the frame; InvokeModel wraps those of the vendor.
    """

    __slots__ = ("_frames", "account", "awaits_output")

    def __init__(self, *, max_bytes: int = MAX_DOCUMENT_BYTES) -> None:
        self.account = UsageAccount()
        self.awaits_output = True
        self._frames = FrameBuffer(max_bytes=max_bytes)

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

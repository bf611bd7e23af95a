"""Frames of AWS event streams."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.eventstream import Frame, FrameBuffer

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .bodies import frame, header, text_header

ONE = frame(text_header(":event-type", "one"), b"{}")
TWO = frame(text_header(":event-type", "two"), b'{"a": 1}')
FRAME_ONE = Frame({b":event-type": b"one"}, b"{}")
FRAME_TWO = Frame({b":event-type": b"two"}, b'{"a": 1}')

# All header types other than strings, with a value of the right size.
TYPES = {
    0: b"",
    1: b"",
    2: b"\1",
    3: b"\1\2",
    4: b"\1\2\3\4",
    5: bytes(8),
    6: b"\0\3abc",
    8: bytes(8),
    9: bytes(16),
}


def read(chunks: Iterable[bytes], *, longest: int = 10_000) -> tuple[list[Frame], FrameBuffer]:
    """Return the frames of a stream that was received in `chunks`, and the buffer."""
    buffer = FrameBuffer(longest=longest)
    frames: list[Frame] = []
    for chunk in chunks:
        frames += buffer.feed(chunk)
    return frames, buffer


def state(buffer: FrameBuffer) -> tuple[int, bool, bool]:
    """Return the attributes of a buffer that tests compare."""
    return buffer.unreadable, buffer.broken, buffer.inside


def prelude(total: int, headers: int = 0) -> bytes:
    """Return the prelude of a frame, with a valid checksum."""
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", zlib.crc32(lengths))


valid_frames = st.builds(
    lambda headers, payload: frame(b"".join(headers), payload),
    st.lists(
        st.builds(text_header, st.text("ab:-", max_size=5), st.text(max_size=9))
        | st.sampled_from([header("other", kind, value) for kind, value in TYPES.items()]),
        max_size=4,
    ),
    st.binary(max_size=60),
)
corrupt_frames = st.builds(
    lambda data, index: data[: index % len(data)] + b"?" + data[index % len(data) + 1 :],
    valid_frames,
    st.integers(0, 500),
)


@given(st.lists(valid_frames | corrupt_frames, max_size=5), st.binary(max_size=20), st.data())
def test_any_chunking_gives_the_same_frames(
    encoded: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    """Valid, corrupt, too long and cut frames are distinguished in any chunking."""
    stream = b"".join(encoded) + rest

    frames, buffer = read(data.draw(chunkings(stream)), longest=80)

    whole, expected = read([stream], longest=80)
    assert frames == whole
    assert state(buffer) == state(expected)


@given(st.lists(st.tuples(st.text("ab", max_size=5), st.binary(max_size=60)), max_size=5))
def test_frames_are_decoded_as_they_were_encoded(events: list[tuple[str, bytes]]) -> None:
    """Frames keep their string headers and their payload."""
    stream = b"".join(frame(text_header(":event-type", kind), data) for kind, data in events)

    frames, buffer = read([stream])

    assert frames == [Frame({b":event-type": kind.encode()}, data) for kind, data in events]
    assert state(buffer) == (0, False, False)


@pytest.mark.parametrize("kind", TYPES)
def test_header_of_another_type_is_skipped(kind: int) -> None:
    """Numbers, times, bytes and other types are skipped by their length."""
    headers = header("other", kind, TYPES[kind]) + text_header(":event-type", "one")

    assert read([frame(headers, b"{}")])[0] == [FRAME_ONE]


def test_frame_is_returned_with_the_byte_that_completes_it() -> None:
    """A frame is returned before the next one begins."""
    buffer = FrameBuffer(longest=1000)
    stream = ONE + TWO
    ends = [end for end in range(len(stream)) if buffer.feed(stream[end : end + 1])]

    assert ends == [len(ONE) - 1, len(stream) - 1]


@pytest.mark.parametrize("index", range(12, len(ONE)))
def test_frame_with_a_wrong_checksum_is_skipped(index: int) -> None:
    """A corrupt frame is counted as unreadable, and the next one is read."""
    corrupt = ONE[:index] + bytes([ONE[index] ^ 1]) + ONE[index + 1 :]

    frames, buffer = read([corrupt + TWO])

    assert frames == [FRAME_TWO]
    assert state(buffer) == (1, False, False)


@pytest.mark.parametrize("index", range(12))
def test_prelude_with_a_wrong_checksum_breaks_the_stream(index: int) -> None:
    """The start of the next frame is unknown, so the rest is ignored and counted once."""
    corrupt = ONE[:index] + bytes([ONE[index] ^ 1]) + ONE[index + 1 :]

    frames, buffer = read([TWO + corrupt + TWO, TWO, corrupt])

    assert frames == [FRAME_TWO]
    assert state(buffer) == (1, True, False)


@pytest.mark.parametrize(("total", "headers"), [(0, 0), (15, 0), (20, 5), (16, 2**32 - 1)])
def test_impossible_lengths_break_the_stream(total: int, headers: int) -> None:
    """A frame must have space for its headers and its two checksums."""
    frames, buffer = read([prelude(total, headers) + bytes(20) + ONE])

    assert frames == []
    assert state(buffer) == (1, True, False)


@pytest.mark.parametrize(
    "headers",
    [
        b"\5ab",
        b"\1a",
        b"\1a\7",
        b"\1a\7\0",
        b"\1a\7\0\2b",
        b"\1a\4\0\0",
        b"\1a\12",
    ],
)
def test_frame_with_malformed_headers_is_skipped(headers: bytes) -> None:
    """Cut headers and unknown types make a frame unreadable; the next one is read."""
    frames, buffer = read([frame(headers, b"{}") + TWO])

    assert frames == [FRAME_TWO]
    assert state(buffer) == (1, False, False)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_frame_above_longest_is_skipped(size: int) -> None:
    """A frame above `longest` is counted once in any chunking, and the next one is read."""
    stream = ONE + frame(b"", bytes(200)) + TWO

    frames, buffer = read(chunks_of(stream, size), longest=100)

    assert frames == [FRAME_ONE, FRAME_TWO]
    assert state(buffer) == (1, False, False)


def test_frame_of_longest_is_read() -> None:
    """A frame of exactly `longest` bytes is read."""
    assert read([ONE], longest=len(ONE))[0] == [FRAME_ONE]
    assert read([ONE], longest=len(ONE) - 1)[0] == []


@pytest.mark.parametrize("end", range(1, len(ONE)))
def test_inside_of_a_cut_frame_is_true(end: int) -> None:
    """`inside` is True if the stream ends inside a frame, even inside a skipped one."""
    assert read([TWO + ONE[:end]])[1].inside is True
    assert read([TWO + ONE])[1].inside is False
    assert read([prelude(200) + bytes(end)], longest=100)[1].inside is True


def test_frame_above_longest_is_not_held() -> None:
    """A frame of four gigabytes holds no memory."""
    buffer = FrameBuffer(longest=1000)
    buffer.feed(prelude(2**32 - 1))
    held = held_after(50, lambda: buffer.feed(bytes(10_000)))

    assert held < 20_000


@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_never_raise(chunks: list[bytes]) -> None:
    """Random bytes raise no error and give no frames."""
    frames, buffer = read(chunks)

    assert frames == []
    assert buffer.unreadable == buffer.broken

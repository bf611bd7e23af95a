"""AWS eventstream frames: any chunking gives the same frames, in bounded memory."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.eventstream import Frame, FrameBuffer

from ..support.chunks import chunkings, chunks_of
from .bodies import frame, header, text_header

ONE = frame(text_header(":event-type", "one"), b"{}")
TWO = frame(text_header(":event-type", "two"), b'{"a": 1}')
FRAME_ONE = Frame({b":event-type": b"one"}, b"{}")
FRAME_TWO = Frame({b":event-type": b"two"}, b'{"a": 1}')

# Every type of header that there is, with a value of its size.
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
    """The frames of a stream that came in these chunks."""
    buffer = FrameBuffer(longest=longest)
    frames: list[Frame] = []
    for chunk in chunks:
        frames += buffer.feed(chunk)
    return frames, buffer


def state(buffer: FrameBuffer) -> tuple[int, bool, bool]:
    """All that a buffer tells of itself."""
    return buffer.unreadable, buffer.broken, buffer.inside


def prelude(total: int, headers: int = 0) -> bytes:
    """The prelude of a frame, with a checksum that is right."""
    lengths = struct.pack(">II", total, headers)
    return lengths + struct.pack(">I", zlib.crc32(lengths))


written = st.builds(
    lambda headers, payload: frame(b"".join(headers), payload),
    st.lists(
        st.builds(text_header, st.text("ab:-", max_size=5), st.text(max_size=9))
        | st.sampled_from([header("other", kind, value) for kind, value in TYPES.items()]),
        max_size=4,
    ),
    st.binary(max_size=60),
)
corrupted = st.builds(
    lambda data, place: data[: place % len(data)] + b"?" + data[place % len(data) + 1 :],
    written,
    st.integers(0, 500),
)


@given(st.lists(written | corrupted, max_size=5), st.binary(max_size=20), st.data())
def test_any_chunking_gives_the_same_frames(
    frames: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    """Frames that are sound, corrupt, too long or cut are told apart however they come."""
    stream = b"".join(frames) + rest

    found, buffer = read(data.draw(chunkings(stream)), longest=80)

    whole, expected = read([stream], longest=80)
    assert found == whole
    assert state(buffer) == state(expected)


@given(st.lists(st.tuples(st.text("ab", max_size=5), st.binary(max_size=60)), max_size=5))
def test_every_frame_is_read_as_it_was_written(events: list[tuple[str, bytes]]) -> None:
    """The headers that are strings, and the payload."""
    stream = b"".join(frame(text_header(":event-type", kind), data) for kind, data in events)

    found, buffer = read([stream])

    assert found == [Frame({b":event-type": kind.encode()}, data) for kind, data in events]
    assert state(buffer) == (0, False, False)


@pytest.mark.parametrize("kind", TYPES)
def test_headers_that_are_no_strings_are_passed_over(kind: int) -> None:
    """Numbers, times, bytes and the like have lengths of their own."""
    headers = header("other", kind, TYPES[kind]) + text_header(":event-type", "one")

    assert read([frame(headers, b"{}")])[0] == [FRAME_ONE]


def test_a_frame_is_given_with_the_byte_that_completes_it() -> None:
    """Nobody waits for the next one."""
    buffer = FrameBuffer(longest=1000)
    stream = ONE + TWO
    ends = [end for end in range(len(stream)) if buffer.feed(stream[end : end + 1])]

    assert ends == [len(ONE) - 1, len(stream) - 1]


@pytest.mark.parametrize("place", [*range(12, len(ONE))])
def test_a_frame_that_does_not_match_its_checksum_is_skipped(place: int) -> None:
    """It is counted, and the next one is read."""
    corrupt = ONE[:place] + bytes([ONE[place] ^ 1]) + ONE[place + 1 :]

    found, buffer = read([corrupt + TWO])

    assert found == [FRAME_TWO]
    assert state(buffer) == (1, False, False)


@pytest.mark.parametrize("place", [*range(12)])
def test_a_prelude_that_does_not_match_its_checksum_ends_the_reading(place: int) -> None:
    """Nothing tells where the next frame would begin; it is counted once."""
    corrupt = ONE[:place] + bytes([ONE[place] ^ 1]) + ONE[place + 1 :]

    found, buffer = read([TWO + corrupt + TWO, TWO, corrupt])

    assert found == [FRAME_TWO]
    assert state(buffer) == (1, True, False)


@pytest.mark.parametrize(("total", "headers"), [(0, 0), (15, 0), (20, 5), (16, 2**32 - 1)])
def test_lengths_that_cannot_be_end_the_reading(total: int, headers: int) -> None:
    """A frame has room for its headers and its two checksums."""
    found, buffer = read([prelude(total, headers) + bytes(20) + ONE])

    assert found == []
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
def test_headers_that_cannot_be_read_make_a_frame_unreadable(headers: bytes) -> None:
    """They end too early, or are of a type that nobody knows; the next frame is read."""
    found, buffer = read([frame(headers, b"{}") + TWO])

    assert found == [FRAME_TWO]
    assert state(buffer) == (1, False, False)


@pytest.mark.parametrize("size", [1, 10, 1000])
def test_a_frame_that_is_too_long_is_skipped(size: int) -> None:
    """It is counted once, in whatever chunks it comes, and the next one is read."""
    stream = ONE + frame(b"", bytes(200)) + TWO

    found, buffer = read(chunks_of(stream, size), longest=100)

    assert found == [FRAME_ONE, FRAME_TWO]
    assert state(buffer) == (1, False, False)


def test_a_frame_of_the_limit_is_read() -> None:
    """`longest` itself is not too long."""
    assert read([ONE], longest=len(ONE))[0] == [FRAME_ONE]
    assert read([ONE], longest=len(ONE) - 1)[0] == []


@pytest.mark.parametrize("end", range(1, len(ONE)))
def test_a_frame_that_was_cut_is_known(end: int) -> None:
    """A stream that ends inside a frame can tell so, one that is skipped included."""
    assert read([TWO + ONE[:end]])[1].inside is True
    assert read([TWO + ONE])[1].inside is False
    assert read([prelude(200) + bytes(end)], longest=100)[1].inside is True


def test_a_frame_that_is_too_long_is_not_held() -> None:
    """A frame of four gigabytes costs no memory."""
    buffer = FrameBuffer(longest=1000)
    tracemalloc.start()
    try:
        buffer.feed(prelude(2**32 - 1))
        for _ in range(50):
            buffer.feed(bytes(10_000))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 20_000


@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_never_raise(chunks: list[bytes]) -> None:
    """Whatever a vendor sends, reading it does no harm."""
    found, buffer = read(chunks)

    assert found == []
    assert buffer.unreadable == buffer.broken

"""AWS event streams: frames, and the meter of Converse and of InvokeModel of any vendor."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.eventstream import EventStreamMeter, Frame, FrameBuffer

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after
from .bodies import (
    BEDROCK_STREAM,
    FRAMES,
    INVOKE_STREAM,
    Body,
    bedrock_chunk,
    bedrock_event,
    frame,
    header,
    measure,
    outcome,
    text_header,
)

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


def read(chunks: Iterable[bytes], *, max_bytes: int = 10_000) -> tuple[list[Frame], FrameBuffer]:
    """Return the frames of a stream that was received in `chunks`, and the buffer."""
    buffer = FrameBuffer(max_bytes=max_bytes)
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

    frames, buffer = read(data.draw(chunkings(stream)), max_bytes=80)

    whole, expected = read([stream], max_bytes=80)
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
    buffer = FrameBuffer(max_bytes=1000)
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
def test_frame_above_max_bytes_is_skipped(size: int) -> None:
    """A frame above `max_bytes` is counted once in any chunking, and the next one is read."""
    stream = ONE + frame(b"", bytes(200)) + TWO

    frames, buffer = read(chunks_of(stream, size), max_bytes=100)

    assert frames == [FRAME_ONE, FRAME_TWO]
    assert state(buffer) == (1, False, False)


def test_frame_of_max_bytes_is_read() -> None:
    """A frame of exactly `max_bytes` bytes is read."""
    assert read([ONE], max_bytes=len(ONE))[0] == [FRAME_ONE]
    assert read([ONE], max_bytes=len(ONE) - 1)[0] == []


@pytest.mark.parametrize("end", range(1, len(ONE)))
def test_inside_of_a_cut_frame_is_true(end: int) -> None:
    """`inside` is True if the stream ends inside a frame, even inside a skipped one."""
    assert read([TWO + ONE[:end]])[1].inside is True
    assert read([TWO + ONE])[1].inside is False
    assert read([prelude(200) + bytes(end)], max_bytes=100)[1].inside is True


def test_frame_above_max_bytes_is_not_held() -> None:
    """A frame of four gigabytes holds no memory."""
    buffer = FrameBuffer(max_bytes=1000)
    buffer.feed(prelude(2**32 - 1))
    held = held_after(50, lambda: buffer.feed(bytes(10_000)))

    assert held < 20_000


@given(st.lists(st.binary(max_size=40)))
def test_random_bytes_never_raise(chunks: list[bytes]) -> None:
    """Random bytes raise no error and give no frames."""
    frames, buffer = read(chunks)

    assert frames == []
    assert buffer.unreadable == buffer.broken


OUTPUT = bedrock_event("contentBlockDelta", {"delta": {"text": "Paris."}})
USAGE = bedrock_event("metadata", {"usage": {"inputTokens": 3, "outputTokens": 4}})
METRICS = "amazon-bedrock-invocationMetrics"


def exception(kind: str, name: str) -> bytes:
    """Return a frame that reports a failure."""
    headers = text_header(":message-type", kind) + text_header(name, "throttlingException")
    return frame(headers, b'{"message": "Too many requests"}')


@pytest.mark.parametrize(
    "failure",
    [
        exception("exception", ":exception-type"),
        exception("error", ":error-code"),
        bedrock_chunk({"type": "error", "error": {"type": "overloaded_error"}}),
    ],
)
def test_exception_or_error_fails(failure: bytes) -> None:
    """Bedrock reports a failure by the message type, the vendor of the model in an event."""
    account = measure(FRAMES, [OUTPUT + failure])

    assert outcome(account) == (None, "missing", None, True, 0)
    assert measure(FRAMES, [OUTPUT + failure + OUTPUT]).failed is True


def test_usage_before_an_exception_is_partial() -> None:
    """Usage that precedes an exception may be incomplete."""
    account = measure(FRAMES, [USAGE + exception("exception", ":exception-type")])

    assert (account.usage, account.source) == (TokenUsage(input=3, output=4), "partial")


@pytest.mark.parametrize(
    ("before", "output"),
    [
        (
            bedrock_event("contentBlockDelta", {"delta": {"toolUse": {"input": ""}}}),
            bedrock_event("contentBlockDelta", {"delta": {"toolUse": {"input": "{"}}}),
        ),
        (
            bedrock_chunk({"messageStart": {"role": "assistant"}}),
            bedrock_chunk({"contentBlockDelta": {"delta": {"text": "P"}, "contentBlockIndex": 0}}),
        ),
        (bedrock_chunk({"generation": ""}), bedrock_chunk({"generation": "P"})),
        (
            bedrock_event("assistantResponseEvent", {"content": "", "modelId": "claude"}),
            bedrock_event("assistantResponseEvent", {"content": "P", "modelId": "claude"}),
        ),
    ],
    ids=["converse", "nova", "llama", "kiro"],
)
def test_awaits_output_ends_with_the_first_output(before: bytes, output: bytes) -> None:
    """Output of Converse, InvokeModel and Kiro is recognized; empty text is not output."""
    meter = EventStreamMeter()
    awaiting = []

    for chunk in (before, output):
        meter.feed(chunk)
        awaiting.append(meter.awaits_output)

    assert awaiting == [True, False]
    assert meter.account.is_response is True


def test_output_that_looks_like_an_error_does_not_fail() -> None:
    """Output is inside a string, or inside the arguments of a tool."""
    output = bedrock_chunk({"type": "content_block_delta", "delta": {"error": {"code": 1}}})

    assert measure(FRAMES, [OUTPUT, output, USAGE]).failed is False


def test_output_that_looks_like_usage_is_ignored() -> None:
    """Only the usage of the metadata counts."""
    usage = {"inputTokens": 99, "outputTokens": 99}
    output = bedrock_event("contentBlockDelta", {"delta": {"toolUse": {"usage": usage}}})

    assert measure(FRAMES, [output, USAGE, output]).usage == TokenUsage(input=3, output=4)
    assert measure(FRAMES, [output]).usage is None


def test_invocation_metrics_count_without_usage_of_the_vendor() -> None:
    """Bedrock adds metrics to the last event of every vendor's model."""
    metrics = {
        "inputTokenCount": 10,
        "outputTokenCount": 40,
        "cacheReadInputTokenCount": 30,
        "cacheWriteInputTokenCount": 5,
        "invocationLatency": 900,
    }
    account = measure(
        FRAMES, [bedrock_chunk({"outputText": "Paris."}), bedrock_chunk({METRICS: metrics})]
    )

    expected = TokenUsage(input=45, output=40, cache_read=30, cache_write=5)
    assert outcome(account) == (expected, "reported", None, False, 0)


def test_invocation_metrics_do_not_override_final_usage() -> None:
    """Metrics replace only usage that the vendor has not made final."""
    metrics = bedrock_chunk({METRICS: {"inputTokenCount": 7, "outputTokenCount": 8}})
    start = bedrock_chunk(
        {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 3}}}
    )
    delta = bedrock_chunk({"type": "message_delta", "usage": {"output_tokens": 4}})

    assert measure(FRAMES, [start, delta, metrics]).usage == TokenUsage(input=3, output=4)
    account = measure(FRAMES, [start, metrics])
    assert outcome(account) == (TokenUsage(input=7, output=8), "reported", "claude", False, 0)


def test_invocation_metrics_add_missing_input() -> None:
    """Some hosts send no usage in the first event, and only the output in the last one."""
    start = bedrock_chunk(
        {"type": "message_start", "message": {"type": "message", "model": "claude"}}
    )
    delta = bedrock_chunk({"type": "message_delta", "usage": {"output_tokens": 50}})
    counts = {
        "inputTokenCount": 100,
        "outputTokenCount": 50,
        "cacheReadInputTokenCount": 80,
        "cacheWriteInputTokenCount": 20,
    }
    stop = bedrock_chunk({"type": "message_stop", METRICS: counts})

    account = measure(FRAMES, [start, delta, stop])

    expected = TokenUsage(input=200, output=50, cache_read=80, cache_write=20)
    assert (account.usage, account.source, account.unreadable) == (expected, "reported", 0)


@pytest.mark.parametrize("payload", [b"{", b'{"bytes": 7}', b'{"bytes": "?"}', b"[]"])
def test_malformed_chunk_is_unreadable(payload: bytes) -> None:
    """A malformed chunk is counted, and the rest of the stream counts."""
    headers = text_header(":event-type", "chunk")

    account = measure(FRAMES, [USAGE, frame(headers, payload)])

    assert outcome(account) == (TokenUsage(input=3, output=4), "reported", None, False, 1)


def test_chunk_without_bytes_is_ignored() -> None:
    """A chunk without bytes is neither unreadable nor a failure."""
    headers = text_header(":event-type", "chunk")

    assert outcome(measure(FRAMES, [frame(headers, b"{}")])) == (None, "missing", None, False, 0)


def test_malformed_metadata_is_unreadable() -> None:
    """Metadata with malformed usage is counted as unreadable."""
    broken = frame(text_header(":event-type", "metadata"), b'{"usage": {"inputTokens": oops')

    assert outcome(measure(FRAMES, [broken])) == (None, "missing", None, False, 1)


def test_usage_in_a_frame_without_headers_counts() -> None:
    """A frame needs no headers to be read as an event."""
    payload = json.dumps({"usage": {"inputTokens": 3, "outputTokens": 4}}).encode()

    assert measure(FRAMES, [frame(b"", payload)]).usage == TokenUsage(input=3, output=4)


def test_usage_before_a_cut_frame_is_partial() -> None:
    """A body that ends inside a frame is not complete, even if the server ends it."""
    for rest, unreadable in ((OUTPUT[:5], 1), (OUTPUT[:-1], 1), (b"?" * 12, 1), (b"", 0)):
        account = measure(FRAMES, [USAGE + rest])

        source = "partial" if rest else "reported"
        assert outcome(account) == (TokenUsage(input=3, output=4), source, None, False, unreadable)


def test_frame_above_max_bytes_is_unreadable() -> None:
    """A frame above `max_bytes` is counted, and the other frames are read."""
    meter = EventStreamMeter(max_bytes=200)

    meter.feed(bedrock_event("contentBlockDelta", {"delta": {"text": "x" * 200}}) + USAGE)
    meter.finish(complete=True)

    assert meter.awaits_output is True
    assert outcome(meter.account) == (TokenUsage(input=3, output=4), "reported", None, False, 1)


@pytest.mark.parametrize("body", [BEDROCK_STREAM, INVOKE_STREAM])
def test_any_changed_byte_is_detected(body: Body) -> None:
    """A changed byte makes one frame unreadable and never increases the usage."""
    data = body.data
    for index in range(0, len(data), 7):
        corrupt = data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :]
        account = measure(FRAMES, [corrupt])

        assert account.unreadable == 1
        assert (account.usage or TokenUsage()).input <= body.usage.input

"""Meter of AWS event streams: Converse, and InvokeModel of any vendor."""

from __future__ import annotations

import json

import pytest

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.eventstream_meter import EventStreamMeter

from .bodies import (
    BEDROCK_STREAM,
    FRAMES,
    INVOKE_STREAM,
    Body,
    bedrock_chunk,
    bedrock_event,
    frame,
    measure,
    outcome,
    text_header,
)

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


def test_frame_above_longest_is_unreadable() -> None:
    """A frame above `longest` is counted, and the other frames are read."""
    meter = EventStreamMeter(longest=200)

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

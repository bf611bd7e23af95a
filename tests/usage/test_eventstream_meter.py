"""The meter of AWS eventstream answers: Converse, and InvokeModel of any vendor."""

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
    """A frame that tells of a failure."""
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
def test_an_exception_is_a_failure(failure: bytes) -> None:
    """Bedrock tells of it by the kind of the message, the model's vendor in an event."""
    account = measure(FRAMES, [OUTPUT + failure])

    assert outcome(account) == (None, "missing", None, True, 0)
    assert measure(FRAMES, [OUTPUT + failure + OUTPUT]).failed is True


def test_what_was_said_before_an_exception_is_partial() -> None:
    """It may not be all."""
    account = measure(FRAMES, [USAGE + exception("exception", ":exception-type")])

    assert (account.usage, account.source) == (TokenUsage(input=3, output=4), "partial")


@pytest.mark.parametrize(
    ("before", "words"),
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
def test_waiting_ends_with_the_first_words(before: bytes, words: bytes) -> None:
    """Of Converse, of InvokeModel, and of Kiro; an empty piece is none of them."""
    meter = EventStreamMeter()
    waiting = []

    for piece in (before, words):
        meter.feed(piece)
        waiting.append(meter.awaits_output)

    assert waiting == [True, False]
    assert meter.account.is_response is True


def test_a_word_that_looks_like_an_error_is_no_failure() -> None:
    """What the model writes stands inside a string, or inside the arguments of a tool."""
    words = bedrock_chunk({"type": "content_block_delta", "delta": {"error": {"code": 1}}})

    assert measure(FRAMES, [OUTPUT, words, USAGE]).failed is False


def test_a_usage_inside_of_what_the_model_wrote_is_only_text() -> None:
    """Only the metadata's own usage counts."""
    said = {"inputTokens": 99, "outputTokens": 99}
    words = bedrock_event("contentBlockDelta", {"delta": {"toolUse": {"usage": said}}})

    assert measure(FRAMES, [words, USAGE, words]).usage == TokenUsage(input=3, output=4)
    assert measure(FRAMES, [words]).usage is None


def test_the_metrics_of_an_invocation_count_where_the_vendor_is_silent() -> None:
    """Bedrock adds them to the last event of every vendor's model."""
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


def test_the_metrics_of_an_invocation_yield_to_the_vendors_last_word() -> None:
    """They complete a count that the vendor would have corrected, and no other."""
    metrics = bedrock_chunk({METRICS: {"inputTokenCount": 7, "outputTokenCount": 8}})
    start = bedrock_chunk(
        {"type": "message_start", "message": {"model": "claude", "usage": {"input_tokens": 3}}}
    )
    delta = bedrock_chunk({"type": "message_delta", "usage": {"output_tokens": 4}})

    assert measure(FRAMES, [start, delta, metrics]).usage == TokenUsage(input=3, output=4)
    account = measure(FRAMES, [start, metrics])
    assert outcome(account) == (TokenUsage(input=7, output=8), "reported", "claude", False, 0)


def test_the_metrics_of_an_invocation_tell_the_input_that_claude_leaves_out() -> None:
    """Some hosts' first event has no usage, and the last of the model's own only the output."""
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
def test_a_chunk_that_cannot_be_read_is_counted(payload: bytes) -> None:
    """The rest of the stream counts."""
    headers = text_header(":event-type", "chunk")

    account = measure(FRAMES, [USAGE, frame(headers, payload)])

    assert outcome(account) == (TokenUsage(input=3, output=4), "reported", None, False, 1)


def test_a_chunk_without_bytes_says_nothing() -> None:
    """It is no failure either."""
    headers = text_header(":event-type", "chunk")

    assert outcome(measure(FRAMES, [frame(headers, b"{}")])) == (None, "missing", None, False, 0)


def test_metadata_that_cannot_be_read_is_counted() -> None:
    """It should have told the usage."""
    broken = frame(text_header(":event-type", "metadata"), b'{"usage": {"inputTokens": oops')

    assert outcome(measure(FRAMES, [broken])) == (None, "missing", None, False, 1)


def test_a_frame_without_headers_is_an_event() -> None:
    """What is said counts, whatever it is called."""
    payload = json.dumps({"usage": {"inputTokens": 3, "outputTokens": 4}}).encode()

    assert measure(FRAMES, [frame(b"", payload)]).usage == TokenUsage(input=3, output=4)


def test_an_answer_that_ends_inside_a_frame_is_not_whole() -> None:
    """Though the body came to its end, what it told may not be all."""
    for rest, unreadable in ((OUTPUT[:5], 1), (OUTPUT[:-1], 1), (b"?" * 12, 1), (b"", 0)):
        account = measure(FRAMES, [USAGE + rest])

        source = "partial" if rest else "reported"
        assert outcome(account) == (TokenUsage(input=3, output=4), source, None, False, unreadable)


def test_a_frame_that_is_too_long_is_counted() -> None:
    """Nothing of it is kept, and the others count."""
    meter = EventStreamMeter(longest=200)

    meter.feed(bedrock_event("contentBlockDelta", {"delta": {"text": "x" * 200}}) + USAGE)
    meter.finish(complete=True)

    assert meter.awaits_output is True
    assert outcome(meter.account) == (TokenUsage(input=3, output=4), "reported", None, False, 1)


@pytest.mark.parametrize("body", [BEDROCK_STREAM, INVOKE_STREAM])
def test_each_byte_of_a_stream_is_guarded(body: Body) -> None:
    """A byte that was changed on its way is known, and invents no usage."""
    data = body.data
    for place in range(0, len(data), 7):
        corrupt = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        account = measure(FRAMES, [corrupt])

        assert account.unreadable == 1
        assert (account.usage or TokenUsage()).input <= body.usage.input

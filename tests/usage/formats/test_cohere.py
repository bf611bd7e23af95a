"""Cohere v2 chat."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.document import read
from tokenpulse_mw.usage.formats import find_usage, has_error, is_response

from ..bodies import JSON, SSE, document, event, measure

TOKENS = {"input_tokens": 70, "output_tokens": 43}
BILLED = {"input_tokens": 4, "output_tokens": 40}


def message_end(delta: Any) -> dict[str, Any]:
    """Return the last event of a stream."""
    return {"type": "message-end", "delta": delta}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"tokens": TOKENS, "billed_units": BILLED}, TokenUsage(input=70, output=43)),
        ({"billed_units": BILLED}, TokenUsage(input=4, output=40)),
        ({"tokens": None, "billed_units": BILLED}, TokenUsage(input=4, output=40)),
        ({"tokens": TOKENS, "cached_tokens": 64}, TokenUsage(70, 43, cache_read=64)),
        ({"tokens": {"input_tokens": 70.0, "output_tokens": 43.0}}, TokenUsage(70, 43)),
        ({"tokens": {"output_tokens": 43}}, TokenUsage(output=43)),
    ],
)
def test_usage_is_counted_the_same_in_json_and_in_a_stream(
    usage: dict[str, Any], expected: TokenUsage
) -> None:
    """All tokens are counted; billed units only count if they are alone."""
    body = json.dumps({"id": "c-1", "finish_reason": "COMPLETE", "usage": usage}).encode()
    stream = event(message_end({"finish_reason": "COMPLETE", "usage": usage}), "message-end")

    for account in (measure(JSON, [body]), measure(SSE, [stream])):
        assert (account.usage, account.source) == (expected, "reported")


@pytest.mark.parametrize(
    "body",
    [
        {"response_id": "r", "text": "Hi", "meta": {"billed_units": BILLED, "tokens": TOKENS}},
        {"id": "e", "embeddings": [[0.5]], "meta": {"billed_units": TOKENS}},
        {"event_type": "stream-end", "response": {"meta": {"tokens": TOKENS}}},
    ],
    ids=["chat", "embeddings", "stream"],
)
def test_usage_of_version_1_is_in_meta(body: dict[str, Any]) -> None:
    """Responses of the older API report the same counts in another field."""
    account = measure(JSON, [json.dumps(body).encode()])

    assert (account.usage, account.source) == (TokenUsage(70, 43), "reported")
    assert account.is_response


@pytest.mark.parametrize(
    "payload",
    [
        {"usage": {"tokens": {}, "billed_units": {"search_units": 1}}},
        {"usage": {"tokens": 7}},
        {"type": "message-end"},
        message_end(None),
        message_end("done"),
        message_end([{"usage": {"tokens": TOKENS}}]),
        message_end({"finish_reason": "COMPLETE"}),
        message_end({"usage": None}),
        message_end({"usage": {"tokens": TOKENS}, "values": [0] * 2000}),
        {"type": "content-end", "delta": {"usage": {"tokens": TOKENS}}},
    ],
)
def test_document_without_token_counts_has_no_usage(payload: dict[str, Any]) -> None:
    """Usage is an object with tokens or billed units in its specified field."""
    assert find_usage(document(payload)) is None


def test_delta_that_is_not_json_has_no_usage() -> None:
    """A raw field with invalid JSON gives no usage."""
    (message,) = read(b'{"type": "message-end", "delta": {"usage": "\xff"}}')

    assert find_usage(message) is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"type": "message-start", "id": "c-1"}, True),
        ({"message": {"role": "assistant", "content": []}}, True),
        ({"message": {"role": "user"}}, False),
        ({"message": "assistant"}, False),
        ({"type": "content-start"}, False),
    ],
)
def test_response_is_recognized_by_its_shape(payload: dict[str, Any], expected: bool) -> None:
    """Responses of Cohere are recognized without a model name."""
    assert is_response(document(payload)) is expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (message_end({"finish_reason": "ERROR", "error": "out of memory"}), True),
        (message_end({"finish_reason": "COMPLETE"}), False),
        ({"type": "content-delta", "delta": {"error": "quoted"}}, False),
    ],
)
def test_error_of_a_stream_is_in_its_last_event(payload: dict[str, Any], expected: bool) -> None:
    """Only the last event reports an error of the model."""
    assert has_error(document(payload)) is expected
    assert measure(SSE, [event(payload)]).failed is expected

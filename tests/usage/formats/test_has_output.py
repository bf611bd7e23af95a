"""Recognition of model output in stream events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenpulse_mw.usage.document import UNREADABLE, read_events
from tokenpulse_mw.usage.formats import has_output


def payload_has_output(payload: Any) -> bool:
    """Return True if the event of `payload` has output."""
    (event,) = read_events(json.dumps(payload).encode())
    return has_output(event)


@pytest.mark.parametrize(
    "payload",
    [
        {"choices": [{"delta": {"content": "P"}}]},
        {"choices": [{"delta": {"reasoning_content": "Hm"}}]},
        {"choices": [{"delta": {"reasoning": "Hm"}}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 0}]}}]},
        {"choices": [{"delta": {"refusal": "No"}}]},
        {"choices": [{"text": "P"}]},
        {"choices": [{"delta": {}}, {"delta": {"content": "P"}}]},
        {"type": "response.output_text.delta", "delta": "P"},
        {"type": "response.reasoning_summary_text.delta", "delta": "Hm"},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "P"}},
        {"choices": [{"delta": {"function_call": {"name": "add"}}}]},
        {"choices": [{"delta": {"audio": {"data": "AAAA"}}}]},
        {"candidates": [{"content": {"parts": [{"text": "P"}]}}]},
        {"response": {"candidates": [{"content": {"parts": [{"text": "P"}]}}]}},
        {"output": {"text": "P", "finish_reason": "null"}},
        {"output": {"choices": [{"message": {"content": "P"}}]}},
        {"output": {"choices": [{"message": {"reasoning_content": "Hm"}}]}},
        {"choices": [{"delta": {"content": "", "reasoning_details": [{"data": "x"}]}}]},
        {"choices": [{"delta": {"content": "", "images": [{"type": "image_url"}]}}]},
        {"choices": [{"delta": {"thinking": "Hm"}}]},
        {"choices": [{"message": {"content": "P"}}]},
        {"type": "chunk", "choices": [{"delta": {"content": "P"}}]},
        {"candidates": [{"content": {"parts": [{"functionCall": {"name": "add"}}]}}]},
        {
            "response": {"candidates": [{"content": {"parts": [{"text": "P"}]}}]},
            "usageMetadata": {},
        },
        {"type": "content_block_delta", "delta": {"partial_json": "{"}},
        {"type": "content-delta", "delta": {"message": {"content": {"text": "P"}}}},
        {"type": "text-delta", "id": "0", "delta": "P"},
        {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": "P"}}]}},
        {"contentBlockIndex": 0, "delta": {"text": "P"}, "p": "abc"},
        {"contentBlockDelta": {"delta": {"text": "P"}, "contentBlockIndex": 0}},
        {"generation": "P", "prompt_token_count": 9},
        {"outputText": "P", "index": 0},
        {"outputs": [{"text": "P", "stop_reason": None}]},
        {"event_type": "text-generation", "text": "P"},
        {"type": "completion", "completion": "P"},
        {"content": "P", "modelId": "claude"},
    ],
)
def test_event_with_model_output_has_output(payload: dict[str, Any]) -> None:
    """Text, reasoning, tool calls and refusals are output."""
    assert payload_has_output(payload) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"choices": [None]},
        {"choices": [{"delta": None}]},
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"content": None, "tool_calls": []}}]},
        {"choices": [{"text": ""}]},
        {"type": "response.created"},
        {"type": "response.output_text.done"},
        {"type": "message_start"},
        {"type": "message_delta"},
        {"type": "content_block_start"},
        {"type": "ping"},
        {"candidates": [{"content": {"role": "model"}}]},
        {"candidates": [{"content": {"parts": []}}]},
        {"candidates": [{"finishReason": "STOP"}]},
        {"candidates": {}, "usageMetadata": {}},
        {"candidates": [{"content": {"parts": [None]}}]},
        {"response": {"usageMetadata": {}}},
        {"output": None},
        {"output": [{"type": "message"}]},
        {"output": {"text": ""}},
        {"output": {"text": "", "choices": None}},
        {"output": {"choices": [None, {"message": {"content": ""}}]}},
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": ""}},
        {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": ""}},
        {"type": "content_block_delta"},
        {"type": "response.output_text.delta", "delta": ""},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        {"type": "message-start", "delta": {"message": {"role": "assistant"}}},
        {"type": 7, "delta": "P"},
        {"contentBlockIndex": 0, "delta": {"toolUse": {"input": ""}}, "p": "abc"},
        {"delta": {"role": "assistant", "content": []}},
        {"candidates": [{"content": {"parts": [{"text": ""}]}}]},
        {"generation": "", "stop_reason": "stop"},
        {"outputs": [{"text": "", "stop_reason": "stop"}]},
        {"event_type": "stream-start", "text": "P"},
        {"type": "status", "content": "searching"},
        {"content": ["P"]},
        {"type": "response.created", "response": {"object": "response", "text": {"format": 1}}},
    ],
)
def test_event_without_model_output_has_no_output(payload: Any) -> None:
    """Roles, empty parts and the vendor's own events are not output."""
    assert payload_has_output(payload) is False


@pytest.mark.parametrize("data", [b"{}", b'{"delta": "P"}'])
def test_array_of_events_is_decoded(data: bytes) -> None:
    """An array of events, as streamed by Gemini, is decoded into events."""
    events = read_events(b"[{}, %s]" % data)

    assert [has_output(event) for event in events] == [False, data != b"{}"]


def test_output_that_is_not_json_raises() -> None:
    """Raw output with invalid JSON raises UNREADABLE."""
    (event,) = read_events(b'{"delta": {"text": "\xff"}}')

    with pytest.raises(UNREADABLE):
        has_output(event)

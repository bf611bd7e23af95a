"""Whether an event of a stream carries words of the model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tokenpulse_mw.usage import answer
from tokenpulse_mw.usage.words import speaks


def spoken(payload: Any) -> bool:
    """Whether the document that `payload` is carries words."""
    (document,) = answer.read(json.dumps(payload).encode())
    return speaks(document)


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
    ],
)
def test_an_event_with_words_of_the_model_speaks(payload: dict[str, Any]) -> None:
    """Text, reasoning, a tool call and a refusal are all written by the model."""
    assert spoken(payload) is True


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
    ],
)
def test_an_event_around_the_words_does_not_speak(payload: Any) -> None:
    """Roles, empty pieces and events of the vendor's own are not the model's words."""
    assert spoken(payload) is False

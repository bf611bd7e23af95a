"""What one JSON document says of its usage, its model, its first words and its error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import answer
from tokenpulse_mw.usage.answer import Statement

CHAT = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COUNTS = {"input_tokens": 3, "output_tokens": 4}
TOTALS = {**COUNTS, "total_tokens": 7}


def document(payload: dict[str, Any]) -> answer.Document:
    """The one document that `payload` is."""
    (only,) = answer.read(json.dumps(payload).encode())
    return only


def test_a_document_is_an_object_or_an_array_of_them() -> None:
    """Gemini streams an array of documents."""
    models = [answer.model(each) for each in answer.read(b'[{"model": "a"}, {"model": "b"}]')]

    assert models == ["a", "b"]
    assert answer.read(b"[]") == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"7", b'"text"', b"[1]", b"[DONE]", b"[{}, 1]", b"\xff", b"{}{}"]
)
def test_anything_else_is_unreadable(data: bytes) -> None:
    """What is no JSON, or neither an object nor an array of objects, raises UNREADABLE."""
    with pytest.raises(answer.UNREADABLE):
        answer.read(data)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"usage": CHAT}, Statement("openai-chat", CHAT)),
        ({"usage": None, "x_groq": {"usage": CHAT}}, Statement("openai-chat", CHAT)),
        ({"usage": CHAT, "x_groq": {"usage": {"n": 1}}}, Statement("openai-chat", CHAT)),
        ({"object": "response", "usage": TOTALS}, Statement("openai-responses", TOTALS)),
        ({"object": "response", "usage": COUNTS}, Statement("openai-responses", COUNTS)),
        ({"output": {}, "usage": TOTALS}, Statement("openai-responses", TOTALS)),
        (
            {"type": "response.completed", "response": {"object": "response", "usage": TOTALS}},
            Statement("openai-responses", TOTALS),
        ),
        ({"type": "message", "usage": COUNTS}, Statement("anthropic", COUNTS)),
        (
            {"type": "message_start", "message": {"usage": COUNTS}},
            Statement("anthropic", COUNTS, merges=True, final=False),
        ),
        (
            {"type": "message_delta", "usage": {"output_tokens": 9}},
            Statement("anthropic", {"output_tokens": 9}, merges=True),
        ),
        ({"usageMetadata": {"promptTokenCount": 1}}, Statement("gemini", {"promptTokenCount": 1})),
        ({"usage": {"inputTokens": 1}}, Statement("bedrock-converse", {"inputTokens": 1})),
        ({"usage": {"outputTokens": 1}}, Statement("bedrock-converse", {"outputTokens": 1})),
    ],
)
def test_usage_is_known_by_its_fields(payload: dict[str, Any], expected: Statement) -> None:
    """Each family is told apart by the names it uses, wherever it puts them."""
    assert answer.statement(document(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": 7},
        {"usage": [CHAT]},
        {"usageMetadata": None},
        {"x_groq": {"id": "req"}},
        {"x_groq": {"usage": None}},
        {"x_groq": "none"},
        {"type": "message_start"},
        {"type": "message_start", "message": {}},
        {"type": "message_start", "message": {"usage": None}},
        {"type": "response.created", "response": {"object": "response", "usage": None}},
        {"type": "response.created", "response": None},
        {"message": {"usage": CHAT}},
        {"choices": [{"usage": CHAT}]},
    ],
)
def test_usage_that_is_absent_says_nothing(payload: dict[str, Any]) -> None:
    """Null, an empty object, anything else, or an object somewhere below is no statement."""
    assert answer.statement(document(payload)) is None


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"model": "gpt-5"}, "gpt-5"),
        ({"modelVersion": "gemini-2.5-pro"}, "gemini-2.5-pro"),
        ({"type": "message_start", "message": {"model": "claude-opus-4"}}, "claude-opus-4"),
        ({"type": "response.created", "response": {"model": "gpt-5"}}, "gpt-5"),
        ({}, None),
        ({"model": None}, None),
        ({"model": 5}, None),
        ({"model": {"name": "gpt-5"}}, None),
        ({"message": {}}, None),
        ({"message": "hello"}, None),
    ],
)
def test_the_model_is_who_says_it_answered(payload: dict[str, Any], expected: str | None) -> None:
    """The model's name stands in a field of its own, which the vendors put in different places."""
    assert answer.model(document(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        {"error": {"message": "overloaded"}},
        {"error": "overloaded"},
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"type": "error"},
        {"type": "response.failed", "response": {"error": None}},
        {"type": "response.failed"},
        {"type": "response.incomplete", "response": {"error": {"code": "server_error"}}},
    ],
)
def test_an_error_is_told_in_the_document(payload: dict[str, Any]) -> None:
    """Vendors report an error under `error`, or by the type of the event."""
    assert answer.failed(document(payload)) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"error": None},
        {"type": "message_stop"},
        {"type": "response.completed", "response": {"error": None}},
        {"choices": [{"error": {"message": "quoted"}}]},
    ],
)
def test_no_error_is_no_failure(payload: dict[str, Any]) -> None:
    """An `error` of null, or one inside of what the model wrote, is none."""
    assert answer.failed(document(payload)) is False


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
        {"candidates": [{"content": {"parts": [{"text": "P"}]}}]},
    ],
)
def test_an_event_with_words_of_the_model_speaks(payload: dict[str, Any]) -> None:
    """Text, reasoning, a tool call and a refusal are all written by the model."""
    assert answer.speaks(json.dumps(payload).encode()) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        7,
        [{"choices": [{"delta": {"content": "P"}}]}],
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
    ],
)
def test_an_event_around_the_words_does_not_speak(payload: Any) -> None:
    """Roles, empty pieces and events of the vendor's own are not the model's words."""
    assert answer.speaks(json.dumps(payload).encode()) is False


@pytest.mark.parametrize("data", [b"", b"[DONE]", b"{", b"\xff", b'"\xff"'])
def test_what_is_no_json_does_not_speak(data: bytes) -> None:
    """Markers and garbage are not the model's words."""
    assert answer.speaks(data) is False


@pytest.mark.parametrize("field", ["usage", "response", "choices"])
def test_nesting_without_end_is_unreadable(field: str) -> None:
    """A document nested deeper than can be followed is one that cannot be read."""
    data = b'{"%s": %s' % (field.encode(), b'{"a":' * 100_000)

    assert answer.speaks(data) is False
    with pytest.raises(answer.UNREADABLE):
        answer.read(data)


fields = [*answer.Document.__struct_fields__, "choices", "delta", "content", "candidates", "parts"]
names = st.sampled_from([*fields, "text", "message_start", "message_delta", "response.failed"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | names | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(names, values))
def test_any_object_can_be_asked(payload: dict[str, Any]) -> None:
    """Whatever stands in the fields, every question has an answer."""
    data = json.dumps(payload).encode()

    for each in answer.read(data):
        said = answer.statement(each)
        assert said is None or type(said.fields) is dict
        assert type(answer.model(each)) in (str, type(None))
        assert type(answer.failed(each)) is bool
    assert type(answer.speaks(data)) is bool

"""What one JSON document says of its usage, its model and its error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import answer
from tokenpulse_mw.usage.answer import Statement
from tokenpulse_mw.usage.words import speaks

CHAT = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COUNTS = {"input_tokens": 3, "output_tokens": 4}
TOTALS = {**COUNTS, "total_tokens": 7}
ZEROS = {"input_tokens": 0, "output_tokens": 0}
METRICS = "amazon-bedrock-invocationMetrics"
INVOCATION = {"inputTokenCount": 3, "outputTokenCount": 4}


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
        (
            {"response": {"usageMetadata": {"promptTokenCount": 1}}, "traceId": "t"},
            Statement("gemini", {"promptTokenCount": 1}),
        ),
        ({"response": {"usage": {"n": 1}}, "usage": CHAT}, Statement("openai-chat", CHAT)),
        ({"response": "Paris", "usage": CHAT}, Statement("openai-chat", CHAT)),
        ({"type": "message", "usage": TOTALS}, Statement("anthropic", TOTALS)),
        ({"type": "message", "usage": CHAT}, Statement("openai-chat", CHAT)),
        ({"usage": {**CHAT, **ZEROS}}, Statement("openai-chat", {**CHAT, **ZEROS})),
        (
            {"usage": {"prompt_tokens": 0, "completion_tokens": 0, **TOTALS}},
            Statement("openai-responses", {"prompt_tokens": 0, "completion_tokens": 0, **TOTALS}),
        ),
        ({"usage": {"prompt_tokens": 0}}, Statement("openai-chat", {"prompt_tokens": 0})),
        (
            {"type": "message_delta", "usage": {"iterations": [COUNTS]}},
            Statement("anthropic", {"iterations": [COUNTS]}, merges=True),
        ),
        ({METRICS: INVOCATION}, Statement("bedrock-converse", INVOCATION, yields=True)),
        ({METRICS: INVOCATION, "usage": CHAT}, Statement("openai-chat", CHAT)),
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
        {"usage": {"prompt_tokens": None, "completion_tokens": None}},
        {"usage": {"prompt_tokens": "3", "input_tokens": 3.0}},
        {"usage": {"type": "duration", "seconds": 3}},
        {"usageMetadata": None},
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
        {METRICS: None},
        {METRICS: {"invocationLatency": 3}},
        {"type": "message_start", "message": {"usage": {"input_tokens": None}}},
        {"type": "message_start", "message": {"usage": [3]}},
        {"type": "message", "usage": {"service_tier": "standard"}},
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
        ({"response": {"modelVersion": "gemini-2.5-pro"}}, "gemini-2.5-pro"),
        ({"model": ""}, None),
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
        {"response": {"candidates": []}, "error": {"code": 500}},
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


@pytest.mark.parametrize("data", [b"", b"{", b"7", b"\xff", b'{"error": null}', b"[{}]"])
def test_bytes_without_an_error_tell_of_none(data: bytes) -> None:
    """What is no document, or one without an error, is no failure."""
    assert answer.tells_of_error(data) is False


def test_bytes_may_tell_of_an_error() -> None:
    """A document, or an array of them, that holds an error tells of it."""
    assert answer.tells_of_error(b'{"error": "overloaded"}') is True
    assert answer.tells_of_error(b'[{}, {"error": {"code": 503}}]') is True


@given(st.lists(st.sampled_from([b"token", b"oken", b"s", b"Count", b'"', b"x", b"_"])))
def test_the_last_count_is_found(pieces: list[bytes]) -> None:
    """Of both spellings, wherever it is."""
    data = b"".join(pieces)
    places = [found.start() for found in answer.COUNT.finditer(data)]

    assert answer.last_count(data) == max(places, default=-1)


@pytest.mark.parametrize("field", ["usage", "response", "choices"])
def test_nesting_without_end_is_unreadable(field: str) -> None:
    """A document nested deeper than can be followed is one that cannot be read."""
    data = b'{"%s": %s' % (field.encode(), b'{"a":' * 100_000)

    with pytest.raises(answer.UNREADABLE):
        answer.read(data)


fields = [*answer.Document.__struct_encode_fields__, "delta", "content", "parts", "text"]
names = st.sampled_from(
    [*fields, "input_tokens", "message_start", "message_delta", "response.failed"]
)
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
        assert type(speaks(each)) is bool

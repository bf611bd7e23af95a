"""What one JSON document says of the answer: its model, and whether it is a model's at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import (
    UNREADABLE,
    Document,
    is_models,
    model,
    objects,
    read,
    read_by,
)
from tokenpulse_mw.usage.failure import failed, refused
from tokenpulse_mw.usage.statement import statement
from tokenpulse_mw.usage.words import EVENTS, Event, speaks


def document(payload: dict[str, Any]) -> Document:
    """The one document that `payload` is."""
    (only,) = read(json.dumps(payload).encode())
    return only


def test_a_document_is_an_object_or_an_array_of_them() -> None:
    """Gemini streams an array of documents."""
    models = [model(each) for each in read(b'[{"model": "a"}, {"model": "b"}]')]

    assert models == ["a", "b"]
    assert read(b"[]") == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"7", b'"text"', b"[1]", b"[DONE]", b"[{}, 1]", b"\xff", b"{}{}"]
)
def test_anything_else_is_unreadable(data: bytes) -> None:
    """What is no JSON, or neither an object nor an array of objects, raises UNREADABLE."""
    with pytest.raises(UNREADABLE):
        read(data)


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
    assert model(document(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        {"model": "gpt-5"},
        {"type": "message_start", "message": {"model": "claude-opus-4"}},
        {"choices": []},
        {"candidates": [{}]},
        {"output": [{"type": "message"}]},
        {"output": {"text": "Paris."}},
        {"type": "message", "content": []},
        {"usageMetadata": {}},
        {"response": {"candidates": []}},
        {"error": {"code": 429}},
    ],
)
def test_a_models_answer_is_known_by_its_form(payload: dict[str, Any]) -> None:
    """Whatever it says of its usage."""
    assert is_models(document(payload)) is True


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"input_tokens": 5},
        {"totalTokens": 5},
        {"access_token": "x", "expires_in": 3600},
        {"choices": None},
        {"candidates": 3},
        {"output": "done"},
        {"content": [{"title": "a page"}]},
        {"type": "message", "content": "a letter"},
        {"error": "invalid_grant"},
        {"error": True},
        {"error": None},
        {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601}},
        {"usage": {"disk": 5}},
    ],
)
def test_any_other_document_may_be_an_applications_own(payload: dict[str, Any]) -> None:
    """Counts of tokens, logins, pages and calls of procedures are no answers of models."""
    assert is_models(document(payload)) is False


@pytest.mark.parametrize("field", ["usage", "response", "choices"])
def test_nesting_without_end_is_unreadable(field: str) -> None:
    """A document nested deeper than can be followed is one that cannot be read."""
    data = b'{"%s": %s' % (field.encode(), b'{"a":' * 100_000)

    with pytest.raises(UNREADABLE):
        read(data)


fields = {*Document.__struct_encode_fields__, *Event.__struct_encode_fields__, "parts"}
names = st.sampled_from(
    [*sorted(fields), "input_tokens", "message_start", "message_delta", "response.failed"]
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

    for each in read(data):
        said = statement(each)
        assert said is None or type(said.fields) is dict
        assert type(model(each)) in (str, type(None))
        assert {type(ask(each)) for ask in (failed, refused, is_models)} == {bool}
    for event in read_by(EVENTS, data):
        assert type(speaks(event)) is bool


def test_an_array_that_cannot_be_read_has_no_objects() -> None:
    """What stands in it is only seen when it is asked for."""
    (only,) = read(b'{"choices": [{"text": "\xff"}], "output": {}, "candidates": [1, {}]}')

    assert [objects(raw) for raw in (only.choices, only.output, only.candidates)] == [[], [], [{}]]

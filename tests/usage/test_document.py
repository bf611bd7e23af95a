"""How a JSON document is read, also one that is not quite JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import UNREADABLE, Document, objects, read
from tokenpulse_mw.usage.failure import failed, refused
from tokenpulse_mw.usage.statement import statement
from tokenpulse_mw.usage.whose import is_kept, is_models, model
from tokenpulse_mw.usage.words import Event, read_events, speaks


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


SOUND = b'{"choices": [{"text": %s}], "usage": {"prompt_tokens": 3}}'


@pytest.mark.parametrize(
    "text",
    [rb'"hi \ud83d"', rb'"\uDE00 hi"', b"NaN", b"[Infinity, -Infinity]", b'"a\tb\nc\0"', b'"\x1f"'],
)
def test_what_is_nearly_json_is_read(text: bytes) -> None:
    """Vendors cut texts between two halves of a character, and Python writes what is no number."""
    (only,) = read(SOUND % text)

    assert only.usage == {"prompt_tokens": 3}
    assert len(objects(only.choices)) == 1


def test_each_line_may_be_a_document() -> None:
    """Also one that is nearly JSON, or an array; not what ends a stream, nor an empty one."""
    data = b'{"model": "a"}\r\n[DONE]\n\n[{"model": "b"}, {"model": "\t"}]\n[DONE]'

    assert [model(each) for each in read(data)] == ["a", "b", " "]


@pytest.mark.parametrize(
    "data", [b'{"a": 1}\n{', b'{"a": 1}\n7', b"[DONE]\n[DONE]", b"\n", b"{}\n" * 10_000]
)
def test_lines_that_are_not_all_documents_are_unreadable(data: bytes) -> None:
    """Or too many."""
    with pytest.raises(UNREADABLE):
        read(data)


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
        assert {type(ask(each)) for ask in (failed, refused, is_models, is_kept)} == {bool}
    for event in read_events(data):
        assert type(speaks(event)) is bool


def test_an_array_that_cannot_be_read_has_no_objects() -> None:
    """What stands in it is only seen when it is asked for."""
    (only,) = read(b'{"choices": [{"text": "\xff"}], "output": {}, "candidates": [1, {}]}')

    assert [objects(raw) for raw in (only.choices, only.output, only.candidates)] == [[], [], [{}]]

"""How a JSON document is read, also one that is not quite JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_LINES
from tokenpulse_mw.usage.document import (
    UNREADABLE,
    Document,
    Event,
    fix_json,
    objects,
    read,
    read_events,
    split_lines,
)
from tokenpulse_mw.usage.formats import (
    find_usage,
    has_error,
    has_output,
    is_error_response,
    is_response,
    is_stored_object,
    model_of,
)

from .bodies import JSON, SSE, event, measure, outcome


def test_a_document_is_an_object_or_an_array_of_them() -> None:
    """Gemini streams an array of documents."""
    models = [model_of(each) for each in read(b'[{"model": "a"}, {"model": "b"}]')]

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

    assert [model_of(each) for each in read(data)] == ["a", "b", " "]


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
        said = find_usage(each)
        assert said is None or type(said.fields) is dict
        assert type(model_of(each)) in (str, type(None))
        assert {
            type(ask(each)) for ask in (has_error, is_error_response, is_response, is_stored_object)
        } == {bool}
    for decoded in read_events(data):
        assert type(has_output(decoded)) is bool


def test_an_array_that_cannot_be_read_has_no_objects() -> None:
    """What stands in it is only seen when it is asked for."""
    (only,) = read(b'{"choices": [{"text": "\xff"}], "output": {}, "candidates": [1, {}]}')

    assert [objects(raw) for raw in (only.choices, only.output, only.candidates)] == [[], [], [{}]]


USAGE = {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}


@pytest.mark.parametrize(
    ("data", "mended"),
    [
        (rb'"a \ud83d"', rb'"a \ufffd"'),
        (rb'"\uDFFFa"', rb'"\ufffda"'),
        (rb'"\u00e9"', rb'"\u00e9"'),
        (b'{"a":NaN,"b": -Infinity}', b'{"a":null,"b": null}'),
        (b"[NaN,Infinity ,\n-Infinity]", b"[null,null , null]"),
        (b'"NaN" [NaNa, aNaN, 5Infinity]', b'"NaN" [NaNa, aNaN, 5Infinity]'),
        (b'"a\tb\x00\x1f"', b'"a b  "'),
        (b'"\x7f\xff"', b'"\x7f\xff"'),
    ],
)
def test_only_what_json_forbids_is_mended(data: bytes, mended: bytes) -> None:
    """Halves of characters, what is no number, and control characters."""
    assert fix_json(data) == mended


json_values = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 1]), st.booleans())
def test_what_python_writes_can_be_read(value: Any, indent: int | None, ascii_only: bool) -> None:
    """It writes NaN; and what can be read stays as deep and as long as it was."""
    data = json.dumps({"a": value}, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )

    def refuse(number: str) -> None:
        raise AssertionError(number)

    mended = json.loads(fix_json(data).decode(errors="surrogatepass"), parse_constant=refuse)
    assert shape(mended) == shape(json.loads(data.decode(errors="surrogatepass")))


def shape(value: Any) -> Any:
    """What of a value nobody's words can change."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return "text" if isinstance(value, str) else "other"


def test_lines_that_may_be_documents() -> None:
    """Neither empty ones nor the mark of a stream's end is one; too many are none."""
    assert split_lines(b"{}\n\n [DONE]\r\n[]") == [b"{}", b"[]"]
    assert len(split_lines(b"{}\n" * (MAX_DOCUMENT_LINES - 1))) == MAX_DOCUMENT_LINES - 1
    assert split_lines(b"{}\n" * MAX_DOCUMENT_LINES) == []


@pytest.mark.parametrize("text", ["hi \ud83d", "\ude00", "\ud83d\ud83d"])
def test_half_a_character_costs_no_usage(text: str) -> None:
    """Models write in tokens, which may end within a character of two UTF-16 units."""
    chat = {"choices": [{"message": {"content": text}}], "usage": {"prompt_tokens": 9}}
    gemini = {
        "candidates": [{"content": {"parts": [{"text": text}]}}],
        "usageMetadata": {"promptTokenCount": 6, "candidatesTokenCount": 1},
    }
    response = {"object": "response", "output": [{"text": text}], "usage": USAGE}
    completed = {"type": "response.completed", "response": response}

    for payload, total in ((chat, 9), (gemini, 7), (completed, 123)):
        for content_type, data in (
            (JSON, json.dumps(payload).encode()),
            (SSE, event(payload)),
        ):
            account = measure(content_type, [data])
            assert account.usage is not None
            assert (account.usage.total, account.source, account.unreadable) == (
                total,
                "reported",
                0,
            )


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_costs_no_usage(number: str) -> None:
    """Python's own writer writes it: as the likelihood of a word, or in a vector."""
    likely = b'{"choices": [{"logprobs": {"a": %s}}], "usage": {"prompt_tokens": 9}}'
    vector = b'{"data": [{"embedding": [%s,1.0]}], "usage": {"prompt_tokens": 9}}'

    for data in (likely, vector):
        account = measure(JSON, [data % number.encode()])
        assert account.usage is not None
        assert (account.usage.input, account.unreadable) == (9, 0)


def test_what_is_no_number_is_no_count() -> None:
    """Nothing is made up."""
    account = measure(JSON, [b'{"model": "m", "usage": {"prompt_tokens": NaN}}'])

    assert outcome(account) == (None, "missing", "m", False, 0)

"""JSON documents, including almost valid JSON."""

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


def test_read_returns_the_object_or_the_objects_of_an_array() -> None:
    """Gemini streams an array of documents."""
    models = [model_of(document) for document in read(b'[{"model": "a"}, {"model": "b"}]')]

    assert models == ["a", "b"]
    assert read(b"[]") == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"7", b'"text"', b"[1]", b"[DONE]", b"[{}, 1]", b"\xff", b"{}{}"]
)
def test_read_of_other_data_raises_unreadable(data: bytes) -> None:
    """Data that is neither an object nor an array of objects raises UNREADABLE."""
    with pytest.raises(UNREADABLE):
        read(data)


VALID = b'{"choices": [{"text": %s}], "usage": {"prompt_tokens": 3}}'


@pytest.mark.parametrize(
    "text",
    [rb'"hi \ud83d"', rb'"\uDE00 hi"', b"NaN", b"[Infinity, -Infinity]", b'"a\tb\nc\0"', b'"\x1f"'],
)
def test_almost_valid_json_is_read(text: bytes) -> None:
    """Lone surrogates, NaN, infinities and control characters are repaired."""
    (only,) = read(VALID % text)

    assert only.usage == {"prompt_tokens": 3}
    assert len(objects(only.choices)) == 1


def test_lines_with_a_document_each_are_read() -> None:
    """Empty lines and `[DONE]` are ignored; each line may be an array or need repair."""
    data = b'{"model": "a"}\r\n[DONE]\n\n[{"model": "b"}, {"model": "\t"}]\n[DONE]'

    assert [model_of(document) for document in read(data)] == ["a", "b", " "]


@pytest.mark.parametrize(
    "data", [b'{"a": 1}\n{', b'{"a": 1}\n7', b"[DONE]\n[DONE]", b"\n", b"{}\n" * 10_000]
)
def test_lines_with_other_data_raise_unreadable(data: bytes) -> None:
    """Every line must be a document, and the number of lines is bounded."""
    with pytest.raises(UNREADABLE):
        read(data)


@pytest.mark.parametrize("field", ["usage", "response", "choices"])
def test_endless_nesting_raises_unreadable(field: str) -> None:
    """A document that nests deeper than the decoder supports is unreadable."""
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
def test_formats_accept_any_object(payload: dict[str, Any]) -> None:
    """Every function of the formats returns a result for any values in the fields."""
    data = json.dumps(payload).encode()

    predicates = (has_error, is_error_response, is_response, is_stored_object)
    for document in read(data):
        report = find_usage(document)
        assert report is None or type(report.fields) is dict
        assert type(model_of(document)) in (str, type(None))
        assert all(type(predicate(document)) is bool for predicate in predicates)
    for decoded in read_events(data):
        assert type(has_output(decoded)) is bool


def test_objects_of_an_invalid_array_are_empty() -> None:
    """Raw arrays are only validated when their objects are requested."""
    (only,) = read(b'{"choices": [{"text": "\xff"}], "output": {}, "candidates": [1, {}]}')

    assert [objects(raw) for raw in (only.choices, only.output, only.candidates)] == [[], [], [{}]]


USAGE = {"input_tokens": 36, "output_tokens": 87, "total_tokens": 123}


@pytest.mark.parametrize(
    ("data", "fixed"),
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
def test_fix_json_changes_only_invalid_json(data: bytes, fixed: bytes) -> None:
    """Lone surrogates, NaN, infinities and control characters are replaced."""
    assert fix_json(data) == fixed


json_values = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=12,
)


@given(json_values, st.sampled_from([None, 1]), st.booleans())
def test_fix_json_keeps_the_shape_of_any_value(
    value: Any, indent: int | None, ascii_only: bool
) -> None:
    """The output of `json.dumps`, including NaN, becomes valid JSON of the same shape."""
    data = json.dumps({"a": value}, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )

    def refuse(number: str) -> None:
        raise AssertionError(number)

    fixed = json.loads(fix_json(data).decode(errors="surrogatepass"), parse_constant=refuse)
    assert shape(fixed) == shape(json.loads(data.decode(errors="surrogatepass")))


def shape(value: Any) -> Any:
    """Return the structure of a value, without the content of strings and numbers."""
    if isinstance(value, dict):
        return {name: shape(member) for name, member in value.items()}
    if isinstance(value, list):
        return [shape(element) for element in value]
    return "text" if isinstance(value, str) else "other"


def test_split_lines_returns_candidates() -> None:
    """Empty lines and `[DONE]` are omitted; too many lines give an empty list."""
    assert split_lines(b"{}\n\n [DONE]\r\n[]") == [b"{}", b"[]"]
    assert len(split_lines(b"{}\n" * (MAX_DOCUMENT_LINES - 1))) == MAX_DOCUMENT_LINES - 1
    assert split_lines(b"{}\n" * MAX_DOCUMENT_LINES) == []


@pytest.mark.parametrize("text", ["hi \ud83d", "\ude00", "\ud83d\ud83d"])
def test_lone_surrogate_does_not_lose_usage(text: str) -> None:
    """Output may end within a character of two UTF-16 units."""
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
def test_nan_and_infinity_do_not_lose_usage(number: str) -> None:
    """Python servers write them as logprobs or in embeddings."""
    logprobs = b'{"choices": [{"logprobs": {"a": %s}}], "usage": {"prompt_tokens": 9}}'
    embedding = b'{"data": [{"embedding": [%s,1.0]}], "usage": {"prompt_tokens": 9}}'

    for data in (logprobs, embedding):
        account = measure(JSON, [data % number.encode()])
        assert account.usage is not None
        assert (account.usage.input, account.unreadable) == (9, 0)


def test_nan_is_not_a_count() -> None:
    """NaN as a token count gives no usage."""
    account = measure(JSON, [b'{"model": "m", "usage": {"prompt_tokens": NaN}}'])

    assert outcome(account) == (None, "missing", "m", False, 0)

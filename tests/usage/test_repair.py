"""What is no JSON, though vendors send it as such."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.bounds import MAX_DOCUMENT_LINES
from tokenpulse_mw.usage.repair import documents_in, mend

from .bodies import JSON, SSE, account, event, measure

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
    assert mend(data) == mended


values = st.recursive(
    st.none() | st.floats() | st.integers() | st.text(st.characters(), max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab"), inner, max_size=4),
    max_leaves=12,
)


@given(values, st.sampled_from([None, 1]), st.booleans())
def test_what_python_writes_can_be_read(value: Any, indent: int | None, ascii_only: bool) -> None:
    """It writes NaN; and what can be read stays as deep and as long as it was."""
    data = json.dumps({"a": value}, indent=indent, ensure_ascii=ascii_only).encode(
        errors="surrogatepass"
    )

    def refuse(number: str) -> None:
        raise AssertionError(number)

    mended = json.loads(mend(data).decode(errors="surrogatepass"), parse_constant=refuse)
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
    assert documents_in(b"{}\n\n [DONE]\r\n[]") == [b"{}", b"[]"]
    assert len(documents_in(b"{}\n" * (MAX_DOCUMENT_LINES - 1))) == MAX_DOCUMENT_LINES - 1
    assert documents_in(b"{}\n" * MAX_DOCUMENT_LINES) == []


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
            ledger = measure(content_type, [data])
            assert ledger.usage is not None
            assert (ledger.usage.total, ledger.source, ledger.unreadable) == (total, "reported", 0)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_number_costs_no_usage(number: str) -> None:
    """Python's own writer writes it: as the likelihood of a word, or in a vector."""
    likely = b'{"choices": [{"logprobs": {"a": %s}}], "usage": {"prompt_tokens": 9}}'
    vector = b'{"data": [{"embedding": [%s,1.0]}], "usage": {"prompt_tokens": 9}}'

    for data in (likely, vector):
        ledger = measure(JSON, [data % number.encode()])
        assert ledger.usage is not None
        assert (ledger.usage.input, ledger.unreadable) == (9, 0)


def test_what_is_no_number_is_no_count() -> None:
    """Nothing is made up."""
    ledger = measure(JSON, [b'{"model": "m", "usage": {"prompt_tokens": NaN}}'])

    assert account(ledger) == (None, "missing", "m", False, 0)

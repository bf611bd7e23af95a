"""Usage in the head or the tail of a document that is too long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import UNREADABLE, read
from tokenpulse_mw.usage.formats import find_usage
from tokenpulse_mw.usage.oversized import PREFIX_BYTES, usage_from_head, usage_from_tail

USAGE = {"prompt_tokens": 3}
texts = st.sampled_from(["usage", "model", "a", 'the "usage"', '"usage": {"prompt_tokens": 9}', ""])
values = st.recursive(
    texts | st.integers(0, 9) | st.just(USAGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values), st.data())
def test_usage_from_tail_is_only_top_level_usage(
    payload: dict[str, object], data: st.DataObject
) -> None:
    """The tail of a document, cut anywhere, gives the document's own usage or none."""
    body = json.dumps(payload).encode()
    tail = body[data.draw(st.integers(1, len(body))) :]

    short = usage_from_tail(body[:PREFIX_BYTES], tail)

    whole = find_usage(read(body)[0])
    assert short == b"" or [find_usage(document) for document in read(short)] == [whole]


@given(st.dictionaries(texts, values), st.data())
def test_usage_from_head_is_only_top_level_usage(
    payload: dict[str, object], data: st.DataObject
) -> None:
    """The head of a document, cut anywhere, gives the document's own usage or none."""
    body = json.dumps(payload).encode()
    head = body[: data.draw(st.integers(0, len(body)))]

    short = usage_from_head(head)

    whole = find_usage(read(body)[0])
    assert short == b"" or [find_usage(document) for document in read(short)] == [whole]


@pytest.mark.parametrize("head", [b"", b"<html>", b"{", b'{"usage": {"prompt_tokens": 3}', b"}}}"])
def test_usage_from_head_without_complete_usage_is_empty(head: bytes) -> None:
    """Incomplete usage and invalid JSON give no usage and raise no error."""
    assert usage_from_head(head) == b""


@pytest.mark.parametrize("tail", [b"", b'"usage"', b'"usage": {', b'x", "usage": {}}', b"\xff"])
def test_usage_from_tail_without_complete_usage_is_empty(tail: bytes) -> None:
    """Incomplete usage and invalid JSON give no usage and raise no error."""
    assert usage_from_tail(b'{"text": "', tail) == b""


def test_usage_of_a_wrapped_response_is_found_by_its_head() -> None:
    """Nested usage counts only if the head shows that a response is wrapped."""
    tail = b'"usage": {"prompt_tokens": 3}}}'

    assert usage_from_tail(b'data: {"item": {"text": "', tail) == b""
    for head in (b'{"response": {"text": "', b'{"type":"response.completed","response":{"a":"'):
        assert find_usage(read(usage_from_tail(head, tail))[0]) is not None
    with pytest.raises(UNREADABLE):
        read(b"{" + tail)

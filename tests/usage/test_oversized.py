"""What the end of a document that is too long says of usage."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.document import UNREADABLE, read
from tokenpulse_mw.usage.formats import find_usage
from tokenpulse_mw.usage.oversized import HEAD, usage_from_head, usage_from_tail

USAGE = {"prompt_tokens": 3}


texts = st.sampled_from(["usage", "model", "a", 'the "usage"', '"usage": {"prompt_tokens": 9}', ""])


values = st.recursive(
    texts | st.integers(0, 9) | st.just(USAGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(texts, values), st.data())
def test_only_the_usage_at_the_top_is_said(payload: dict[str, object], data: st.DataObject) -> None:
    """Wherever a document is cut, and whatever is in it, its own usage is told or none."""
    body = json.dumps(payload).encode()
    tail = body[data.draw(st.integers(1, len(body))) :]

    short = usage_from_tail(body[:HEAD], tail)

    whole = find_usage(read(body)[0])
    assert short == b"" or [find_usage(each) for each in read(short)] == [whole]


@given(st.dictionaries(texts, values), st.data())
def test_only_the_usage_at_the_top_is_said_first(
    payload: dict[str, object], data: st.DataObject
) -> None:
    """Wherever a document is cut, what its beginning says is its own usage."""
    body = json.dumps(payload).encode()
    head = body[: data.draw(st.integers(0, len(body)))]

    short = usage_from_head(head)

    whole = find_usage(read(body)[0])
    assert short == b"" or [find_usage(each) for each in read(short)] == [whole]


@pytest.mark.parametrize("head", [b"", b"<html>", b"{", b'{"usage": {"prompt_tokens": 3}', b"}}}"])
def test_a_beginning_that_says_no_usage_says_nothing(head: bytes) -> None:
    """What may still go on is not told; it never raises."""
    assert usage_from_head(head) == b""


@pytest.mark.parametrize("tail", [b"", b'"usage"', b'"usage": {', b'x", "usage": {}}', b"\xff"])
def test_an_end_that_says_no_usage_says_nothing(tail: bytes) -> None:
    """It never raises."""
    assert usage_from_tail(b'{"text": "', tail) == b""


def test_the_head_tells_what_is_wrapped() -> None:
    """Else the response of an event would be taken for what the model wrote."""
    tail = b'"usage": {"prompt_tokens": 3}}}'

    assert usage_from_tail(b'data: {"item": {"text": "', tail) == b""
    for head in (b'{"response": {"text": "', b'{"type":"response.completed","response":{"a":"'):
        assert find_usage(read(usage_from_tail(head, tail))[0]) is not None
    with pytest.raises(UNREADABLE):
        read(b"{" + tail)

"""Splitter of streamed JSON arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.json_array import JsonArraySplitter

from ..support.chunks import chunkings, chunks_of
from ..support.memory import held_after

texts = st.text(st.sampled_from('ab{}[]",:\\\u00e9\U0001f642 '), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def read(
    chunks: Iterable[bytes], *, longest: int = 10_000
) -> tuple[list[bytes], JsonArraySplitter]:
    """Return the objects of an array that was received in `chunks`, and the splitter."""
    buffer = JsonArraySplitter(longest=longest)
    elements: list[bytes] = []
    for chunk in chunks:
        elements += buffer.feed(chunk)
    return elements, buffer


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 2]), st.data())
def test_any_chunking_gives_the_objects_of_an_array(
    array: list[Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    """Exactly the objects of an array are returned, with any content and in any chunking."""
    body = json.dumps(array, ensure_ascii=ascii_only, indent=indent).encode()

    elements, buffer = read(data.draw(chunkings(body)))

    objects = [json.loads(element) for element in elements]
    assert objects == [value for value in array if isinstance(value, dict)]
    assert (buffer.closed, buffer.overlong) == (True, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_object_is_returned_with_the_chunk_that_completes_it(size: int) -> None:
    """An object is returned before the next one begins."""
    body = b'[{"a": 1}, {"b": "]}"}'
    buffer = JsonArraySplitter(longest=100)
    completed_at = {
        element: min(start + size, len(body))
        for start in range(0, len(body), size)
        for element in buffer.feed(body[start : start + size])
    }

    ends = {b'{"a": 1}': 9, b'{"b": "]}"}': len(body)}
    assert completed_at == {
        element: min(-(-end // size) * size, len(body)) for element, end in ends.items()
    }
    assert buffer.closed is False


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_object_above_longest_is_skipped(size: int) -> None:
    """An object above `longest` is counted once in any chunking, and the others are returned."""
    body = b'[{"a": 1}, {"text": "%s"}, {"a": 2}]' % (b"x" * 50)

    elements, buffer = read(chunks_of(body, size), longest=20)

    assert elements == [b'{"a": 1}', b'{"a": 2}']
    assert (buffer.closed, buffer.overlong) == (True, 1)


def test_object_of_longest_is_returned() -> None:
    """An object of exactly `longest` bytes is returned."""
    body = b'[{"text": "1234567"}]'

    assert read([body], longest=19)[0] == [body[1:-1]]
    assert read([body], longest=18)[0] == []


def test_bytes_after_the_array_are_ignored() -> None:
    """Brackets after the end of the array open nothing."""
    elements, buffer = read([b'[{"a": 1}]', b' ] } {"b": 2} ', b'[{"c": 3}]'])

    assert elements == [b'{"a": 1}']
    assert buffer.closed is True


def test_endless_object_is_held_in_bounded_memory() -> None:
    """An object that never ends holds no memory at any depth."""
    buffer = JsonArraySplitter(longest=100)
    buffer.feed(b"[")
    held = held_after(20_000, lambda: (buffer.feed(b'{"a": "'), buffer.feed(b'\\"{"}')))

    assert held < 20_000


@given(st.lists(st.sampled_from([b"[", b"{", b"}", b"]", b'"', b"\\", b"a", b","])), st.data())
def test_any_chunking_of_malformed_json_gives_the_same_elements(
    parts: list[bytes], data: st.DataObject
) -> None:
    """Malformed JSON is split the same in any chunking and raises no error."""
    body = b"[" + b"".join(parts)

    elements, buffer = read(data.draw(chunkings(body)), longest=10)

    whole, expected = read([body], longest=10)
    assert elements == whole
    assert (buffer.closed, buffer.overlong) == (expected.closed, expected.overlong)

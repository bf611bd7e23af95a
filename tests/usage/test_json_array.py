"""Streamed JSON arrays: any chunking gives the same objects, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage.json_array import JsonArraySplitter

from ..support.chunks import chunkings, chunks_of

texts = st.text(st.sampled_from('ab{}[]",:\\\u00e9\U0001f642 '), max_size=8)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def read(
    chunks: Iterable[bytes], *, longest: int = 10_000
) -> tuple[list[bytes], JsonArraySplitter]:
    """The objects of an array that came in these chunks."""
    buffer = JsonArraySplitter(longest=longest)
    elements: list[bytes] = []
    for chunk in chunks:
        elements += buffer.feed(chunk)
    return elements, buffer


@given(st.lists(values, max_size=5), st.booleans(), st.sampled_from([None, 2]), st.data())
def test_any_chunking_gives_the_objects_of_an_array(
    array: list[Any], ascii_only: bool, indent: int | None, data: st.DataObject
) -> None:
    """Whatever is in them, and wherever they are cut, its objects are found and nothing else."""
    body = json.dumps(array, ensure_ascii=ascii_only, indent=indent).encode()

    elements, buffer = read(data.draw(chunkings(body)))

    found = [json.loads(element) for element in elements]
    assert found == [value for value in array if isinstance(value, dict)]
    assert (buffer.closed, buffer.overlong) == (True, 0)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_object_is_given_with_the_chunk_that_completes_it(size: int) -> None:
    """Nobody waits for the next one."""
    body = b'[{"a": 1}, {"b": "]}"}'
    buffer = JsonArraySplitter(longest=100)
    given_at = {
        element: min(place + size, len(body))
        for place in range(0, len(body), size)
        for element in buffer.feed(body[place : place + size])
    }

    ends = {b'{"a": 1}': 9, b'{"b": "]}"}': len(body)}
    assert given_at == {
        element: min(-(-end // size) * size, len(body)) for element, end in ends.items()
    }
    assert buffer.closed is False


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_object_that_is_too_long_is_skipped(size: int) -> None:
    """It is counted once, in whatever chunks it comes, and the others are read."""
    body = b'[{"a": 1}, {"text": "%s"}, {"a": 2}]' % (b"x" * 50)

    elements, buffer = read(chunks_of(body, size), longest=20)

    assert elements == [b'{"a": 1}', b'{"a": 2}']
    assert (buffer.closed, buffer.overlong) == (True, 1)


def test_an_object_of_the_limit_is_kept() -> None:
    """`longest` itself is not too long."""
    body = b'[{"text": "1234567"}]'

    assert read([body], longest=19)[0] == [body[1:-1]]
    assert read([body], longest=18)[0] == []


def test_what_follows_the_array_is_passed_over() -> None:
    """Brackets after the end open nothing."""
    elements, buffer = read([b'[{"a": 1}]', b' ] } {"b": 2} ', b'[{"c": 3}]'])

    assert elements == [b'{"a": 1}']
    assert buffer.closed is True


def test_an_array_without_end_is_held_in_bounded_memory() -> None:
    """An object that never ends leaves nothing behind, however deep it is."""
    buffer = JsonArraySplitter(longest=100)
    buffer.feed(b"[")
    tracemalloc.start()
    try:
        for _ in range(20_000):
            buffer.feed(b'{"a": "')
            buffer.feed(b'\\"{"}')
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 20_000


@given(st.lists(st.sampled_from([b"[", b"{", b"}", b"]", b'"', b"\\", b"a", b","])), st.data())
def test_any_chunking_of_scraps_gives_the_same_elements(
    scraps: list[bytes], data: st.DataObject
) -> None:
    """What is no JSON at all is cut up alike, however it comes, and never raises."""
    body = b"[" + b"".join(scraps)

    elements, buffer = read(data.draw(chunkings(body)), longest=10)

    whole, expected = read([body], longest=10)
    assert elements == whole
    assert (buffer.closed, buffer.overlong) == (expected.closed, expected.overlong)

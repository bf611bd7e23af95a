"""Ways to split a body into chunks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import strategies as st


def split_at(data: bytes, offsets: Iterable[int]) -> list[bytes]:
    """Split `data` at `offsets`; a repeated offset gives an empty chunk."""
    return [data[start:end] for start, end in pairwise([0, *sorted(offsets), len(data)])]


def chunks_of(data: bytes, size: int) -> list[bytes]:
    """Split `data` into chunks of `size` bytes, the last of which may be shorter."""
    return split_at(data, range(size, len(data), size))


def chunkings(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Return a strategy for all ways to split `data`, including empty chunks and single bytes."""
    offsets = st.lists(st.integers(0, len(data)), max_size=12)
    single_bytes = st.builds(lambda: [data[start : start + 1] for start in range(len(data))])
    return offsets.map(lambda offsets: split_at(data, offsets)) | single_bytes


def prefixes(data: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy for the first bytes of `data`, often all of them."""
    return st.integers(0, len(data)).map(lambda end: data[:end]) | st.just(data)

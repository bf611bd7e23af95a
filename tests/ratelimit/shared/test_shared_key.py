"""Keys that processes share: stable, distinct and unreadable."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.shared.shared_key import stable_text

parts = st.none() | st.integers() | st.text() | st.binary()
keys = st.recursive(parts, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def test_every_process_writes_a_key_alike() -> None:
    """The text depends on the key alone, in this version and in those to come."""
    assert (
        stable_text((b"\xc0\x00\x02\x01", "tenant", 7, None)) == "87dd0d1cb9e8c95cabe5807ae48a49fd"
    )


@given(first=keys, second=keys)
def test_keys_share_a_text_only_if_they_are_equal(first: object, second: object) -> None:
    """Whatever they are made of, and however they are nested."""
    assert (stable_text(first) == stable_text(second)) == (first == second)


def test_nothing_is_ambiguous() -> None:
    """Kinds, borders and nesting all count; any text can be written."""
    alike = [b"a", "a", ("a",), ("a", "b/c"), ("a/b", "c"), ("ab", ""), (("a", "b"), "c"), "\ud800"]

    assert len({stable_text(key) for key in alike}) == len(alike)


def test_a_text_is_short_and_gives_nothing_away() -> None:
    """However long the key is, and whatever secret is in it."""
    text = stable_text("sk-secret" * 10_000)

    assert len(text) == 32
    assert "secret" not in text


@pytest.mark.parametrize("key", [1.5, frozenset({"a"}), object(), ("a", 1.5)])
def test_what_others_would_not_write_alike_is_refused(key: object) -> None:
    """The error says which kinds of keys can be shared."""
    with pytest.raises(ValueError, match="must be bytes, str, int, None or a tuple of these, got"):
        stable_text(key)

"""Sanitized text of alerts."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.web.text import single_line


@given(st.text(), st.integers(3, 20))
def test_any_text_is_truncated_without_control_characters(text: str, longest: int) -> None:
    """The result has at most `longest` characters, and no control characters or surrogates."""
    line = single_line(text + "\ud800\x1b", longest)

    assert len(line) <= longest
    assert not [char for char in line if unicodedata.category(char) in ("Cc", "Cs")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("k1", "k1"),
        ("a\r\nb", "a  b"),
        ("a\u202eb\u2066c", "abc"),
        ("a\ud800b", "a?b"),
        ("0123456789", "0123456789"),
        ("0123456789a", "0123456..."),
    ],
)
def test_only_special_characters_are_replaced(text: str, line: str) -> None:
    """Control characters become spaces, and bidirectional ones are removed."""
    assert single_line(text, 10) == line

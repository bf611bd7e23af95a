"""Text of others in alerts: harmless, and no longer than it may be."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.sinks.text import single_line


@given(st.text(), st.integers(3, 20))
def test_text_is_short_and_without_control_characters(text: str, longest: int) -> None:
    """Whatever it was, it can be shown and sent."""
    shown = single_line(text + "\ud800\x1b", longest)

    assert len(shown) <= longest
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cs")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("k1", "k1"),
        ("a\r\nb", "a  b"),
        ("a\u202eb\u2066c", "abc"),
        ("a\ud800b", "a?b"),
        ("0123456789", "0123456789"),
        ("0123456789a", "0123456..."),
    ],
)
def test_what_is_ordinary_stays(text: str, shown: str) -> None:
    """Control characters become spaces, and what turns the writing direction is left out."""
    assert single_line(text, 10) == shown

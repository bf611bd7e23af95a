"""Header dialects."""

from __future__ import annotations

import pytest

from tokenpulse_mw import Decision
from tokenpulse_mw.ratelimit.headers import dialect, seconds


def test_draft_11_is_structured_fields() -> None:
    """The policy never changes; what remains does, with the time left rounded up."""
    write = dialect("draft-11", limit=100, window=60)

    assert write is not None
    assert write(Decision(True, 100, 42, 30.2, 0.0)) == [
        (b"ratelimit-policy", b'"default";q=100;w=60'),
        (b"ratelimit", b'"default";r=42;t=31'),
    ]


def test_no_more_time_is_left_than_a_window_has() -> None:
    """What floats add to it in rounding is no second more."""
    write = dialect("draft-11", limit=1, window=60)

    assert write is not None
    assert write(Decision(True, 1, 0, 60.00000001, 0.0))[1][1] == b'"default";r=0;t=60'


def test_no_dialect_writes_nothing() -> None:
    """None switches the headers off."""
    assert dialect(None, limit=1, window=1) is None


def test_an_unknown_dialect_is_refused() -> None:
    """The error says what came and which there are."""
    with pytest.raises(ValueError, match=r"headers 'draft-3' is no known dialect: .*'draft-11'"):
        dialect("draft-3", limit=1, window=1)


def test_seconds_are_rounded_up() -> None:
    """Whoever waits them has waited long enough."""
    assert [seconds(each) for each in (0.0, 0.001, 1.0, 59.5)] == [0, 1, 1, 60]

"""Times as they are given."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenpulse_mw.validation import check_seconds


@pytest.mark.parametrize("seconds", [1, 0.25, 1e300])
def test_a_time_is_a_number_above_0(seconds: float) -> None:
    """Whole or not."""
    check_seconds("timeout", seconds)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, "5", None, True])
def test_what_is_no_time_is_refused(seconds: Any) -> None:
    """The error says what came, and what it was for."""
    with pytest.raises(
        ValueError, match=r"^timeout must be a number of seconds above 0, got "
    ) as said:
        check_seconds("timeout", seconds)
    assert str(said.value).endswith(f"got {seconds!r}")


def test_no_time_at_all_is_one_where_that_is_said() -> None:
    """And nothing below it."""
    check_seconds("delay", 0, zero=True)

    with pytest.raises(ValueError, match=r"^delay must be a number of seconds, 0 or more, got -1$"):
        check_seconds("delay", -1, zero=True)


def test_a_time_may_have_a_longest() -> None:
    """Which is one itself."""
    check_seconds("timeout", 600, maximum=600)

    with pytest.raises(ValueError, match=r"^timeout must be .* above 0 and at most 600, got 601$"):
        check_seconds("timeout", 601, maximum=600)

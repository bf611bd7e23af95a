"""How long a sink that fails is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts.outbox.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (5000, 60)]
)
def test_the_wait_doubles_up_to_a_minute(failures: int, seconds: float) -> None:
    """However long a sink fails, it is asked once a minute."""
    assert backoff(failures, 1.0) == seconds


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_chance_takes_away_half_at_most(failures: int, jitter: float) -> None:
    """So that gateways which failed together do not all come back together."""
    longest = backoff(failures, 1.0)

    assert longest / 2 <= backoff(failures, jitter) <= longest

"""Shares of requests: above a threshold surely, or only by chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.rules import wilson_lower_bound
from tokenpulse_mw.alerts.rules.shares import sure_share


@pytest.mark.parametrize(
    ("hits", "tries", "bound"),
    [
        (0, 10, 0.0),
        (1, 10, 0.0226),
        (5, 10, 0.2693),
        (10, 10, 0.7870),
        (50, 100, 0.4188),
        (100, 1000, 0.0855),
    ],
)
def test_wilsons_lower_bound_is_that_of_the_tables(hits: int, tries: int, bound: float) -> None:
    """The values are those of a two-sided 90 % interval."""
    assert wilson_lower_bound(hits, tries) == pytest.approx(bound, abs=5e-5)


@given(counts=st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_at_wilsons_bound_what_was_seen_is_just_within_the_quantile(
    counts: tuple[int, int],
) -> None:
    """The share seen lies exactly 1.6449 standard errors of the bound above the bound."""
    hits, tries = counts

    bound = wilson_lower_bound(hits, tries)

    assert 0 < bound < hits / tries
    error = (bound * (1 - bound) / tries) ** 0.5
    assert hits / tries - bound == pytest.approx(1.6449 * error, rel=1e-6)


@pytest.mark.parametrize(
    ("hits", "tries", "evidence", "share"),
    [(9, 9, True, -1), (9, 9, False, -1), (5, 10, False, 0.5), (5, 10, True, 0.2693)],
)
def test_a_share_of_too_few_is_none(hits: int, tries: int, evidence: bool, share: float) -> None:
    """Below `error_min_requests` it is below every threshold; above, evidence may be asked for."""
    thresholds = Thresholds(error_evidence=evidence)

    assert sure_share(hits, tries, thresholds) == pytest.approx(share, abs=5e-5)

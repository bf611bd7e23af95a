"""Shares of requests: above a threshold surely, or only by chance."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Thresholds
from tokenpulse_mw.alerts.rules import wilson_lower_bound
from tokenpulse_mw.alerts.traffic.statistics import confident_share, min_failures


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

    assert confident_share(hits, tries, thresholds) == pytest.approx(share, abs=5e-5)


@given(
    share=st.floats(0.001, 1),
    least=st.integers(1, 60),
    evidence=st.booleans(),
    requests=st.integers(1, 100),
)
def test_with_fewer_failures_no_share_is_surely_above_its_threshold(
    share: float, least: int, evidence: bool, requests: int
) -> None:
    """Those who have failed less often need no looking at, however few requests they made."""
    thresholds = Thresholds(error_rate=share, error_min_requests=least, error_evidence=evidence)
    needed = min_failures(thresholds)

    for failures in range(1, requests + 1):
        if confident_share(failures, requests, thresholds) >= share:
            assert failures >= needed


@pytest.mark.parametrize(
    ("chosen", "needed"),
    [
        ({}, 3),
        ({"error_evidence": False}, 1),
        ({"error_min_requests": 100}, 15),
        ({"error_min_requests": 1, "error_rate": 0.5}, 3),
        ({"error_rate": 0.001, "error_evidence": False}, 1),
    ],
)
def test_as_many_failures_as_are_needed_are_enough(chosen: dict[str, Any], needed: int) -> None:
    """At 10 % it takes 3 of 10, or 15 of 100."""
    assert math.ceil(min_failures(Thresholds(**chosen))) == needed


def test_a_rule_that_is_off_needs_nobody_looked_at() -> None:
    """However often somebody fails."""
    assert min_failures(Thresholds(error_rate=None)) == math.inf

"""Statistical confidence of error rates."""

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
def test_wilson_lower_bound_equals_published_values(hits: int, tries: int, bound: float) -> None:
    """A one-sided bound of 95 % is the lower bound of a two-sided interval of 90 %."""
    assert wilson_lower_bound(hits, tries) == pytest.approx(bound, abs=5e-5)


@given(counts=st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_observed_share_is_one_quantile_above_the_wilson_bound(
    counts: tuple[int, int],
) -> None:
    """The observed share lies 1.6449 standard errors of the bound above the bound."""
    hits, tries = counts

    bound = wilson_lower_bound(hits, tries)

    assert 0 < bound < hits / tries
    error = (bound * (1 - bound) / tries) ** 0.5
    assert hits / tries - bound == pytest.approx(1.6449 * error, rel=1e-6)


@pytest.mark.parametrize(
    ("hits", "tries", "evidence", "share"),
    [(9, 9, True, -1), (9, 9, False, -1), (5, 10, False, 0.5), (5, 10, True, 0.2693)],
)
def test_share_of_too_few_requests_is_minus_1(
    hits: int, tries: int, evidence: bool, share: float
) -> None:
    """From `error_min_requests` on, the share is the observed one or its lower bound."""
    thresholds = Thresholds(error_evidence=evidence)

    assert confident_share(hits, tries, thresholds) == pytest.approx(share, abs=5e-5)


@given(
    share=st.floats(0.001, 1),
    least=st.integers(1, 60),
    evidence=st.booleans(),
    requests=st.integers(1, 100),
)
def test_share_above_the_threshold_has_at_least_min_failures(
    share: float, least: int, evidence: bool, requests: int
) -> None:
    """A key with fewer failures never fires, for any number of requests."""
    thresholds = Thresholds(error_rate=share, error_min_requests=least, error_evidence=evidence)
    needed = min_failures(thresholds)

    for failures in range(1, requests + 1):
        if confident_share(failures, requests, thresholds) >= share:
            assert failures >= needed


@pytest.mark.parametrize(
    ("thresholds", "needed"),
    [
        ({}, 3),
        ({"error_evidence": False}, 1),
        ({"error_min_requests": 100}, 15),
        ({"error_min_requests": 1, "error_rate": 0.5}, 3),
        ({"error_rate": 0.001, "error_evidence": False}, 1),
    ],
)
def test_min_failures_is_the_smallest_number_that_fires(
    thresholds: dict[str, Any], needed: int
) -> None:
    """At 10 % it takes 3 failures of 10 requests, or 15 of 100."""
    assert math.ceil(min_failures(Thresholds(**thresholds))) == needed


def test_min_failures_without_threshold_is_infinite() -> None:
    """No key is a candidate for a disabled rule."""
    assert min_failures(Thresholds(error_rate=None)) == math.inf

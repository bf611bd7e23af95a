"""The generic cell rate algorithm: how the bucket fills, drains, and is given back to."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Decision, Limiter

from ...support.clock import FakeClock


@pytest.fixture
def limiter(clock: FakeClock) -> Limiter:
    """Ten a minute: one drains every six seconds."""
    return Limiter("10/minute", strategy="gcra", clock=clock)


class Bucket:
    """The bucket that holds `limit` and drains in `window`, in exact numbers."""

    def __init__(self, limit: int, window: int, now: float) -> None:
        self.limit = limit
        self.rate = Fraction(limit, window)
        self.level = Fraction(0)
        self.at = Fraction(now)

    def hit(self, now: float, cost: int) -> tuple[bool, int, float]:
        """Whether `cost` fits in; what fits in afterwards; and after how long it would."""
        self.level = max(self.level - (Fraction(now) - self.at) * self.rate, Fraction(0))
        self.at = Fraction(now)
        too_much = self.level + cost - self.limit
        if too_much <= 0:
            self.level += cost
        wait = too_much / self.rate if cost <= self.limit else math.inf
        return too_much <= 0, math.floor(self.limit - self.level), float(max(wait, 0))


@given(
    limit=st.integers(1, 1000),
    start=st.integers(0, 10**8),
    traffic=st.lists(st.tuples(st.integers(0, 1500), st.floats(0, 1.1))),
)
def test_decisions_are_those_of_a_bucket_in_exact_numbers(
    limit: int, start: int, traffic: list[tuple[int, float]]
) -> None:
    """Each request, what remains and how long to wait; times are sixteenths of a second."""
    clock = FakeClock(start / 16)
    limiter = Limiter(f"{limit} per 64 seconds", strategy="gcra", clock=clock)
    bucket = Bucket(limit, 64, clock())

    for pause, share in traffic:
        clock.advance(pause / 16)
        cost = math.ceil(share * limit)
        decision = limiter.hit("a", cost)

        allowed, remaining, wait = bucket.hit(clock(), cost)
        assert (decision.allowed, decision.remaining) == (allowed, remaining)
        assert decision.retry_after == pytest.approx(wait, abs=2e-6)
        assert decision.reset_after == pytest.approx(float(bucket.level / bucket.rate))


def test_a_client_may_use_its_limit_and_no_more(clock: FakeClock, limiter: Limiter) -> None:
    """All at once; afterwards one at a time, as it drains."""
    assert limiter.hit("a", 9)[:5] == (True, 10, 1, 54.0, 0.0)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)
    refused = limiter.hit("a")
    assert refused[:4] == (False, 10, 0, 60.0)
    assert refused.retry_after == pytest.approx(6.0)

    clock.advance(6)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)


def test_a_steady_rate_is_always_allowed(clock: FakeClock, limiter: Limiter) -> None:
    """With the bucket as full as can be, rounding must not refuse what is just in time."""
    limiter.hit("a", 10)

    for _ in range(1000):
        clock.advance(6)
        assert limiter.hit("a").allowed


def test_a_bucket_that_has_drained_is_as_good_as_new(clock: FakeClock, limiter: Limiter) -> None:
    """No more than the limit fits in, however long nothing was asked."""
    limiter.hit("a", 10)

    clock.advance(60)

    assert limiter.peek("a")[:5] == (True, 10, 10, 0.0, 0.0)


@pytest.mark.parametrize(
    ("later", "remaining"),
    [
        (0, 7),  # all five are given back
        (6, 7),  # one has drained by then, and four are given back
        (24, 7),
        (30, 7),  # all five have drained, and what drains now was used
        (36, 8),
        (60, 10),
    ],
)
def test_what_has_drained_is_not_given_back_as_well(
    clock: FakeClock, limiter: Limiter, later: float, remaining: int
) -> None:
    """Of eight that were reserved three are used: five come back, one way or the other."""
    limiter.hit("a", 8)
    since = clock()
    clock.advance(later)

    limiter.charge("a", -5, since=since)

    assert limiter.peek("a").remaining == remaining


def test_a_bucket_never_holds_less_than_nothing(limiter: Limiter) -> None:
    """Nobody can gain more than the limit by giving back."""
    limiter.hit("a", 3)

    limiter.charge("a", -5)

    assert limiter.peek("a").remaining == 10


def test_debt_drains_like_all_that_was_used(clock: FakeClock, limiter: Limiter) -> None:
    """What runs over has to drain before there is room for anything."""
    limiter.hit("a", 10)
    limiter.charge("a", 5)

    assert limiter.hit("a").retry_after == pytest.approx(36.0)
    clock.advance(36)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)


def test_adopted_decision_raises_the_level_and_never_lowers_it(clock: FakeClock) -> None:
    """A bucket counts at least what a decision of another limiter has counted."""
    limiter = Limiter("10/minute", strategy="gcra", clock=clock)
    limiter.hit("a", cost=4)

    limiter.adopt("a", Decision(True, 10, 3, 0.0, 0.0))
    assert limiter.peek("a").remaining == 3

    limiter.adopt("a", Decision(True, 10, 9, 0.0, 0.0))
    assert limiter.peek("a").remaining == 3

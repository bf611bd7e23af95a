"""The generic cell rate algorithm: filling, draining and refunds of the bucket."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Decision, Limiter, PlanLimiter

from ...support.clock import FakeClock


@pytest.fixture
def limiter(clock: FakeClock) -> Limiter:
    """Return a limiter whose bucket drains one request every six seconds."""
    return Limiter("10/minute", strategy="gcra", clock=clock)


class Bucket:
    """Reference bucket with exact numbers that drains `limit` per `window`."""

    def __init__(self, limit: int, window: int, now: float) -> None:
        self.limit = limit
        self.rate = Fraction(limit, window)
        self.level = Fraction(0)
        self.at = Fraction(now)

    def hit(self, now: float, cost: int) -> tuple[bool, int, float]:
        """Return if `cost` is allowed, what remains, and the wait until it is allowed."""
        self.level = max(self.level - (Fraction(now) - self.at) * self.rate, Fraction(0))
        self.at = Fraction(now)
        excess = self.level + cost - self.limit
        if excess <= 0:
            self.level += cost
        wait = excess / self.rate if cost <= self.limit else math.inf
        return excess <= 0, math.floor(self.limit - self.level), float(max(wait, 0))


@given(
    limit=st.integers(1, 1000),
    start=st.integers(0, 10**8),
    traffic=st.lists(st.tuples(st.integers(0, 1500), st.floats(0, 1.1))),
)
def test_decisions_equal_those_of_an_exact_bucket(
    limit: int, start: int, traffic: list[tuple[int, float]]
) -> None:
    """Allowed requests, remaining requests and waits are those of the reference bucket."""
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


def test_full_bucket_allows_one_request_at_a_time(clock: FakeClock, limiter: Limiter) -> None:
    """The limit is allowed at once, then requests as the bucket drains."""
    assert limiter.hit("a", 9)[:5] == (True, 10, 1, 54.0, 0.0)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)
    rejected = limiter.hit("a")
    assert rejected[:4] == (False, 10, 0, 60.0)
    assert rejected.retry_after == pytest.approx(6.0)

    clock.advance(6)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)


def test_steady_rate_is_always_allowed(clock: FakeClock, limiter: Limiter) -> None:
    """Float errors do not reject requests at exactly the allowed rate."""
    limiter.hit("a", 10)

    for _ in range(1000):
        clock.advance(6)
        assert limiter.hit("a").allowed


def test_drained_bucket_is_empty(clock: FakeClock, limiter: Limiter) -> None:
    """After a window without requests, the limit remains and no more."""
    limiter.hit("a", 10)

    clock.advance(60)

    assert limiter.peek("a")[:5] == (True, 10, 10, 0.0, 0.0)


@pytest.mark.parametrize(
    ("later", "remaining"),
    [
        (0, 7),  # all five are refunded
        (6, 7),  # one of them has drained, and four are refunded
        (24, 7),
        (30, 7),  # all five have drained, so nothing is refunded
        (36, 8),
        (60, 10),
    ],
)
def test_refund_excludes_what_has_drained(
    clock: FakeClock, limiter: Limiter, later: float, remaining: int
) -> None:
    """Of a reserve of eight with three used, five become free by draining or by the refund."""
    limiter.hit("a", 8)
    since = clock()
    clock.advance(later)

    limiter.charge("a", -5, since=since)

    assert limiter.peek("a").remaining == remaining


def test_refund_never_exceeds_the_usage(limiter: Limiter) -> None:
    """After a too large refund, the limit remains and no more."""
    limiter.hit("a", 3)

    limiter.charge("a", -5)

    assert limiter.peek("a").remaining == 10


def test_debt_drains_before_requests_are_allowed(clock: FakeClock, limiter: Limiter) -> None:
    """Usage beyond the limit drains at the same rate."""
    limiter.hit("a", 10)
    limiter.charge("a", 5)

    assert limiter.hit("a").retry_after == pytest.approx(36.0)
    clock.advance(36)
    assert limiter.hit("a")[:5] == (True, 10, 0, 60.0, 0.0)


def test_adopted_decision_raises_the_level_and_never_lowers_it(clock: FakeClock) -> None:
    """A bucket counts at least the usage in the decision of another limiter."""
    limiter = Limiter("10/minute", strategy="gcra", clock=clock)
    limiter.hit("a", cost=4)

    limiter.adopt("a", Decision(True, 10, 3, 0.0, 0.0))
    assert limiter.peek("a").remaining == 3

    limiter.adopt("a", Decision(True, 10, 9, 0.0, 0.0))
    assert limiter.peek("a").remaining == 3


@pytest.mark.parametrize("limit", ["10/minute", "90/minute", "1000/hour", "500/minute"])
def test_bucket_ends_at_the_same_time_after_a_change(clock: FakeClock, limit: str) -> None:
    """A change of the limit moves neither the end of a bucket nor the wait that it promises."""
    limiter = Limiter("100/minute", strategy="gcra", clock=clock)
    limiter.hit("ada", 100)
    clock.advance(10)

    limiter.set_limit(limit)
    cost = limiter.limit
    rejected = limiter.hit("ada", cost)

    assert not rejected.allowed
    assert limiter.peek("ada", 0).reset_after == pytest.approx(50)
    clock.advance(rejected.retry_after - 1e-3)
    assert not limiter.peek("ada", cost).allowed
    clock.advance(2e-3)
    assert limiter.hit("ada", cost).allowed
    assert limiter.peek("ada", 0).reset_after == pytest.approx(limiter.window, rel=1e-3)


def test_bucket_of_a_key_whose_plan_changes_ends_at_the_same_time(clock: FakeClock) -> None:
    """The new rate applies to what the key uses afterwards."""
    limiter = PlanLimiter({"ada": "100/minute"}, strategy="gcra", clock=clock)
    limiter.hit("ada", 100)

    limiter.set_rates({"ada": "10/minute"})
    rejected = limiter.hit("ada")

    assert rejected.retry_after == pytest.approx(91 / 100 * 60)
    clock.advance(rejected.retry_after)
    assert limiter.hit("ada").allowed
    assert not limiter.hit("ada").allowed
    assert limiter.hit("ada").retry_after == pytest.approx(6, abs=1e-3)


def test_refund_after_a_change_excludes_what_has_drained(clock: FakeClock) -> None:
    """It drained at the rate before the change."""
    limiter = Limiter("60/minute", strategy="gcra", clock=clock)
    hit_at = clock()
    limiter.hit("ada", 60)
    clock.advance(30)

    limiter.set_limit("6/minute")
    limiter.charge("ada", -50, since=hit_at)

    assert limiter.peek("ada", 0).reset_after == pytest.approx(100)  # for the rest of 10

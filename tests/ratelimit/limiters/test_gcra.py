"""The generic cell rate algorithm: filling, draining and refunds of the bucket."""

from __future__ import annotations

import math
from copy import copy
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
    """Reference bucket with exact numbers; what is used drains at `limit` per `window`."""

    def __init__(self, limit: int, window: int, now: float) -> None:
        self.limit = limit
        self.window = window
        self.rate = Fraction(limit, window)
        self.level = Fraction(0)
        self.at = Fraction(now)

    def hit(self, now: float, cost: int) -> tuple[bool, int, float]:
        """Return if `cost` is allowed, what remains, and the wait until it is allowed."""
        self.drain(now)
        excess = self.level + cost - self.limit
        wait = excess / self.rate if cost <= self.limit else math.inf
        allowed = excess <= 0 or not cost
        if allowed and cost:
            self.use(cost)
        remaining = max(math.floor(self.limit - self.level), 0)
        return allowed, remaining, 0.0 if allowed else float(wait)

    def charge(self, now: float, amount: int, since: float) -> None:
        """Use `amount`, up to ten times the limit, or refund what has not drained `since`."""
        self.drain(now)
        if amount > 0:
            self.use(amount)
            self.level = min(self.level, Fraction(10 * self.limit))
        else:
            drained = (Fraction(now) - Fraction(since)) * self.rate
            self.level = max(self.level + min(amount + drained, Fraction(0)), Fraction(0))

    def use(self, amount: int) -> None:
        """Add `amount`, from which on all of the level drains at the present limit."""
        self.level += amount
        self.rate = Fraction(self.limit, self.window)

    def drain(self, now: float) -> None:
        """Let the level drain until `now`."""
        self.level = max(self.level - (Fraction(now) - self.at) * self.rate, Fraction(0))
        self.at = Fraction(now)


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


@given(
    limit=st.integers(1, 1000),
    start=st.integers(0, 10**8),
    traffic=st.lists(
        st.tuples(
            st.sampled_from(["hit", "charge", "refund", "change"]),
            st.integers(0, 500),
            st.floats(0, 1.1),
            st.integers(0, 1500),
        )
    ),
)
def test_waits_equal_those_of_an_exact_bucket_through_changes_and_refunds(
    limit: int, start: int, traffic: list[tuple[str, int, float, int]]
) -> None:
    """Only usage sets the rate, and it never makes a bucket last longer than ten windows."""
    clock = FakeClock(start / 16)
    limiter = Limiter(f"{limit} per 64 seconds", strategy="gcra", clock=clock)
    bucket = Bucket(limit, 64, clock())

    for operation, pause, share, number in traffic:
        clock.advance(pause / 16)
        bucket.drain(clock())
        before = limiter.peek("a", 0).reset_after
        amount = math.ceil(share * bucket.limit)
        if operation == "change":
            bucket.limit = max(number, 1)
            limiter.set_limit(f"{bucket.limit} per 64 seconds")
        elif operation == "hit":
            assert limiter.hit("a", amount).allowed == bucket.hit(clock(), amount)[0]
        else:
            amount = -amount if operation == "refund" else 12 * amount
            since = clock() - number / 16
            limiter.charge("a", amount, since=since)
            bucket.charge(clock(), amount, since)

        cost = math.ceil(share * bucket.limit)
        allowed, remaining, wait = copy(bucket).hit(clock(), cost)
        decision = limiter.peek("a", cost)
        assert decision.allowed == allowed
        assert decision.remaining - cost * allowed == remaining
        assert decision.retry_after == pytest.approx(wait, abs=2e-6)
        assert decision.reset_after == pytest.approx(float(bucket.level / bucket.rate), abs=1e-6)
        assert decision.reset_after <= 640 + 1e-6
        if operation in ("refund", "change"):
            assert decision.reset_after <= before + 1e-6


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
    """It drained at the rate before the change, and so does the rest."""
    limiter = Limiter("60/minute", strategy="gcra", clock=clock)
    hit_at = clock()
    limiter.hit("ada", 60)
    clock.advance(30)

    limiter.set_limit("6/minute")
    limiter.charge("ada", -50, since=hit_at)

    assert limiter.peek("ada", 0).reset_after == pytest.approx(10)  # for the rest of 10


@pytest.mark.parametrize(("amount", "ends_in"), [(0, 59), (-20_000, 48)])
def test_refund_after_a_lower_limit_prolongs_no_wait(
    clock: FakeClock, amount: int, ends_in: float
) -> None:
    """A request that used less than it had reserved does not make its client wait longer."""
    limiter = Limiter("100000/minute", strategy="gcra", clock=clock)
    hit_at = clock()
    limiter.hit("ada", 100_000)
    limiter.set_limit("1000/minute")
    clock.advance(1)

    limiter.charge("ada", amount, since=hit_at)

    assert limiter.peek("ada", 0).reset_after == pytest.approx(ends_in)


def test_adopted_decision_after_a_lower_limit_prolongs_no_wait(clock: FakeClock) -> None:
    """A bucket that is fuller than that of the decision keeps its rate."""
    limiter = Limiter("100/minute", strategy="gcra", clock=clock)
    limiter.hit("ada", 100)
    limiter.set_limit("10/minute")

    limiter.adopt("ada", Decision(False, 10, 0, 60.0, 6.0))

    assert limiter.peek("ada", 0).reset_after == pytest.approx(60)

"""Properties of all strategies, and comparison with the `limits` package."""

from __future__ import annotations

import asyncio
import math
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import (
    FixedWindowRateLimiter,
    RateLimiter,
    SlidingWindowCounterRateLimiter,
)

from tokenpulse_mw import Decision, Limiter
from tokenpulse_mw.ratelimit.limiters.strategy import STRATEGIES, create_strategy

from ...support.clock import FakeClock

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)

# Times that are exact as float: sixteenths of a second, in windows of 64 seconds.
SIXTEENTH = 1 / 16
WINDOW = 64
starts = st.integers(16 * WINDOW, 10**8).map(lambda ticks: ticks * SIXTEENTH)
pauses = st.one_of(st.just(0.0), st.integers(0, 1500).map(lambda ticks: ticks * SIXTEENTH))


class Time:
    """Replacement of the module `time` in the `limits` package."""

    def __init__(self, clock: FakeClock) -> None:
        self.time = clock


def assert_equal_decisions(
    limiter: Limiter, reference: RateLimiter, traffic: list[tuple[str, int, float]]
) -> None:
    """Assert that both limiters allow the same requests and leave the same remaining requests."""
    clock = limiter.clock
    assert isinstance(clock, FakeClock)
    item = RateLimitItemPerSecond(limiter.limit, WINDOW)

    async def compare() -> None:
        for key, cost, pause in traffic:
            clock.advance(pause)
            decision = limiter.hit(key, cost)
            assert decision.allowed == await reference.hit(item, key, cost=cost)
            assert decision.remaining == (await reference.get_window_stats(item, key)).remaining

    with pytest.MonkeyPatch.context() as patch:
        for module in ("limits.aio.storage.memory", "limits.aio.strategies"):
            patch.setattr(f"{module}.time", Time(clock))
        asyncio.run(compare())


@given(
    limit=st.integers(1, 8),
    start=starts,
    traffic=st.lists(st.tuples(st.sampled_from("ab"), st.just(1), pauses), max_size=60),
)
def test_fixed_windows_decide_as_limits(
    limit: int, start: float, traffic: list[tuple[str, int, float]]
) -> None:
    """Requests of cost 1 are allowed exactly as by the `limits` package."""
    limiter = Limiter(f"{limit} per {WINDOW} seconds", clock=FakeClock(start))

    assert_equal_decisions(limiter, FixedWindowRateLimiter(MemoryStorage()), traffic)


@given(
    limit=st.integers(1, 8),
    start=starts,
    traffic=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), pauses), max_size=60),
)
def test_sliding_window_counters_decide_as_limits(
    limit: int, start: float, traffic: list[tuple[str, int, float]]
) -> None:
    """Requests of any cost are allowed exactly as by the `limits` package."""
    strategy = "sliding-window-counter"
    limiter = Limiter(f"{limit} per {WINDOW} seconds", strategy=strategy, clock=FakeClock(start))

    assert_equal_decisions(limiter, SlidingWindowCounterRateLimiter(MemoryStorage()), traffic)


class Case(NamedTuple):
    """A limiter with usage of the key "a", its clock, and the cost of the next request."""

    limiter: Limiter
    clock: FakeClock
    cost: int

    def peek(self) -> Decision:
        """Return the decision on the next request."""
        return self.limiter.peek("a", self.cost)


def case_of(
    strategy: str, rate: tuple[int, int], start: float, shares: list[tuple[float, float]]
) -> Case:
    """Return a case after some requests.

    Args:
        strategy: Strategy of the limiter.
        rate: Limit and window.
        start: Time of the first request.
        shares: Cost of each request as share of the limit, and pause as share of the window.
    """
    clock = FakeClock(start)
    limiter = Limiter("{} per {} seconds".format(*rate), strategy=strategy, clock=clock)
    cost = 1
    for of_limit, of_window in shares:
        limiter.hit("a", cost)
        clock.advance(of_window**2 * limiter.window)  # squared: most pauses are short
        cost = math.ceil(of_limit * limiter.limit)
    return Case(limiter, clock, cost)


def cases(strategy: str) -> st.SearchStrategy[Case]:
    """Return a strategy of cases with various limits, windows and clocks."""
    return st.builds(
        case_of,
        strategy=st.just(strategy),
        rate=st.tuples(st.integers(1, 10_000), st.sampled_from([1, 7, 60, 3599, 86_400])),
        start=st.floats(86_400, 1e9),
        shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1.3)), min_size=1, max_size=8),
    )


@every_strategy
@given(data=st.data())
def test_request_after_retry_after_is_allowed(strategy: str, data: st.DataObject) -> None:
    """After exactly `retry_after` the same request is allowed."""
    case = data.draw(cases(strategy))

    case.clock.advance(case.peek().retry_after)

    assert case.limiter.hit("a", case.cost).allowed


@every_strategy
@given(data=st.data())
def test_request_before_retry_after_is_rejected(strategy: str, data: st.DataObject) -> None:
    """Slightly before `retry_after` the same request is still rejected."""
    case = data.draw(cases(strategy))
    wait = case.peek().retry_after
    margin = max(wait / 100, case.limiter.window * 2e-6, 1e-3)

    case.clock.advance(max(wait - margin, 0.0))

    assert case.limiter.hit("a", case.cost).allowed == (wait == 0.0)


@every_strategy
@given(data=st.data())
def test_all_of_the_limit_remains_after_reset_after(strategy: str, data: st.DataObject) -> None:
    """After exactly `reset_after` no usage is counted."""
    case = data.draw(cases(strategy))

    case.clock.advance(case.peek().reset_after)

    assert case.limiter.peek("a").remaining == case.limiter.limit
    assert case.limiter.hit("a", case.limiter.limit).allowed


@every_strategy
@settings(max_examples=50)
@given(data=st.data())
def test_peek_returns_the_decision_of_a_hit(strategy: str, data: st.DataObject) -> None:
    """`peek` and `hit` agree, and `peek` changes nothing."""
    case = data.draw(cases(strategy))

    peeked, again = case.peek(), case.peek()
    hit = case.limiter.hit("a", case.cost)

    assert peeked == again
    assert (hit.allowed, hit.retry_after) == (peeked.allowed, peeked.retry_after)
    assert hit.remaining == peeked.remaining - (case.cost if hit.allowed else 0)


@every_strategy
@settings(max_examples=50)
@given(data=st.data())
def test_rejected_request_costs_nothing(strategy: str, data: st.DataObject) -> None:
    """This holds for costs above the remaining requests and above the limit."""
    case = data.draw(cases(strategy))
    before = case.peek()

    for cost in (case.limiter.limit + 1, before.remaining + 1):
        assert not case.limiter.hit("a", cost).allowed

    assert case.peek() == before


@every_strategy
def test_cost_above_the_limit_has_an_infinite_wait(strategy: str, clock: FakeClock) -> None:
    """This holds for unused and for used keys."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)

    assert limiter.hit("a", 4).retry_after == math.inf
    limiter.hit("a", 3)
    assert limiter.hit("a", 4).retry_after == math.inf


@every_strategy
def test_cost_0_is_always_allowed(strategy: str, clock: FakeClock) -> None:
    """This holds also for a key that has used up its limit."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)

    assert limiter.hit("a", 0)[:3] == (True, 3, 3)
    limiter.hit("a", 3)
    assert limiter.hit("a", 0)[:3] == (True, 3, 0)


@every_strategy
def test_cost_0_is_allowed_in_debt(strategy: str, clock: FakeClock) -> None:
    """A usage beyond the limit does not reject a cost of 0."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    limiter.charge("a", 9)

    assert limiter.hit("a", 0).allowed
    assert limiter.peek("a", 0).allowed


@every_strategy
def test_retry_after_includes_debt(strategy: str, clock: FakeClock) -> None:
    """A key in debt is rejected exactly until its `retry_after`."""
    limiter = Limiter("4/minute", strategy=strategy, clock=clock)
    limiter.hit("a")
    limiter.charge("a", 5)

    rejected = limiter.hit("a")

    assert (rejected.allowed, rejected.remaining) == (False, 0)
    clock.advance(rejected.retry_after - 0.001)
    assert not limiter.hit("a").allowed
    clock.advance(0.001)
    assert limiter.hit("a").allowed


@every_strategy
@given(
    requests=st.lists(
        st.tuples(pauses, st.integers(1, 8), st.integers(0, 8), st.integers(0, 4)), max_size=40
    )
)
def test_reserve_and_refund_allow_no_more_than_the_final_cost(
    strategy: str, requests: list[tuple[float, int, int, int]]
) -> None:
    """An allowed reserve is also allowed by a limiter that counts the final cost at once."""
    clock = FakeClock(16.0 * WINDOW)
    reserving = Limiter(f"8 per {WINDOW} seconds", strategy=strategy, clock=clock)
    reference = Limiter(f"8 per {WINDOW} seconds", strategy=strategy, clock=clock)
    refunds: list[tuple[int, float, int]] = []

    for number, (pause, reserved, unused, delay) in enumerate(requests):
        clock.advance(pause)
        for due in [refund for refund in refunds if refund[0] <= number]:
            refunds.remove(due)
            reserving.charge("a", -due[2], since=due[1])
        allowed = reserving.hit("a", reserved).allowed
        amount = min(unused, reserved)
        assert reference.hit("a", reserved - amount if allowed else 0).allowed
        if allowed:
            refunds.append((number + delay, clock(), amount))


@pytest.mark.parametrize("name", ["", "Fixed-Window", "moving-window", "token-bucket", None, []])
def test_unknown_strategy_is_rejected(name: Any) -> None:
    """The error lists the strategies."""
    with pytest.raises(ValueError, match=r"^strategy must be one of fixed-window, .*, gcra, got "):
        Limiter("1/minute", strategy=name)


@every_strategy
def test_create_strategy_returns_the_named_strategy(strategy: str) -> None:
    """The strategy has the limit and the window."""
    created = create_strategy(strategy, limit=3, window=60)

    assert type(created) is STRATEGIES[strategy]
    assert (created.limit, created.window) == (3, 60)


@every_strategy
@pytest.mark.parametrize("amount", [10**9, 10**12, 10**400], ids=["10**9", "10**12", "10**400"])
def test_charge_of_any_amount_ends_within_ten_windows(
    strategy: str, amount: int, clock: FakeClock
) -> None:
    """A charge of any size raises no error and limits a key for less than ten windows."""
    limiter = Limiter("100/minute", strategy=strategy, clock=clock)

    for _ in range(3):
        limiter.charge("a", amount)
    rejected = limiter.hit("a")

    assert (rejected.allowed, rejected.remaining) == (False, 0)
    assert 0 < rejected.retry_after < 10 * 60
    assert 0 < rejected.reset_after <= 10 * 60
    clock.advance(rejected.retry_after)
    assert limiter.hit("a").allowed

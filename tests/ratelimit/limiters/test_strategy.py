"""What holds whichever way requests are counted, and where the `limits` package agrees."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

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
from tokenpulse_mw.ratelimit.limiters.strategy import STRATEGIES, strategy_named

from ...support.clock import FakeClock

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)

# Times that floats hold exactly, so that rounding is no excuse: sixteenths of a second, in
# windows of 64 seconds.
SIXTEENTH = 1 / 16
WINDOW = 64
starts = st.integers(16 * WINDOW, 10**8).map(lambda ticks: ticks * SIXTEENTH)
pauses = st.one_of(st.just(0.0), st.integers(0, 1500).map(lambda ticks: ticks * SIXTEENTH))


class Time:
    """As much of the module `time` as the `limits` package needs."""

    def __init__(self, clock: FakeClock) -> None:
        self.time = clock


def agree(ours: Limiter, theirs: RateLimiter, traffic: list[tuple[str, int, float]]) -> None:
    """Check that both decide alike of each request, and that the same remains of the limit."""
    clock = ours.clock
    assert isinstance(clock, FakeClock)
    item = RateLimitItemPerSecond(ours.limit, WINDOW)

    async def compare() -> None:
        for key, cost, pause in traffic:
            clock.advance(pause)
            decision = ours.hit(key, cost)
            assert decision.allowed == await theirs.hit(item, key, cost=cost)
            assert decision.remaining == (await theirs.get_window_stats(item, key)).remaining

    with pytest.MonkeyPatch.context() as patch:
        for module in ("limits.aio.storage.memory", "limits.aio.strategies"):
            patch.setattr(f"{module}.time", Time(clock))
        asyncio.run(compare())


@given(
    limit=st.integers(1, 8),
    start=starts,
    traffic=st.lists(st.tuples(st.sampled_from("ab"), st.just(1), pauses), max_size=60),
)
def test_fixed_windows_are_those_of_limits(
    limit: int, start: float, traffic: list[tuple[str, int, float]]
) -> None:
    """Single requests are allowed or refused exactly as the `limits` package would."""
    ours = Limiter(f"{limit} per {WINDOW} seconds", clock=FakeClock(start))

    agree(ours, FixedWindowRateLimiter(MemoryStorage()), traffic)


@given(
    limit=st.integers(1, 8),
    start=starts,
    traffic=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9), pauses), max_size=60),
)
def test_sliding_window_counters_are_those_of_limits(
    limit: int, start: float, traffic: list[tuple[str, int, float]]
) -> None:
    """Requests of any cost are allowed or refused exactly as the `limits` package would."""
    strategy = "sliding-window-counter"
    ours = Limiter(f"{limit} per {WINDOW} seconds", strategy=strategy, clock=FakeClock(start))

    agree(ours, SlidingWindowCounterRateLimiter(MemoryStorage()), traffic)


class Used(NamedTuple):
    """A limiter that has seen some requests of "a", its clock, and what the next one costs."""

    limiter: Limiter
    clock: FakeClock
    cost: int

    def peek(self) -> Decision:
        """What would be decided of the next request."""
        return self.limiter.peek("a", self.cost)


def used(
    strategy: str, rate: tuple[int, int], start: float, shares: list[tuple[float, float]]
) -> Used:
    """`shares` are those of the limit that each request takes, and of the windows in between."""
    clock = FakeClock(start)
    limiter = Limiter("{} per {} seconds".format(*rate), strategy=strategy, clock=clock)
    cost = 1
    for of_limit, of_window in shares:
        limiter.hit("a", cost)
        clock.advance(of_window**2 * limiter.window)  # squared: most pauses are short
        cost = math.ceil(of_limit * limiter.limit)
    return Used(limiter, clock, cost)


def any_used(strategy: str) -> st.SearchStrategy[Used]:
    """Odd limits and windows, on clocks that have run for a day or for decades."""
    return st.builds(
        used,
        strategy=st.just(strategy),
        rate=st.tuples(st.integers(1, 10_000), st.sampled_from([1, 7, 60, 3599, 86_400])),
        start=st.floats(86_400, 1e9),
        shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1.3)), min_size=1, max_size=8),
    )


@every_strategy
@given(data=st.data())
def test_whoever_waits_as_told_is_allowed(strategy: str, data: st.DataObject) -> None:
    """After exactly `retry_after` the same request is allowed."""
    case = data.draw(any_used(strategy))

    case.clock.advance(case.peek().retry_after)

    assert case.limiter.hit("a", case.cost).allowed


@every_strategy
@given(data=st.data())
def test_no_one_is_told_to_wait_for_nothing(strategy: str, data: st.DataObject) -> None:
    """A little before `retry_after` has passed, the same request is refused still."""
    case = data.draw(any_used(strategy))
    wait = case.peek().retry_after
    a_little = max(wait / 100, case.limiter.window * 2e-6, 1e-3)

    case.clock.advance(max(wait - a_little, 0.0))

    assert case.limiter.hit("a", case.cost).allowed == (wait == 0.0)


@every_strategy
@given(data=st.data())
def test_all_of_the_limit_is_free_when_it_was_said_to_be(
    strategy: str, data: st.DataObject
) -> None:
    """After exactly `reset_after` nothing is counted any more."""
    case = data.draw(any_used(strategy))

    case.clock.advance(case.peek().reset_after)

    assert case.limiter.peek("a").remaining == case.limiter.limit
    assert case.limiter.hit("a", case.limiter.limit).allowed


@every_strategy
@settings(max_examples=50)
@given(data=st.data())
def test_peeking_tells_what_a_hit_decides(strategy: str, data: st.DataObject) -> None:
    """Whether it is allowed and how long to wait are the same, and peeking changes neither."""
    case = data.draw(any_used(strategy))

    peeked, again = case.peek(), case.peek()
    hit = case.limiter.hit("a", case.cost)

    assert peeked == again
    assert (hit.allowed, hit.retry_after) == (peeked.allowed, peeked.retry_after)
    assert hit.remaining == peeked.remaining - (case.cost if hit.allowed else 0)


@every_strategy
@settings(max_examples=50)
@given(data=st.data())
def test_what_is_refused_costs_nothing(strategy: str, data: st.DataObject) -> None:
    """Neither a request there is no room for, nor one that costs more than the limit."""
    case = data.draw(any_used(strategy))
    before = case.peek()

    for cost in (case.limiter.limit + 1, before.remaining + 1):
        assert not case.limiter.hit("a", cost).allowed

    assert case.peek() == before


@every_strategy
def test_what_costs_more_than_the_limit_is_never_allowed(strategy: str, clock: FakeClock) -> None:
    """There is no use in waiting, whether or not anything has been used."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)

    assert limiter.hit("a", 4).retry_after == math.inf
    limiter.hit("a", 3)
    assert limiter.hit("a", 4).retry_after == math.inf


@every_strategy
def test_what_costs_nothing_is_always_allowed(strategy: str, clock: FakeClock) -> None:
    """Also for a client that has used up its limit."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)

    assert limiter.hit("a", 0)[:3] == (True, 3, 3)
    limiter.hit("a", 3)
    assert limiter.hit("a", 0)[:3] == (True, 3, 0)


@every_strategy
def test_what_costs_nothing_is_allowed_in_debt_too(strategy: str, clock: FakeClock) -> None:
    """Nobody can owe so much that nothing is too much."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    limiter.charge("a", 9)

    assert limiter.hit("a", 0).allowed
    assert limiter.peek("a", 0).allowed


@every_strategy
def test_debt_is_to_be_waited_for(strategy: str, clock: FakeClock) -> None:
    """Who has used more than its limit is refused until so much is forgotten, and told so."""
    limiter = Limiter("4/minute", strategy=strategy, clock=clock)
    limiter.hit("a")
    limiter.charge("a", 5)

    refused = limiter.hit("a")

    assert (refused.allowed, refused.remaining) == (False, 0)
    clock.advance(refused.retry_after - 0.001)
    assert not limiter.hit("a").allowed
    clock.advance(0.001)
    assert limiter.hit("a").allowed


@every_strategy
@given(
    requests=st.lists(
        st.tuples(pauses, st.integers(1, 8), st.integers(0, 8), st.integers(0, 4)), max_size=40
    )
)
def test_to_reserve_much_and_give_back_wins_nothing(
    strategy: str, requests: list[tuple[float, int, int, int]]
) -> None:
    """All that is allowed would be, had each request cost from the start what it has used."""
    clock = FakeClock(16.0 * WINDOW)
    reserving = Limiter(f"8 per {WINDOW} seconds", strategy=strategy, clock=clock)
    foreseeing = Limiter(f"8 per {WINDOW} seconds", strategy=strategy, clock=clock)
    due: list[tuple[int, float, int]] = []

    for number, (pause, reserved, spared, held) in enumerate(requests):
        clock.advance(pause)
        for settled in [each for each in due if each[0] <= number]:
            due.remove(settled)
            reserving.charge("a", -settled[2], since=settled[1])
        granted = reserving.hit("a", reserved).allowed
        spare = min(spared, reserved)
        assert foreseeing.hit("a", reserved - spare if granted else 0).allowed
        if granted:
            due.append((number + held, clock(), spare))


@pytest.mark.parametrize("name", ["", "Fixed-Window", "moving-window", "token-bucket", None])
def test_a_strategy_that_is_not_known_is_refused(name: str) -> None:
    """The error says what came, and which there are."""
    with pytest.raises(ValueError, match=f"strategy {name!r} is not known: expected one of .*gcra"):
        Limiter("1/minute", strategy=name)


@every_strategy
def test_a_strategy_is_told_its_limit_and_window(strategy: str) -> None:
    """Each name gives the strategy that is called so."""
    made = strategy_named(strategy, limit=3, window=60)

    assert type(made) is STRATEGIES[strategy]
    assert (made.limit, made.window) == (3, 60)


@every_strategy
@pytest.mark.parametrize("amount", [10**9, 10**12, 10**400], ids=["10**9", "10**12", "10**400"])
def test_charge_of_any_amount_ends_within_ten_windows(
    strategy: str, amount: int, clock: FakeClock
) -> None:
    """No number limits a client for years, raises, or makes the counter forget other charges."""
    limiter = Limiter("100/minute", strategy=strategy, clock=clock)

    for _ in range(3):
        limiter.charge("a", amount)
    refused = limiter.hit("a")

    assert (refused.allowed, refused.remaining) == (False, 0)
    assert 0 < refused.retry_after < 10 * 60
    assert 0 < refused.reset_after <= 10 * 60
    clock.advance(refused.retry_after)
    assert limiter.hit("a").allowed

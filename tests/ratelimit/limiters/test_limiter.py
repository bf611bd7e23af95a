"""The limiter's table: who is in it, who leaves it, and what is known of whom."""

from __future__ import annotations

import inspect
import time

import pytest

from tokenpulse_mw import Limiter
from tokenpulse_mw.ratelimit.limiters.strategy import STRATEGIES

from ...support.clock import FakeClock

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def test_clients_do_not_share(clock: FakeClock) -> None:
    """One client's limit is no other's; any hashable value is a client."""
    limiter = Limiter("1/minute", clock=clock)

    keys = ["a", b"a", ("a", 1), 7, None]

    assert all(limiter.hit(key).allowed for key in keys)
    assert not any(limiter.hit(key).allowed for key in keys)


def test_fixed_windows_are_the_default(clock: FakeClock) -> None:
    """That is what the seed has: all of the limit is free again a window after the first use."""
    limiter, fixed = (
        Limiter("2/minute", clock=clock),
        Limiter("2/minute", strategy="fixed-window", clock=clock),
    )

    for pause in (0, 30, 20, 10):
        clock.advance(pause)
        assert limiter.hit("a") == fixed.hit("a")


@pytest.mark.parametrize("cost", [-1, 0.5, "1", True])
def test_what_is_no_cost_is_refused(cost: int) -> None:
    """Nobody can win back what was used, and only whole numbers are counted."""
    limiter = Limiter("1/minute")

    for ask in (limiter.hit, limiter.peek):
        with pytest.raises(ValueError, match="cost must be a whole number of at least 0, got"):
            ask("a", cost=cost)


@pytest.mark.parametrize("size", [0, -1, 1.5, "many", None, True, 10**9])
def test_a_table_without_a_size_is_refused(size: int) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match=f"a whole number from 1 to 10000000, got {size!r}"):
        Limiter("1/minute", max_keys=size)


@every_strategy
def test_peeking_keeps_no_client(strategy: str, clock: FakeClock) -> None:
    """Only those that were counted are in the table."""
    limiter = Limiter("1/minute", strategy=strategy, clock=clock)

    assert limiter.peek("a").allowed
    assert len(limiter) == 0


@every_strategy
def test_a_key_can_be_reset(strategy: str, clock: FakeClock) -> None:
    """Whoever was limited starts anew, whether the table or the sketch had it."""
    limiter = Limiter("1/minute", max_keys=1, strategy=strategy, clock=clock)
    limiter.hit("a")
    limiter.reset("a")
    assert limiter.hit("a").allowed

    limiter.hit("b")
    assert not limiter.peek("a").allowed
    limiter.reset("a")
    assert limiter.hit("a").allowed


def test_the_window_before_is_reset_too() -> None:
    """Of a sliding window that the sketch has, nothing is left either."""
    clock = FakeClock(600.0)
    limiter = Limiter("4/minute", max_keys=1, strategy="sliding-window-counter", clock=clock)
    limiter.hit("a", 2)
    clock.advance(60)
    limiter.hit("a", 2)
    limiter.hit("b")

    limiter.reset("a")

    assert limiter.peek("a").remaining == 4


@every_strategy
def test_who_leaves_a_full_table_is_remembered(strategy: str, clock: FakeClock) -> None:
    """It is counted, and comes back with all that it had used."""
    limiter = Limiter("3/minute", max_keys=2, strategy=strategy, clock=clock)
    limiter.hit("a", 2)
    before = limiter.peek("a")

    limiter.hit("b")
    assert limiter.evictions == 0
    limiter.hit("c")

    assert (len(limiter), limiter.evictions) == (2, 1)
    after = limiter.peek("a")
    assert after[:3] == before[:3]
    assert after.reset_after == pytest.approx(before.reset_after)
    assert [limiter.hit("a").allowed for _ in range(2)] == [True, False]


def test_both_windows_of_who_leaves_a_full_table_are_remembered() -> None:
    """A sliding window comes back whole."""
    clock = FakeClock(600.0)
    limiter = Limiter("9/minute", max_keys=1, strategy="sliding-window-counter", clock=clock)
    limiter.hit("a", 4)
    clock.advance(75)
    limiter.hit("a", 2)
    before = limiter.peek("a")

    limiter.hit("b")

    assert limiter.peek("a") == before
    clock.advance(60)
    assert limiter.peek("a").remaining == 8  # three quarters of 2 count, rounded down


@every_strategy
def test_who_was_forgotten_gets_nothing_back(strategy: str, clock: FakeClock) -> None:
    """It has nothing to get back, and is not taken into the table for that."""
    limiter = Limiter("3/minute", strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    since = clock()
    clock.advance(120)

    limiter.charge("a", -3, since=since)
    limiter.charge("b", 0)

    assert limiter.peek("a").remaining == 3
    assert limiter.hit("c").allowed  # makes room of what has expired
    assert len(limiter) == 1


@every_strategy
def test_who_was_let_go_gets_nothing_back(strategy: str, clock: FakeClock) -> None:
    """What was given back to it might be what another one has used: the sketch only counts up."""
    limiter = Limiter("3/minute", max_keys=1, strategy=strategy, clock=clock)
    limiter.hit("a", 3)
    limiter.hit("b")

    limiter.charge("a", -3)

    assert not limiter.peek("a").allowed


@every_strategy
def test_whoever_owes_is_taken_into_the_table(strategy: str, clock: FakeClock) -> None:
    """Whether it is not known, or is remembered in the sketch with what it has used before."""
    limiter = Limiter("3/minute", max_keys=1, strategy=strategy, clock=clock)

    limiter.charge("a", 2)
    assert (len(limiter), limiter.peek("a").remaining) == (1, 1)
    limiter.hit("b")
    limiter.charge("a", 1)

    assert (len(limiter), limiter.peek("a").remaining) == (1, 0)


@every_strategy
def test_a_client_that_goes_on_asking_does_not_hold_up_the_others(
    strategy: str, clock: FakeClock
) -> None:
    """Those that came after it and have fallen silent leave the table when their time is over."""
    limiter = Limiter("60/minute", strategy=strategy, clock=clock)
    for key in ("busy", "b", "c"):
        limiter.hit(key)

    for _ in range(13):
        clock.advance(10)
        limiter.hit("busy")
    limiter.hit("d")

    assert len(limiter) == 2


def test_a_window_that_was_taken_up_again_expires_in_its_turn(clock: FakeClock) -> None:
    """It keeps its end, and does not stay in the table behind windows that began later."""
    limiter = Limiter("5/minute", max_keys=2, clock=clock)
    limiter.hit("a")
    clock.advance(50)
    for key in ("b", "c", "a"):
        limiter.hit(key)
    clock.advance(11)

    limiter.hit("d")

    assert limiter.evictions == 2  # "a" and "b" left a full table; then "a" was over, and made room
    assert limiter.peek("c").remaining == 4


@every_strategy
def test_the_time_of_day_does_not_matter(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may set the clock on the wall an hour on, or back: waits stay as they were."""
    limiter = Limiter("2/month", strategy=strategy)
    limiter.hit("a", 2)
    told = limiter.peek("a").retry_after
    now = time.time()

    for jump in (3600, -3600, 10**9):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        decision = limiter.hit("a")
        assert not decision.allowed
        assert decision.retry_after == pytest.approx(told, abs=60)


def test_the_clock_is_one_that_never_jumps() -> None:
    """Unless another one is given."""
    assert inspect.signature(Limiter).parameters["clock"].default is time.monotonic
    assert Limiter("1/minute").clock is time.monotonic


@pytest.mark.parametrize("amount", [1.5, "1", True, None])
def test_what_is_no_amount_is_refused(amount: int) -> None:
    """The error says what came."""
    with pytest.raises(ValueError, match="amount must be a whole number, got"):
        Limiter("1/minute").charge("a", amount)


def test_the_largest_limit_holds_for_those_who_left_the_table(clock: FakeClock) -> None:
    """As much as can be limited, can be remembered."""
    limiter = Limiter(f"{2**48 - 1} per day", max_keys=1, clock=clock)
    limiter.hit("a", 2**48 - 1)

    limiter.hit("b")

    assert not limiter.hit("a").allowed


def test_a_clock_that_is_no_function_is_refused() -> None:
    """A time is no clock: forgotten parentheses the other way round."""
    with pytest.raises(ValueError, match="clock must be a function such as"):
        Limiter("1/minute", clock=5)  # type: ignore[arg-type]

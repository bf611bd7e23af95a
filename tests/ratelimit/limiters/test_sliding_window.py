"""Sliding window counters: how the window before fades, and what is charged to which."""

from __future__ import annotations

import pytest

from tokenpulse_mw import Limiter

from ...support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """A clock at the beginning of a minute."""
    return FakeClock(600.0)


@pytest.fixture
def limiter(clock: FakeClock) -> Limiter:
    """Ten a minute."""
    return Limiter("10/minute", strategy="sliding-window-counter", clock=clock)


def test_a_client_may_use_its_limit_and_no_more(clock: FakeClock, limiter: Limiter) -> None:
    """What was used counts in whole until the minute of the clock is over, then fades in one."""
    clock.advance(20)

    assert limiter.hit("a", 9)[:5] == (True, 10, 1, 100.0, 0.0)
    assert limiter.hit("a")[:5] == (True, 10, 0, 100.0, 0.0)
    refused = limiter.hit("a")
    assert refused[:4] == (False, 10, 0, 100.0)
    assert refused.retry_after == pytest.approx(40.0)


def test_the_window_before_counts_for_the_part_that_is_less_than_a_window_ago(
    clock: FakeClock, limiter: Limiter
) -> None:
    """Of ten, after a quarter of a window seven and a half count, and are rounded down."""
    limiter.hit("a", 10)

    clock.advance(75)

    assert limiter.peek("a")[:5] == (True, 10, 3, 45.0, 0.0)
    assert limiter.hit("a", 3)[:5] == (True, 10, 0, 105.0, 0.0)


def test_the_wait_is_until_so_much_of_the_window_before_has_faded(
    clock: FakeClock, limiter: Limiter
) -> None:
    """More room takes longer."""
    limiter.hit("a", 10)
    clock.advance(75)
    limiter.hit("a", 3)

    assert limiter.peek("a", 1).retry_after == pytest.approx(3.0)
    assert limiter.peek("a", 7).retry_after == pytest.approx(39.0)


def test_the_wait_is_into_the_next_window_where_the_current_one_is_too_full(
    clock: FakeClock, limiter: Limiter
) -> None:
    """The current window has to end, and then to fade."""
    limiter.hit("a", 10)
    clock.advance(15)

    assert limiter.peek("a", 6).retry_after == pytest.approx(45.0 + 30.0)


def test_there_is_no_burst_around_the_end_of_a_window(clock: FakeClock, limiter: Limiter) -> None:
    """Who has used its limit at the end of a minute has little of it at once in the next."""
    clock.advance(59)
    limiter.hit("a", 10)

    clock.advance(7)

    assert [limiter.hit("a").allowed for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("silence", [120, 180, 6000])
def test_two_windows_later_all_is_forgotten(
    clock: FakeClock, limiter: Limiter, silence: int
) -> None:
    """However long nothing was asked."""
    limiter.hit("a", 10)

    clock.advance(silence)

    assert limiter.peek("a")[:5] == (True, 10, 10, 0.0, 0.0)


def test_what_is_given_back_returns_to_the_window_it_was_taken_from(
    clock: FakeClock, limiter: Limiter
) -> None:
    """To the current one in whole, to the one before as far as that counts, to no other."""
    limiter.hit("a", 8)
    first = clock()
    limiter.charge("a", -2, since=first)
    assert limiter.peek("a").remaining == 4

    clock.advance(90)
    limiter.hit("a", 7)
    limiter.charge("a", -4, since=first)
    assert limiter.peek("a").remaining == 2  # 7, and half of the 2 that are left

    clock.advance(60)
    limiter.hit("a")
    limiter.charge("a", -7, since=first)
    assert limiter.peek("a").remaining == 6  # 1, and half of 7, rounded down


def test_no_window_ever_holds_less_than_nothing(clock: FakeClock, limiter: Limiter) -> None:
    """Nobody can gain more than the limit by giving back."""
    limiter.hit("a", 2)
    first = clock()
    clock.advance(60)
    limiter.hit("a", 2)

    limiter.charge("a", -9, since=first)
    assert limiter.peek("a").remaining == 8
    limiter.charge("a", -9)
    assert limiter.peek("a").remaining == 10


def test_debt_fades_like_all_that_was_used(clock: FakeClock, limiter: Limiter) -> None:
    """What was used beyond the limit is charged now, and weighs on the next window too."""
    limiter.hit("a", 10)
    clock.advance(30)
    limiter.charge("a", 10, since=600.0)

    refused = limiter.hit("a")

    assert refused[:3] == (False, 10, 0)
    assert refused.retry_after == pytest.approx(30.0 + 30.0)
    clock.advance(refused.retry_after)
    assert limiter.hit("a").allowed


def test_large_limits_lose_nothing_in_rounding() -> None:
    """Whoever waits as told is let in, where a millionth of a request has to fade."""
    clock = FakeClock(10 * 86_400.0)
    limiter = Limiter("1000000/day", strategy="sliding-window-counter", clock=clock)
    limiter.hit("a")
    clock.advance(86_400)
    assert limiter.hit("a", 999_999).allowed

    clock.advance(limiter.peek("a").retry_after)

    assert limiter.hit("a").allowed

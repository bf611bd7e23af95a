"""Sliding window counters: fading, charges and refunds."""

from __future__ import annotations

import pytest

from tokenpulse_mw import Limiter

from ...support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock at the beginning of a minute."""
    return FakeClock(600.0)


@pytest.fixture
def limiter(clock: FakeClock) -> Limiter:
    """Return a limiter of ten requests per minute."""
    return Limiter("10/minute", strategy="sliding-window-counter", clock=clock)


def test_request_above_the_limit_is_rejected_until_usage_fades(
    clock: FakeClock, limiter: Limiter
) -> None:
    """Usage counts fully until the minute of the clock ends, then fades within a minute."""
    clock.advance(20)

    assert limiter.hit("a", 9)[:5] == (True, 10, 1, 100.0, 0.0)
    assert limiter.hit("a")[:5] == (True, 10, 0, 100.0, 0.0)
    rejected = limiter.hit("a")
    assert rejected[:4] == (False, 10, 0, 100.0)
    assert rejected.retry_after == pytest.approx(40.0)


def test_previous_window_counts_by_its_share_rounded_down(
    clock: FakeClock, limiter: Limiter
) -> None:
    """After a quarter of a window, 7.5 of 10 requests count, rounded down to 7."""
    limiter.hit("a", 10)

    clock.advance(75)

    assert limiter.peek("a")[:5] == (True, 10, 3, 45.0, 0.0)
    assert limiter.hit("a", 3)[:5] == (True, 10, 0, 105.0, 0.0)


def test_wait_ends_when_enough_of_the_previous_window_has_faded(
    clock: FakeClock, limiter: Limiter
) -> None:
    """A larger cost has a longer wait."""
    limiter.hit("a", 10)
    clock.advance(75)
    limiter.hit("a", 3)

    assert limiter.peek("a", 1).retry_after == pytest.approx(3.0)
    assert limiter.peek("a", 7).retry_after == pytest.approx(39.0)


def test_wait_extends_into_the_next_window_if_the_current_one_is_full(
    clock: FakeClock, limiter: Limiter
) -> None:
    """The current window has to end and then to fade."""
    limiter.hit("a", 10)
    clock.advance(15)

    assert limiter.peek("a", 6).retry_after == pytest.approx(45.0 + 30.0)


def test_burst_around_the_end_of_a_window_is_rejected(clock: FakeClock, limiter: Limiter) -> None:
    """Usage at the end of a minute still counts at the beginning of the next."""
    clock.advance(59)
    limiter.hit("a", 10)

    clock.advance(7)

    assert [limiter.hit("a").allowed for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize("pause", [120, 180, 6000])
def test_usage_has_faded_after_two_windows(clock: FakeClock, limiter: Limiter, pause: int) -> None:
    """After two windows or more, all of the limit remains."""
    limiter.hit("a", 10)

    clock.advance(pause)

    assert limiter.peek("a")[:5] == (True, 10, 10, 0.0, 0.0)


def test_refund_goes_to_the_window_of_the_hit(clock: FakeClock, limiter: Limiter) -> None:
    """A refund to the previous window counts by its share; earlier hits are not refunded."""
    limiter.hit("a", 8)
    first = clock()
    limiter.charge("a", -2, since=first)
    assert limiter.peek("a").remaining == 4

    clock.advance(90)
    limiter.hit("a", 7)
    limiter.charge("a", -4, since=first)
    assert limiter.peek("a").remaining == 2  # 7, and half of the remaining 2

    clock.advance(60)
    limiter.hit("a")
    limiter.charge("a", -7, since=first)
    assert limiter.peek("a").remaining == 6  # 1, and half of 7, rounded down


def test_refund_never_exceeds_the_usage(clock: FakeClock, limiter: Limiter) -> None:
    """After a too large refund, the limit remains and no more."""
    limiter.hit("a", 2)
    first = clock()
    clock.advance(60)
    limiter.hit("a", 2)

    limiter.charge("a", -9, since=first)
    assert limiter.peek("a").remaining == 8
    limiter.charge("a", -9)
    assert limiter.peek("a").remaining == 10


def test_debt_fades_like_usage(clock: FakeClock, limiter: Limiter) -> None:
    """Usage beyond the limit counts in the current window and fades in the next."""
    limiter.hit("a", 10)
    clock.advance(30)
    limiter.charge("a", 10, since=600.0)

    rejected = limiter.hit("a")

    assert rejected[:3] == (False, 10, 0)
    assert rejected.retry_after == pytest.approx(30.0 + 30.0)
    clock.advance(rejected.retry_after)
    assert limiter.hit("a").allowed


def test_request_after_retry_after_is_allowed_for_large_limits() -> None:
    """Float errors do not matter if one millionth of the limit has to fade."""
    clock = FakeClock(10 * 86_400.0)
    limiter = Limiter("1000000/day", strategy="sliding-window-counter", clock=clock)
    limiter.hit("a")
    clock.advance(86_400)
    assert limiter.hit("a", 999_999).allowed

    clock.advance(limiter.peek("a").retry_after)

    assert limiter.hit("a").allowed

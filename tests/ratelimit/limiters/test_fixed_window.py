"""Fixed windows: beginning, end, charges and refunds."""

from __future__ import annotations

import asyncio
import math

from hypothesis import given
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from tokenpulse_mw import Decision, Limiter

from ...support.clock import FakeClock


def test_request_above_the_limit_is_rejected_with_a_wait(clock: FakeClock) -> None:
    """The wait of the rejection is the rest of the window."""
    limiter = Limiter("2/minute", clock=clock)

    assert limiter.hit("a") == Decision(True, 2, 1, 60.0, 0.0)
    clock.advance(10)
    assert limiter.hit("a") == Decision(True, 2, 0, 50.0, 0.0)
    assert limiter.hit("a") == Decision(False, 2, 0, 50.0, 50.0)


def test_window_begins_with_the_first_request(clock: FakeClock) -> None:
    """The window ends exactly one window later, regardless of rejected requests."""
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    limiter.hit("a")

    clock.advance(59.9)
    assert not limiter.hit("a").allowed
    clock.advance(0.1)
    assert limiter.hit("a").allowed


def test_twice_the_limit_is_allowed_around_the_end_of_a_window(clock: FakeClock) -> None:
    """This is a known property of fixed windows."""
    limiter = Limiter("3/minute", clock=clock)
    limiter.hit("a")

    clock.advance(59)
    assert [limiter.hit("a").allowed for _ in range(3)] == [True, True, False]
    clock.advance(1)
    assert [limiter.hit("a").allowed for _ in range(4)] == [True, True, True, False]


def test_request_after_retry_after_is_allowed_despite_float_errors() -> None:
    """As floats, 28.493 + (1.382 + 60 - 28.493) is slightly before the end of the window."""
    clock = FakeClock(1.382)
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    clock.now = 28.493
    rejected = limiter.hit("a")

    clock.now += rejected.retry_after

    assert not rejected.allowed
    assert limiter.hit("a").allowed


def test_rejected_request_costs_nothing(clock: FakeClock) -> None:
    """After the rejection of a large cost, a smaller cost is allowed."""
    limiter = Limiter("10/minute", clock=clock)

    assert limiter.hit("a", 11) == Decision(False, 10, 10, 60.0, math.inf)
    assert limiter.hit("a", 10) == Decision(True, 10, 0, 60.0, 0.0)


def test_rejected_request_has_a_cost_in_the_limits_package(clock: FakeClock) -> None:
    """The package counts a rejected cost; `Limiter` differs intentionally."""
    limiter = Limiter("10/minute", clock=clock)

    async def decisions_of_limits() -> list[bool]:
        reference, item = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerMinute(10)
        return [await reference.hit(item, "a", cost=cost) for cost in (11, 1)]

    assert asyncio.run(decisions_of_limits()) == [False, False]
    assert [limiter.hit("a", cost).allowed for cost in (11, 1)] == [False, True]


def test_refund_is_available_at_once(clock: FakeClock) -> None:
    """A reserve that is settled for less leaves room in the same window."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 8)
    since = clock()
    clock.advance(30)

    limiter.charge("a", -5, since=since)

    assert limiter.peek("a") == Decision(True, 10, 7, 30.0, 0.0)


def test_refund_never_exceeds_the_usage(clock: FakeClock) -> None:
    """After a too large refund, the limit remains and no more."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 3)

    limiter.charge("a", -5)

    assert limiter.peek("a").remaining == 10


def test_refund_of_an_earlier_window_is_ignored(clock: FakeClock) -> None:
    """The usage of an earlier window has ended with it, so a refund would count twice."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 8)
    before = clock()
    clock.advance(60)
    limiter.hit("a", 4)

    limiter.charge("a", -5, since=before)

    assert limiter.peek("a").remaining == 6


def test_debt_ends_with_the_window(clock: FakeClock) -> None:
    """Usage beyond the limit is charged to the current window."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 1)
    before = clock()
    clock.advance(60)
    limiter.hit("a", 1)
    limiter.charge("a", 100, since=before)

    assert limiter.peek("a") == Decision(False, 10, 0, 60.0, 60.0)
    clock.advance(60)
    assert limiter.hit("a", 10).allowed


@given(
    reserve=st.integers(1, 30),
    seconds=st.lists(st.tuples(st.integers(0, 20), st.lists(st.floats(0, 1))), max_size=50),
)
def test_usage_within_reserves_never_exceeds_the_limit(
    reserve: int, seconds: list[tuple[int, list[float]]]
) -> None:
    """This holds for any number of concurrent requests that use at most their reserve."""
    clock = FakeClock()
    limiter = Limiter("100/minute", clock=clock)
    in_progress: list[float] = []
    used = 0

    for beginning, ending in seconds:
        in_progress += [clock() for _ in range(beginning) if limiter.hit("a", reserve).allowed]
        clock.advance(1)
        for share, since in zip(ending, in_progress, strict=False):
            spent = int(share * reserve)
            limiter.charge("a", spent - reserve, since=since)
            used += spent
        del in_progress[: len(ending)]

    assert used + reserve * len(in_progress) <= 100


@given(start=st.floats(0, 60), pause=st.floats(0, 59))
def test_request_after_retry_after_is_allowed_near_clock_0(start: float, pause: float) -> None:
    """Float errors of times near 0 do not lengthen the wait."""
    clock = FakeClock(start)
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    clock.advance(pause)

    clock.advance(limiter.hit("a").retry_after)

    assert limiter.hit("a").allowed


@given(start=st.floats(0, 1e9))
def test_request_that_opened_the_window_can_be_refunded(start: float) -> None:
    """Float errors of the beginning of the window do not prevent the refund."""
    limiter = Limiter("10/day", clock=FakeClock(start))
    limiter.hit("a", 10)

    limiter.charge("a", -10, since=start)

    assert limiter.peek("a").remaining == 10

"""Fixed windows: when they begin and end, and what is charged to them."""

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


def test_a_client_may_use_its_limit_and_no_more(clock: FakeClock) -> None:
    """The request after the last that is allowed is told how long to wait."""
    limiter = Limiter("2/minute", clock=clock)

    assert limiter.hit("a") == Decision(True, 2, 1, 60.0, 0.0)
    clock.advance(10)
    assert limiter.hit("a") == Decision(True, 2, 0, 50.0, 0.0)
    assert limiter.hit("a") == Decision(False, 2, 0, 50.0, 50.0)


def test_a_window_begins_with_the_clients_first_request(clock: FakeClock) -> None:
    """It ends a whole window later, and what was refused in it is forgotten."""
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    limiter.hit("a")

    clock.advance(59.9)
    assert not limiter.hit("a").allowed
    clock.advance(0.1)
    assert limiter.hit("a").allowed


def test_around_the_end_of_a_window_twice_the_limit_is_allowed(clock: FakeClock) -> None:
    """That is what fixed windows are; the other strategies are for who minds."""
    limiter = Limiter("3/minute", clock=clock)
    limiter.hit("a")

    clock.advance(59)
    assert [limiter.hit("a").allowed for _ in range(3)] == [True, True, False]
    clock.advance(1)
    assert [limiter.hit("a").allowed for _ in range(4)] == [True, True, True, False]


def test_whoever_waits_as_long_as_told_is_let_in_whatever_floats_lose() -> None:
    """1.382 + 60 - 28.493 seconds after 28.493 it is, as floats have it, a hair before the end."""
    clock = FakeClock(1.382)
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    clock.now = 28.493
    refused = limiter.hit("a")

    clock.now += refused.retry_after

    assert not refused.allowed
    assert limiter.hit("a").allowed


def test_a_refused_request_costs_nothing(clock: FakeClock) -> None:
    """After a refusal of much, little is still allowed."""
    limiter = Limiter("10/minute", clock=clock)

    assert limiter.hit("a", 11) == Decision(False, 10, 10, 60.0, math.inf)
    assert limiter.hit("a", 10) == Decision(True, 10, 0, 60.0, 0.0)


def test_a_refused_request_does_cost_in_the_limits_package(clock: FakeClock) -> None:
    """There, one that asks for too much has used up the window: ours differs on purpose."""
    ours = Limiter("10/minute", clock=clock)

    async def theirs() -> list[bool]:
        limiter, item = FixedWindowRateLimiter(MemoryStorage()), RateLimitItemPerMinute(10)
        return [await limiter.hit(item, "a", cost=cost) for cost in (11, 1)]

    assert asyncio.run(theirs()) == [False, False]
    assert [ours.hit("a", cost).allowed for cost in (11, 1)] == [False, True]


def test_what_was_not_used_is_free_at_once(clock: FakeClock) -> None:
    """A reservation that is settled for less leaves room in the same window."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 8)
    since = clock()
    clock.advance(30)

    limiter.charge("a", -5, since=since)

    assert limiter.peek("a") == Decision(True, 10, 7, 30.0, 0.0)


def test_a_window_never_holds_less_than_nothing(clock: FakeClock) -> None:
    """Nobody can gain more than the limit by giving back."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 3)

    limiter.charge("a", -5)

    assert limiter.peek("a").remaining == 10


def test_a_window_gets_back_only_what_was_taken_from_it(clock: FakeClock) -> None:
    """What was reserved in a window before is forgotten already, and not given back twice."""
    limiter = Limiter("10/minute", clock=clock)
    limiter.hit("a", 8)
    before = clock()
    clock.advance(60)
    limiter.hit("a", 4)

    limiter.charge("a", -5, since=before)

    assert limiter.peek("a").remaining == 6


def test_debt_ends_with_the_window(clock: FakeClock) -> None:
    """What was used beyond the limit is charged to the window in which that became known."""
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
    rounds=st.lists(st.tuples(st.integers(0, 20), st.lists(st.floats(0, 1))), max_size=50),
)
def test_no_more_than_the_limit_is_used_in_a_window(
    reserve: int, rounds: list[tuple[int, list[float]]]
) -> None:
    """However many are under way at once, if each uses no more than it has reserved."""
    clock = FakeClock()
    limiter = Limiter("100/minute", clock=clock)
    under_way: list[float] = []
    used = 0

    for arriving, leaving in rounds:
        under_way += [clock() for _ in range(arriving) if limiter.hit("a", reserve).allowed]
        clock.advance(1)
        for share, since in zip(leaving, under_way, strict=False):
            spent = int(share * reserve)
            limiter.charge("a", spent - reserve, since=since)
            used += spent
        del under_way[: len(leaving)]

    assert used + reserve * len(under_way) <= 100


@given(start=st.floats(0, 60), pause=st.floats(0, 59))
def test_whoever_waits_is_let_in_on_a_young_clock_too(start: float, pause: float) -> None:
    """What floats lose of a time near 0 is not the client's loss."""
    clock = FakeClock(start)
    limiter = Limiter("1/minute", clock=clock)
    limiter.hit("a")
    clock.advance(pause)

    clock.advance(limiter.hit("a").retry_after)

    assert limiter.hit("a").allowed


@given(start=st.floats(0, 1e9))
def test_what_has_opened_a_window_can_be_given_back(start: float) -> None:
    """Whatever floats make of when it began."""
    limiter = Limiter("10/day", clock=FakeClock(start))
    limiter.hit("a", 10)

    limiter.charge("a", -10, since=start)

    assert limiter.peek("a").remaining == 10

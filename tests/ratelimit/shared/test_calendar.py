"""Calendar windows that several processes count in one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Decision, Policy, RateLimitMiddleware, Settings, TokenPulse
from tokenpulse_mw.ratelimit.admin.limits import limit_state
from tokenpulse_mw.ratelimit.shared import SharedLimiter
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedHit, hit_together

from ...support.apps import answering
from ...support.asgi import drive, http_scope
from ...support.clock import FakeClock
from ...support.gates import client
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import direct_client, url
from .test_refusals import at_once

pytestmark = pytest.mark.anyio

DAY = 86_400.0
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
REFUSED = "redis://127.0.0.1:1"

Result = TypeVar("Result")


def on(server: Server, limit: str, wall: FakeClock, **options: Any) -> SharedLimiter:
    """Return a limiter of a process with this wall clock."""
    options = {"storage": url(server), "timeout": PATIENCE, **options}
    return SharedLimiter(limit, wall_clock=wall, **options)


async def allowed(limiter: SharedLimiter, hits: int = 9) -> int:
    """Return how many hits of a key are allowed."""
    return sum([(await limiter.hit("team")).allowed for _ in range(hits)])


async def across_the_end(request: Awaitable[Result], wall: FakeClock) -> Result:
    """Return the result of a request to the storage during which a window ends, a minute later."""
    task = asyncio.ensure_future(request)
    asyncio.get_running_loop().call_soon(wall.advance, 60)
    return await task


async def test_window_of_all_processes_ends_with_the_calendar(redis: Server) -> None:
    """The next window begins for all, and the wait until then is exact."""
    wall = FakeClock(NEW_YEAR - 60)
    first, second = (on(redis, "3 per calendar year", wall) for _ in range(2))

    assert await allowed(first, 2) == 2
    assert (await second.peek("team")).reset_after == pytest.approx(60, abs=0.1)
    assert await allowed(second) == 1
    rejected = await first.hit("team")
    assert rejected.retry_after == rejected.reset_after == pytest.approx(60, abs=0.1)
    [(key, used, ends_in)] = first.usage()
    assert (key, used) == ("team", 3)
    assert ends_in == pytest.approx(60, abs=0.1)

    wall.advance(60)
    assert await first.peek("team") == Decision(True, 3, 3, 365 * DAY, 0.0)
    assert await allowed(second, 2) == 2
    assert await allowed(first) == 1


async def test_processes_with_different_clocks_share_a_window(redis: Server) -> None:
    """A clock that is ahead neither ends the window of the others, nor reopens it."""
    wall, ahead = FakeClock(NEW_YEAR - 20), FakeClock(NEW_YEAR - 10)
    late, early = on(redis, "3 per calendar day", wall), on(redis, "3 per calendar day", ahead)

    assert await allowed(early, 2) == 2
    ahead.advance(10)
    wall.advance(10)
    assert await allowed(early) == 3
    assert await allowed(late) == 1
    wall.advance(10)
    assert await allowed(late) == 0


async def test_wait_is_until_the_own_clock_leaves_the_window(redis: Server) -> None:
    """A clock that is ahead has created the counter, so its lifetime states no wait."""
    late, early = FakeClock(NEW_YEAR - 30), FakeClock(NEW_YEAR - 1)
    limiter = on(redis, "3 per calendar day", late, clock=late)
    await allowed(on(redis, "3 per calendar day", early))

    rejected = await limiter.hit("team")

    assert rejected == Decision(False, 3, 0, 30.0, 30.0)
    assert at_once(limiter, "team") == rejected
    assert (await limiter.peek("team")) == rejected


async def test_hit_of_a_window_that_ends_meanwhile_leaves_nothing_in_the_next(
    redis: Server,
) -> None:
    """The client need not wait, neither for the storage nor for the table of this process."""
    wall = FakeClock(NEW_YEAR - 60)
    limiter = on(redis, "3 per calendar month", wall)
    await allowed(limiter, 3)

    rejected = await across_the_end(limiter.hit("team"), wall)

    assert rejected == Decision(False, 3, 0, 0.0, 0.0)
    assert limiter.usage() == []
    redis.kill()
    assert await allowed(limiter) == 3


@pytest.mark.parametrize("policies", [1, 2])
async def test_refund_of_a_hit_before_a_window_is_not_taken_from_its_budget(
    redis: Server, policies: int
) -> None:
    """The hit has counted in the window of its request, although its response came later."""
    wall = FakeClock(NEW_YEAR - 60)
    month, day = on(redis, "100 per calendar month", wall), on(redis, "100/day", wall)
    limits = [Policy(month, key=client, tokens=60), Policy(day, name="day", key=client, tokens=60)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert (await month.hit("client", 80)).remaining == 20
        await answering(b"", status=500)(scope, receive, send)  # which has used no tokens

    limited = RateLimitMiddleware(app, policies=limits[:policies])
    response = await across_the_end(drive(limited, http_scope(method="POST")), wall)

    assert response.status == 500
    assert (await month.peek("client")).remaining == 20
    assert (await day.peek("client")).remaining == 100


async def test_repeated_rejection_lasts_a_second_after_the_wall_clock_was_set_back(
    redis: Server, clock: FakeClock
) -> None:
    """The calendar stands still meanwhile, so the age of a rejection is not by its clock."""
    wall = FakeClock(NEW_YEAR + 60)
    limiter, other = (on(redis, "3 per calendar day", wall, clock=clock) for _ in range(2))
    await allowed(limiter)
    await other.peek("team")
    wall.now -= 1800
    assert await allowed(limiter) == 0

    await other.reset("team")
    clock.advance(1)

    assert await allowed(limiter, 1) == 1


async def test_clock_of_a_shared_calendar_can_be_replaced(redis: Server, clock: FakeClock) -> None:
    """The windows in the storage and those of this process follow it, until it is restored."""
    wall = FakeClock(0.0)
    limiter = on(redis, "3 per calendar day", FakeClock(NEW_YEAR - 60), clock=clock)
    before = limiter.clock
    await allowed(limiter)

    limiter.clock = wall
    assert (limiter.clock(), await allowed(limiter)) == (0.0, 3)
    assert (await limiter.hit("team")).retry_after == DAY
    wall.advance(DAY)
    assert await allowed(limiter) == 3

    limiter.clock = before
    assert limiter.clock is before
    assert (await limiter.hit("team")).retry_after == 60
    redis.kill()
    limiter.clock = wall
    assert (await limiter.hit("other")).reset_after == DAY


async def test_counter_outlives_its_window_and_then_ends(redis: Server) -> None:
    """So that the storage does not grow."""
    wall = FakeClock(NEW_YEAR - 60)
    await allowed(on(redis, "3 per calendar month", wall), 1)

    async with direct_client(redis) as client:
        [counter] = [key async for key in client.scan_iter("*")]
        assert 3600 < await client.ttl(counter) <= 3660


@pytest.mark.parametrize(
    ("limit", "timezone"),
    [
        ("3 per calendar day", "Asia/Tokyo"),
        ("3 per calendar week", "UTC"),
        ("3 per 26 hours", None),
        ("0.000003 USD per calendar day", "UTC"),
    ],
)
async def test_other_calendars_count_separately(
    redis: Server, limit: str, timezone: str | None
) -> None:
    """Their windows begin and end at other times, even if the largest have the same length."""
    wall = FakeClock(NEW_YEAR)
    await allowed(on(redis, "3 per calendar day", wall))

    assert await allowed(on(redis, limit, wall, timezone=timezone)) == 3


async def test_window_is_that_of_the_time_zone(redis: Server) -> None:
    """Midnight in Tokyo is at 15:00 UTC."""
    limiter = on(redis, "3 per calendar day", FakeClock(NEW_YEAR), timezone="Asia/Tokyo")

    assert (limiter.period, limiter.timezone) == ("day", "Asia/Tokyo")
    assert (await limiter.peek("team")).reset_after == 15 * 3600


async def test_charge_counts_in_the_present_window(redis: Server) -> None:
    """A refund of a hit before the window is ignored, here and in the storage."""
    wall = FakeClock(NEW_YEAR - 60)
    first, second = (on(redis, "10 per calendar month", wall) for _ in range(2))
    hit_at = first.clock()
    await first.hit("team", 8)

    await first.charge("team", -5, since=hit_at)
    assert (await second.peek("team")).remaining == 7
    wall.advance(60)
    await second.hit("team", 6)
    await first.charge("team", -3, since=hit_at)
    assert (await second.peek("team")).remaining == 4
    await first.charge("team", 2, since=hit_at)
    assert (await second.peek("team")).remaining == 2


async def test_reset_removes_the_present_usage(redis: Server) -> None:
    """The key has its whole limit again, in all processes."""
    wall = FakeClock(NEW_YEAR)
    first, second = (on(redis, "3 per calendar hour", wall) for _ in range(2))
    await allowed(first)

    await first.reset("team")

    assert await allowed(second) == 3


async def test_concurrent_hits_of_several_calendars_are_decided_together(redis: Server) -> None:
    """A request that one limit rejects counts in none."""
    wall = FakeClock(NEW_YEAR)
    by_day, by_month = on(redis, "2/calendar day", wall), on(redis, "9/calendar month", wall)

    async def request() -> bool:
        hits = [SharedHit(limiter, "team", 1, enforced=True) for limiter in (by_day, by_month)]
        decisions = await hit_together(hits)
        assert decisions is not None
        return all(decision.allowed for decision in decisions)

    assert sum(await asyncio.gather(*[request() for _ in range(9)])) == 2
    assert (await by_month.peek("team")).remaining == 7


async def test_limit_changes_and_keeps_its_calendar(redis: Server) -> None:
    """The usage stays; another period is rejected."""
    limiter = on(redis, "3 per calendar day", FakeClock(NEW_YEAR))
    await allowed(limiter)

    limiter.set_limit("5 per calendar day")

    assert str(limiter.rate) == "5 per calendar day"
    assert await allowed(limiter) == 2
    with pytest.raises(ValueError, match="limit must be per calendar day as before"):
        limiter.set_limit("5/day")


async def test_wall_clock_that_is_set_back_opens_no_window_again(redis: Server) -> None:
    """Requests count in the later window, in each process that has been in it."""
    wall = FakeClock(NEW_YEAR)
    limiter, other = (on(redis, "3 per calendar hour", wall) for _ in range(2))
    await allowed(limiter)
    await other.peek("team")

    wall.now -= 600

    assert (await allowed(limiter), await allowed(other)) == (0, 0)
    wall.advance(600)
    assert await allowed(other) == 0


@pytest.mark.parametrize(
    ("on_error", "hits", "reset_after"), [("local", 3, 60.0), ("allow", 9, 60.0), ("deny", 0, 1.0)]
)
async def test_calendar_applies_without_the_storage(
    on_error: str, hits: int, reset_after: float
) -> None:
    """The windows of this process are those of the calendar."""
    wall = FakeClock(NEW_YEAR - 60)
    limiter = SharedLimiter(
        "3 per calendar day", storage=REFUSED, on_error=on_error, wall_clock=wall
    )

    assert (await limiter.hit("team", 0)).reset_after == reset_after
    assert await allowed(limiter) == hits
    wall.advance(60)
    assert await allowed(limiter) == hits


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"storage": "memcached://127.0.0.1:1"}, "limit must not be of the calendar in a Memca"),
        ({"strategy": "sliding-window-counter"}, "must be 'fixed-window' for a calendar day"),
        ({"timezone": "Mars/Olympus"}, "timezone must be an IANA name"),
    ],
)
def test_calendar_that_cannot_be_shared_is_rejected(options: Any, error: str) -> None:
    """Memcached reads a lifetime above 30 days as a date."""
    with pytest.raises(ValueError, match=error):
        SharedLimiter("3/calendar day", **{"storage": REFUSED, **options})


def test_timezone_without_a_calendar_is_rejected() -> None:
    """It would have no effect."""
    with pytest.raises(ValueError, match="timezone must be None without a calendar window"):
        SharedLimiter("3/day", storage=REFUSED, timezone="UTC")


def test_limit_of_a_gateway_may_be_of_the_calendar_in_a_storage() -> None:
    """The time zone is that of the limit, and the strategy that of calendars."""
    settings = Settings(
        limit="100/calendar day", limit_storage=REFUSED, limit_strategy="sliding-window-counter"
    )
    pulse = TokenPulse(settings=settings)
    added = pulse.limit("20 USD per calendar month", timezone="Europe/Berlin").policy

    limits = [limit_state(policy) for policy in (pulse.policies[0], added)]
    assert [(limit.limit, limit.timezone, limit.storage) for limit in limits] == [
        ("100 per calendar day", "UTC", "redis"),
        ("20 USD per calendar month", "Europe/Berlin", "redis"),
    ]

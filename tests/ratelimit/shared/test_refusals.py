"""Rejections that are repeated without asking the storage."""

from __future__ import annotations

import asyncio
import math

import pytest

from tokenpulse_mw import Decision
from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS
from tokenpulse_mw.ratelimit.shared.refusals import MAX_SECONDS, Refusals
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import url

pytestmark = pytest.mark.anyio

REJECTED = Decision(False, 10, 2, 60.0, 60.0)


def limiter_on(
    server: Server,
    clock: FakeClock,
    limit: str,
    strategy: str = "fixed-window",
    max_keys: int = 5000,
) -> SharedLimiter:
    """Return a limiter on a Redis."""
    return SharedLimiter(
        limit,
        storage=url(server),
        strategy=strategy,
        max_keys=max_keys,
        timeout=PATIENCE,
        clock=clock,
    )


def at_once(limiter: SharedLimiter, key: str = "a", cost: int = 1) -> Decision | None:
    """Return the decision on a hit if it does not wait for the storage; else send it."""
    hit = limiter.hit(key, cost)
    try:
        hit.send(None)
    except StopIteration as decided:
        decision: Decision = decided.value
        return decision
    hit.close()
    return None


async def test_rejected_key_is_rejected_without_the_storage(
    redis: Server, strategy: str, clock: FakeClock
) -> None:
    """The decision is that of the storage, and its times are counted down."""
    limiter = limiter_on(redis, clock, "2/hour", strategy)
    await limiter.hit("a", 2)
    rejected = await limiter.hit("a")

    assert at_once(limiter) == rejected
    clock.advance(0.5)
    later = at_once(limiter)

    assert later is not None
    assert later.reset_after == pytest.approx(rejected.reset_after - 0.5)
    assert later.retry_after == pytest.approx(rejected.retry_after - 0.5)
    if rejected.more_after is None:
        assert later.more_after is None
    else:
        assert later.more_after == pytest.approx(rejected.more_after - 0.5)
    assert (later.allowed, later.limit, later.remaining, later.degraded) == (False, 2, 0, False)
    assert at_once(limiter, "b") is None


async def test_storage_is_asked_again_after_a_second(redis: Server, clock: FakeClock) -> None:
    """A reset or a refund in another process has an effect within a second."""
    limiter, other = (limiter_on(redis, clock, "2/hour") for _ in range(2))
    await limiter.hit("a", 2)
    await limiter.hit("a")
    await limiter.hit("b", 2)
    await limiter.hit("b")

    await other.reset("a")
    await other.charge("b", -1)
    clock.advance(MAX_SECONDS - 0.001)
    assert at_once(limiter, "a") is not None
    clock.advance(0.001)

    assert (await limiter.hit("a")).remaining == 1
    assert (await limiter.hit("b")).remaining == 0


async def test_key_that_another_process_has_used_up_is_asked_for(
    redis: Server, clock: FakeClock
) -> None:
    """Only a rejection by the storage is repeated, so the first hit asks it."""
    limiter, other = (limiter_on(redis, clock, "2/hour") for _ in range(2))
    await limiter.hit("a")
    await other.hit("a")

    assert at_once(limiter) is None
    rejected = await limiter.hit("a")

    assert not rejected.allowed
    assert at_once(limiter) == rejected


async def test_own_reset_charge_and_clear_end_a_rejection(redis: Server, clock: FakeClock) -> None:
    """They have an effect on the next hit, and the storage decides it."""
    limiter = limiter_on(redis, clock, "2/hour")
    await limiter.hit("a", 2)

    assert not (await limiter.hit("a")).allowed
    await limiter.charge("a", -1)
    assert (await limiter.hit("a")).allowed
    assert not (await limiter.hit("a")).allowed
    await limiter.reset("a")
    assert (await limiter.hit("a", 2)).allowed
    assert not (await limiter.hit("a")).allowed
    limiter.clear()
    assert at_once(limiter) is None
    assert not (await limiter.hit("a")).allowed
    limiter.clock = FakeClock(clock())
    assert at_once(limiter) is None


@pytest.mark.parametrize("change", ["reset", "charge", "clear"])
async def test_rejection_from_before_a_change_is_not_repeated(
    redis: Server, clock: FakeClock, change: str
) -> None:
    """A hit that the storage decides before the change may receive its response after it."""
    limiter = limiter_on(redis, clock, "2/hour")
    await limiter.hit("a", 2)
    hit = asyncio.create_task(limiter.hit("a"))
    await asyncio.sleep(0)

    if change == "clear":
        limiter.clear()
    else:
        await (limiter.reset("a") if change == "reset" else limiter.charge("a", -1))

    assert not (await hit).allowed
    assert at_once(limiter) is None


async def test_smaller_cost_is_decided_by_the_storage(redis: Server, clock: FakeClock) -> None:
    """Larger costs are rejected as the storage would reject them, and so is the impossible."""
    limiter = limiter_on(redis, clock, "10/hour")
    await limiter.hit("a", 4)
    rejected = await limiter.hit("a", 7)

    assert at_once(limiter, cost=10) == rejected
    assert at_once(limiter, cost=11) == rejected._replace(retry_after=math.inf)
    assert (await limiter.peek("a", 11)).retry_after == math.inf
    assert (await limiter.hit("a", 5)).remaining == 1
    assert at_once(limiter, cost=7) is None  # the remaining requests have changed
    assert (await limiter.hit("a", 7)).remaining == 1


async def test_cost_above_the_limit_is_rejected_with_an_infinite_wait(
    redis: Server, strategy: str, clock: FakeClock
) -> None:
    """The rejection ends with the window, since more requests remain afterwards."""
    limiter = limiter_on(redis, clock, "10/hour", strategy)
    assert (await limiter.hit("a", 11)).remaining == 10
    assert at_once(limiter, cost=11) is None  # no window is open
    await limiter.hit("a", 4)
    rejected = await limiter.hit("a", 11)

    decision = at_once(limiter, cost=11)

    assert decision == rejected
    assert (decision.remaining, decision.retry_after) == (6, math.inf)


async def test_wait_of_another_cost_in_a_sliding_window_is_that_of_the_storage(
    redis: Server, clock: FakeClock
) -> None:
    """It is longer for a larger cost, so only the storage states it."""
    limiter = limiter_on(redis, clock, "10/hour", "sliding-window-counter")
    await limiter.hit("a", 8)
    rejected = await limiter.hit("a", 3)

    assert at_once(limiter, cost=3) == rejected
    assert at_once(limiter, cost=4) is None
    assert (await limiter.hit("a", 4)).retry_after > rejected.retry_after


async def test_window_that_ends_earlier_ends_the_rejection(redis: Server, clock: FakeClock) -> None:
    """The storage decides from the time in its response on."""
    limiter = limiter_on(redis, clock, "2/second")
    await limiter.hit("a", 2)
    rejected = await limiter.hit("a")

    clock.advance(rejected.retry_after / 2)
    assert at_once(limiter) is not None
    clock.advance(rejected.retry_after / 2)
    assert at_once(limiter) is None


@pytest.mark.parametrize("on_error", ["local", "deny"])
async def test_rejection_of_an_outage_is_not_repeated(
    redis: Server, clock: FakeClock, on_error: str
) -> None:
    """When the storage responds again, it decides."""
    limiter = SharedLimiter(
        "1/hour", storage=url(redis), on_error=on_error, timeout=PATIENCE, clock=clock
    )
    redis.kill()
    await limiter.hit("a")
    assert (await limiter.hit("a")).allowed is False
    redis.start()
    clock.advance(RETRY_SECONDS)

    assert await limiter.hit("a") == Decision(True, 1, 0, 3600.0, 0.0)


async def test_memcached_decides_every_hit(memcached: Server, clock: FakeClock) -> None:
    """Its decisions are not repeated."""
    limiter = limiter_on(memcached, clock, "1/hour")
    await limiter.hit("a")
    assert not (await limiter.hit("a")).allowed

    assert at_once(limiter) is None
    await limiter.aclose()


async def test_flood_of_rejected_keys_does_not_grow_the_table(
    redis: Server, clock: FakeClock
) -> None:
    """The oldest rejections are evicted, and the storage decides on their keys."""
    limiter = limiter_on(redis, clock, "1/hour", max_keys=10)
    for _ in range(2):
        await asyncio.gather(*[limiter.hit(str(number)) for number in range(100)])

    assert len(limiter._refusals) == 10
    assert at_once(limiter, "0") is None
    assert at_once(limiter, "99") is not None


async def test_key_that_cannot_be_hashed_is_an_error(redis: Server) -> None:
    """It is the error of any key that cannot be shared."""
    limiter = SharedLimiter("1/hour", storage=url(redis))

    with pytest.raises(ValueError, match="key of a shared limiter must be"):
        await limiter.hit(["a"])  # type: ignore[arg-type]


def test_clock_that_is_set_back_ends_all_rejections() -> None:
    """Their age is unknown, however small the step and however often it is repeated."""
    refusals = Refusals(10, for_larger_costs=True)
    refusals.record("a", 3, REJECTED, asked=100.0, now=100.0, changes=0)
    assert refusals.find("a", 3, 100.9) is not None

    assert refusals.find("a", 3, 100.8) is None
    assert refusals.find("a", 3, 100.9) is None
    refusals.record("a", 3, REJECTED, asked=100.0, now=99.0, changes=0)
    assert refusals.find("a", 3, 99.5) is None


def test_rejection_is_at_most_a_second_older_than_its_request() -> None:
    """The storage may have decided before the response arrived."""
    refusals = Refusals(10, for_larger_costs=True)

    refusals.record("a", 3, REJECTED, asked=100.0, now=100.75, changes=0)
    assert refusals.find("a", 3, 100.875) == Decision(False, 10, 2, 59.875, 59.875)
    assert refusals.find("a", 3, 101.0) is None
    refusals.record("a", 3, REJECTED, asked=100.0, now=101.0, changes=0)
    assert len(refusals) == 0

"""Local limits during an outage, which continue from the counts of the storage."""

from __future__ import annotations

import asyncio

import pytest

from tokenpulse_mw.ratelimit.shared.refusals import MAX_SECONDS
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import url

pytestmark = pytest.mark.anyio


def limiter_on(
    server: Server, limit: str, clock: FakeClock, strategy: str = "fixed-window", max_keys: int = 50
) -> SharedLimiter:
    """Return a limiter that decides locally during an outage."""
    return SharedLimiter(
        limit,
        storage=url(server),
        strategy=strategy,
        max_keys=max_keys,
        timeout=PATIENCE,
        clock=clock,
    )


@pytest.mark.parametrize("phase", [0.0, 1700.0, 3599.0])
async def test_key_over_its_limit_stays_limited_until_its_reset(
    server: Server, strategy: str, phase: float, clock: FakeClock
) -> None:
    """As counts are integers, the key is allowed at most the time of one request later."""
    clock.advance(phase)
    limiter = limiter_on(server, "5/hour", clock, strategy)
    for _ in range(5):
        assert (await limiter.hit("a")).allowed
    shared = await limiter.hit("a")
    assert not shared.allowed

    server.kill()
    clock.advance(MAX_SECONDS)  # until then, the rejection of the storage is repeated
    local = await limiter.hit("a")
    assert (local.allowed, local.remaining, local.degraded) == (False, 0, True)
    clock.advance(shared.retry_after - 1 - MAX_SECONDS)
    assert not (await limiter.hit("a")).allowed
    clock.advance(1 + 3600 / 5)
    assert (await limiter.hit("a")).allowed


async def test_key_gets_the_remaining_requests_of_the_storage(
    server: Server, strategy: str, clock: FakeClock
) -> None:
    """The local limit includes the usage in other processes."""
    first, second = (limiter_on(server, "10/hour", clock, strategy) for _ in range(2))
    for _ in range(3):
        await first.hit("a")
        await second.hit("a")
    assert (await first.hit("a")).remaining == 3

    server.kill()
    decisions = [await first.hit("a") for _ in range(4)]

    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert (await first.hit("b")).remaining == 9
    await second.aclose()


async def test_flood_of_keys_does_not_clear_the_counts_of_the_storage(
    redis: Server, strategy: str, clock: FakeClock
) -> None:
    """The local table is bounded, and any number of keys over their limit stay limited."""
    limiter = limiter_on(redis, "1/hour", clock, strategy, max_keys=10)
    await asyncio.gather(*[limiter.hit(number) for number in range(100)])
    redis.kill()

    decisions = [await limiter.hit(number) for number in range(100)]

    assert all(decision.degraded for decision in decisions)
    assert not any(decision.allowed for decision in decisions)


async def test_charges_and_refunds_count_during_an_outage(server: Server, clock: FakeClock) -> None:
    """The local limit includes settled reserves."""
    limiter = limiter_on(server, "100/hour", clock)
    for key, reserved, charged in (("more", 40, 55), ("less", 90, -80), ("long", 1, 200)):
        await limiter.hit(key, cost=reserved)
        await limiter.charge(key, charged, since=clock())
    server.kill()

    assert not (await limiter.hit("more", cost=6)).allowed
    assert (await limiter.hit("less", cost=90)).allowed
    assert not (await limiter.hit("long")).allowed


async def test_ended_window_of_the_storage_does_not_count(redis: Server, clock: FakeClock) -> None:
    """The local limit includes only the usage of the current window."""
    limiter = limiter_on(redis, "4/second", clock)
    for _ in range(4):
        await limiter.hit("a")
    async with asyncio.timeout(PATIENCE):
        while not (await limiter.hit("a")).allowed:
            clock.advance(0.05)
            await asyncio.sleep(0.05)
    clock.advance(0.9)
    await limiter.hit("a")

    redis.kill()

    assert (await limiter.hit("a")).remaining == 1


@pytest.mark.parametrize("on_error", ["allow", "deny"])
async def test_only_on_error_local_fills_the_table(redis: Server, on_error: str) -> None:
    """The local table stays empty with "allow" and "deny"."""
    limiter = SharedLimiter(
        "1/hour", storage=f"async+redis://{redis.place}", on_error=on_error, timeout=PATIENCE
    )
    await limiter.hit("a")
    await limiter.charge("a", 5)

    assert len(limiter._local) == 0
    await limiter.aclose()

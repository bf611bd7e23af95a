"""The limits of a process whose storage fails: they go on from what the storage has counted."""

from __future__ import annotations

import asyncio

import pytest

from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.clock import FakeClock
from ...support.servers import Server
from ...support.waiting import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The drivers know asyncio only."""
    return "asyncio"


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each kind of storage."""
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=["fixed-window", "sliding-window-counter"])
def strategy(request: pytest.FixtureRequest) -> str:
    """Each strategy that can be shared."""
    return str(request.param)


def limiter_on(
    server: Server, limit: str, clock: FakeClock, strategy: str = "fixed-window", max_keys: int = 50
) -> SharedLimiter:
    """A limiter that decides by itself when its storage fails."""
    scheme = "memcached" if server.program == "memcached" else "redis"
    return SharedLimiter(
        limit,
        storage=f"async+{scheme}://{server.place}",
        strategy=strategy,
        max_keys=max_keys,
        timeout=PATIENCE,
        clock=clock,
    )


@pytest.mark.parametrize("phase", [0.0, 1700.0, 3599.0])
async def test_a_client_over_its_limit_stays_limited_until_its_reset(
    server: Server, strategy: str, phase: float, clock: FakeClock
) -> None:
    """It is let through again at most the time of one request later, as counts are integers."""
    clock.advance(phase)
    limiter = limiter_on(server, "5/hour", clock, strategy)
    for _ in range(5):
        assert (await limiter.hit("a")).allowed
    shared = await limiter.hit("a")
    assert not shared.allowed

    server.kill()
    alone = await limiter.hit("a")
    assert (alone.allowed, alone.remaining, alone.degraded) == (False, 0, True)
    clock.advance(shared.retry_after - 1)
    assert not (await limiter.hit("a")).allowed
    clock.advance(1 + 3600 / 5)
    assert (await limiter.hit("a")).allowed


async def test_a_client_gets_what_the_storage_had_left(
    server: Server, strategy: str, clock: FakeClock
) -> None:
    """Whichever process has used the rest."""
    here, there = (limiter_on(server, "10/hour", clock, strategy) for _ in range(2))
    for _ in range(3):
        await here.hit("a")
        await there.hit("a")
    assert (await here.hit("a")).remaining == 3

    server.kill()
    decisions = [await here.hit("a") for _ in range(4)]

    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert (await here.hit("b")).remaining == 9
    await there.aclose()


async def test_a_flood_of_clients_does_not_clear_what_the_storage_has_counted(
    redis: Server, strategy: str, clock: FakeClock
) -> None:
    """The table is bounded, and clients over their limit stay so, however many there are."""
    limiter = limiter_on(redis, "1/hour", clock, strategy, max_keys=10)
    await asyncio.gather(*[limiter.hit(number) for number in range(100)])
    redis.kill()

    decisions = [await limiter.hit(number) for number in range(100)]

    assert all(decision.degraded for decision in decisions)
    assert not any(decision.allowed for decision in decisions)


async def test_what_was_charged_counts_without_the_storage(
    server: Server, clock: FakeClock
) -> None:
    """A request that has cost more, or less, than was reserved."""
    limiter = limiter_on(server, "100/hour", clock)
    for key, reserved, charged in (("more", 40, 55), ("less", 90, -80), ("long", 1, 200)):
        await limiter.hit(key, cost=reserved)
        await limiter.charge(key, charged, since=clock())
    server.kill()

    assert not (await limiter.hit("more", cost=6)).allowed
    assert (await limiter.hit("less", cost=90)).allowed
    assert not (await limiter.hit("long")).allowed


async def test_the_next_window_is_not_that_of_the_last_one(redis: Server, clock: FakeClock) -> None:
    """What was used in a window that has ended counts for nothing."""
    limiter = limiter_on(redis, "4/second", clock)
    for _ in range(4):
        await limiter.hit("a")
    async with asyncio.timeout(PATIENCE):
        while not (await limiter.hit("a")).allowed:  # noqa: ASYNC110 - by the clock of Redis
            await asyncio.sleep(0.05)
    clock.advance(0.9)
    await limiter.hit("a")

    redis.kill()

    assert (await limiter.hit("a")).remaining == 1


@pytest.mark.parametrize("on_error", ["allow", "deny"])
async def test_other_ways_to_decide_keep_no_table(redis: Server, on_error: str) -> None:
    """Only "local" has a use for it."""
    limiter = SharedLimiter(
        "1/hour", storage=f"async+redis://{redis.place}", on_error=on_error, timeout=PATIENCE
    )
    await limiter.hit("a")
    await limiter.charge("a", 5)

    assert len(limiter._local) == 0
    await limiter.aclose()

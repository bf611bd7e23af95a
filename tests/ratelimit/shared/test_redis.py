"""Scripts on real Redis servers, also one that is restarted, and a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw import SharedInFlight
from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.clock import FakeClock
from ...support.servers import Server, free_port, redis_server, started
from ...support.waiting import PATIENCE
from .conftest import direct_client, url

pytestmark = pytest.mark.anyio


async def stats_of(server: Server) -> tuple[int, int, int]:
    """Return the calls of EVAL and EVALSHA, and the connections that were opened."""
    async with direct_client(server) as client:
        commands: dict[str, Any] = await client.info("commandstats")
        clients: dict[str, Any] = await client.info("stats")
        evals, by_digest = (
            commands.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha")
        )
        return evals, by_digest, clients["total_connections_received"]


async def test_script_is_sent_once(redis: Server) -> None:
    """Later calls send only its digest, also those of other limiters."""
    for _ in range(3):
        limiter = SharedLimiter("100/hour", storage=url(redis), timeout=PATIENCE)
        for _ in range(5):
            assert not (await limiter.hit("a")).degraded
    slots = SharedInFlight(5, storage=url(redis), timeout=PATIENCE)
    for _ in range(5):
        assert not (await slots.hit("a")).degraded

    evals, by_digest, _ = await stats_of(redis)
    assert (evals, by_digest) == (2, 20)
    await slots.aclose()


async def test_server_that_forgets_the_script_fails_no_request(
    redis: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """After SCRIPT FLUSH, hits in progress send the script, on the same connection."""
    limiters = [SharedLimiter("9999/hour", storage=url(redis), timeout=PATIENCE) for _ in range(3)]
    slots = SharedInFlight(9999, storage=url(redis), timeout=PATIENCE)
    await asyncio.gather(*[limiter.hit("a") for limiter in limiters], slots.hit("a"))
    evals, _, connections = await stats_of(redis)
    flushes = 0

    async with direct_client(redis) as client:

        async def flush() -> None:
            nonlocal flushes
            while flushes < 20:
                await client.script_flush()
                flushes += 1

        async def hit(limiter: SharedLimiter | SharedInFlight) -> int:
            hits = 0
            while flushes < 20:
                assert not (await limiter.hit("a")).degraded
                hits += 1
            return hits

        flushing = asyncio.create_task(flush())
        hits = await asyncio.gather(*[hit(limiter) for limiter in limiters for _ in range(20)])
        await flushing
        await client.script_flush()
        results = await asyncio.gather(*[slots.hit("a") for _ in range(20)])

    assert not any(decision.degraded for decision in results)
    assert (await limiters[0].peek("a")).remaining == 9999 - 3 - sum(hits)
    after = await stats_of(redis)
    assert after[0] > evals
    assert after[2] == connections + 2  # those of this test
    assert caplog.records == []
    await slots.aclose()


async def test_restarted_server_receives_the_script_again(
    redis: Server, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The outage of the restart ends with the first hit after it."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    limiter = SharedLimiter("100/hour", storage=url(redis), timeout=PATIENCE, clock=clock)
    await limiter.hit("a")
    redis.kill()
    assert (await limiter.hit("a")).degraded
    redis.start()
    clock.advance(RETRY_SECONDS)

    decisions = [await limiter.hit("a") for _ in range(3)]

    assert [(decision.remaining, decision.degraded) for decision in decisions] == [
        (99, False),
        (98, False),
        (97, False),
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_error_of_the_server_is_an_outage(
    redis: Server, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A user who may not run scripts gets the decisions of `on_error`."""
    async with direct_client(redis) as client:
        await client.acl_setuser("default", "-evalsha")
        limiter = SharedLimiter("1/hour", storage=url(redis), timeout=PATIENCE, clock=clock)

        assert (await limiter.hit("a")).degraded
        await client.acl_setuser("default", "+evalsha")
        clock.advance(RETRY_SECONDS)
        assert not (await limiter.hit("a")).degraded

    assert "has no permissions to run the 'evalsha' command" in caplog.text


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Server]:
    """Yield a cluster of one server, which has all hash slots."""
    options = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    for server in started(redis_server(folder, *options), "redis-server"):
        async with direct_client(server) as client:
            await client.cluster_addslotsrange([(0, 16383)])
            async with asyncio.timeout(PATIENCE):
                while (await client.cluster_info())["cluster_state"] != "ok":  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        yield server


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis"])
async def test_server_with_hash_slots_counts_every_key_exactly(
    tmp_path: Path, scheme: str, strategy: str
) -> None:
    """It rejects a script for keys of several slots, so each operation has its own script."""
    async with cluster(tmp_path) as server:
        limiter = SharedLimiter(
            "3/hour",
            storage=f"{scheme}://{server.place}",
            strategy=strategy,
            on_error="deny",
            timeout=PATIENCE,
        )

        decisions = await asyncio.gather(*[limiter.hit(str(number % 20)) for number in range(100)])
        await limiter.reset("0")
        first = await limiter.hit("0")

        assert not any(decision.degraded for decision in decisions)
        assert sum(decision.allowed for decision in decisions) == 60
        assert (first.allowed, first.remaining) == (True, 2)
        await limiter.aclose()

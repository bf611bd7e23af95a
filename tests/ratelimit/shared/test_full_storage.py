"""Full storages: eviction policies, and a Redis that rejects writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import coredis
import pytest
import yaml

from tokenpulse_mw.ratelimit.shared.circuit_breaker import RETRY_SECONDS, CircuitBreaker
from tokenpulse_mw.ratelimit.shared.refusals import MAX_SECONDS
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter
from tokenpulse_mw.ratelimit.shared.storage import rejects_writes

from ...monitoring.files import blocks
from ...support.clock import FakeClock
from ...support.servers import Server, memcached_server, redis_server, started
from ...support.waiting import PATIENCE
from .conftest import direct_client

pytestmark = [pytest.mark.anyio, pytest.mark.server]

LIMIT = 20
CLIENTS = 20
FLOOD = 24_000  # keys; a storage has room for a quarter of them


def documented_policy() -> str:
    """Return the eviction policy in the example of docs/operations.md."""
    (example,) = (block for block in blocks("operations.md", "yaml") if "redis-server" in block)
    command: list[str] = yaml.safe_load(example)["services"]["redis"]["command"]
    return command[command.index("--maxmemory-policy") + 1]


@asynccontextmanager
async def small_redis(folder: Path, policy: str) -> AsyncIterator[Server]:
    """Yield a Redis with room for about 6,000 counters."""
    options = ["--maxmemory", "2mb", "--maxmemory-policy", policy]
    for server in started(redis_server(folder, *options), "redis-server"):
        yield server


async def allowed_during_flood(url: str) -> int:
    """Return how often clients over their limit are allowed during a flood of new keys."""
    clock = FakeClock()
    limiter = SharedLimiter(
        f"{LIMIT}/hour", storage=url, on_error="deny", timeout=PATIENCE, clock=clock
    )
    for client in range(CLIENTS):
        assert (await limiter.hit(client, cost=1)).allowed
        for _ in range(LIMIT):
            decision = await limiter.hit(client)
        assert not decision.allowed
    allowed = 0
    for start in range(0, FLOOD, 400):
        flood = [limiter.hit(("flood", start + number)) for number in range(400)]
        assert not any(decision.degraded for decision in await asyncio.gather(*flood))
        clock.advance(MAX_SECONDS)  # so that the storage decides again on the rejected clients
        decisions = [await limiter.hit(client) for client in range(CLIENTS)]
        allowed += sum(decision.allowed for decision in decisions)
    await limiter.aclose()
    return allowed


async def test_flood_resets_no_active_client_with_the_documented_policy(tmp_path: Path) -> None:
    """A full Redis keeps the counters of clients that retry."""
    async with small_redis(tmp_path, documented_policy()) as server:
        assert await allowed_during_flood(f"async+redis://{server.place}") == 0
        async with direct_client(server) as client:
            stats: dict[str, Any] = await client.info("stats")
            assert stats["evicted_keys"] > FLOOD / 4


async def test_flood_resets_clients_with_volatile_ttl(tmp_path: Path) -> None:
    """This policy evicts the windows that end first, such as those of limited clients."""
    async with small_redis(tmp_path, "volatile-ttl") as server:
        assert await allowed_during_flood(f"async+redis://{server.place}") > CLIENTS


async def test_flood_resets_no_active_client_on_memcached(tmp_path: Path) -> None:
    """A full Memcached keeps recently used counters."""
    server = memcached_server(tmp_path, "-m", "2")
    for running in started(server, "memcached"):
        assert await allowed_during_flood(f"async+memcached://{running.place}") == 0


async def test_full_redis_is_an_outage_until_a_request_is_counted(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A rejection needs no memory, so it does not end the outage."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    async with small_redis(tmp_path, "noeviction") as server, direct_client(server) as client:
        storage = f"async+redis://{server.place}"
        limiter = SharedLimiter("1/hour", storage=storage, timeout=PATIENCE, clock=clock)
        assert (await limiter.hit("over")).allowed
        await fill(client)
        before: dict[str, Any] = await client.info("stats")
        connections = before["total_connections_received"]

        assert not (await limiter.hit("over")).degraded
        first, second = await limiter.hit("new"), await limiter.hit("new")
        assert (first.allowed, second.allowed) == (True, False)
        assert (first.degraded, second.degraded) == (True, True)
        for _ in range(3):
            clock.advance(RETRY_SECONDS)
            assert not (await limiter.hit("over")).degraded  # the request that tries
            clock.advance(RETRY_SECONDS)
            assert (await limiter.hit("new")).degraded  # tries, and the write is rejected
            over = await limiter.hit("over")
            assert (over.allowed, over.degraded) == (False, True)
        assert len(caplog.messages) == 1
        assert (
            f"storage {storage} cannot count (WriteRefusedError: OOM command" in caplog.messages[0]
        )
        stats: dict[str, Any] = await client.info("stats")
        assert stats["total_connections_received"] == connections

        await client.config_set({"maxmemory": 0})
        clock.advance(RETRY_SECONDS)
        assert not (await limiter.hit("newer")).degraded
        assert not (await limiter.hit("new")).degraded
        assert caplog.messages[1:] == [
            f"rate limit storage {storage} is available again (seconds=7 failures=4)"
        ]
        await limiter.aclose()


async def test_repeated_outages_are_logged_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An outage after more than a minute is logged, and so is its end."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    breaker = CircuitBreaker("storage", fallback="wait", timeout=1.0, clock=clock)

    for seconds in (5, 70, 5, 5):
        breaker.record_failure("it broke")
        clock.advance(seconds)
        breaker.record_success(wrote=False)

    line = "rate limit storage storage"
    failed = f"{line} is unavailable (it broke); until it recovers, wait"
    assert caplog.messages == [
        failed,
        f"{line} is available again (seconds=5 failures=1)",
        f"{failed} (failures=2)",
        f"{line} is available again (seconds=5 failures=1)",
    ]


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [("min-replicas-to-write", "1", "NOREPLICAS"), ("maxmemory", "1", "OOM")],
)
async def test_refused_write_is_logged_with_the_error_code(
    redis: Server, option: str, value: str, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A Redis that rejects writes is an outage, and the log has the code of the server."""
    limiter = SharedLimiter("5/hour", storage=f"async+redis://{redis.place}", timeout=PATIENCE)
    async with direct_client(redis) as client:
        await client.config_set({option: value})

        assert (await limiter.hit("a")).degraded

    assert f"cannot count (WriteRefusedError: {code} " in caplog.text
    await limiter.aclose()


async def test_error_of_a_replica_is_a_refused_write(tmp_path: Path) -> None:
    """The driver removes the code READONLY from the error of a replica."""
    server = redis_server(tmp_path, "--replicaof", "127.0.0.1", "1", "--replica-read-only", "yes")
    for running in started(server, "redis-server"):
        async with direct_client(running) as client:
            with pytest.raises(coredis.exceptions.ReadOnlyError) as error:
                await client.set("a", "b")
            assert rejects_writes(error.value)
    assert not rejects_writes(ConnectionError("closed"))


async def fill(client: Any) -> None:
    """Write until Redis is full."""
    for size in (10_000, 1):
        with suppress(coredis.exceptions.ResponseError):  # OOM
            for number in range(10_000):
                await client.set(f"{size}-{number}", "x" * size)

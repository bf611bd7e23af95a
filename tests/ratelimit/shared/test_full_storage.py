"""Storages that are full: what each policy of eviction does, and a Redis that refuses to count."""

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
from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter
from tokenpulse_mw.ratelimit.shared.storage import refuses_writes

from ...monitoring.files import blocks
from ...support.clock import FakeClock
from ...support.servers import Server, memcached_server, redis_server, started
from ...support.waiting import PATIENCE

pytestmark = pytest.mark.anyio

LIMIT = 20
CLIENTS = 20
FLOOD = 24_000  # keys, of which a storage has room for a quarter


@pytest.fixture
def anyio_backend() -> str:
    """The drivers know asyncio only."""
    return "asyncio"


def documented_policy() -> str:
    """The policy of eviction that the documentation has."""
    (example,) = (each for each in blocks("operations.md", "yaml") if "redis-server" in each)
    command: list[str] = yaml.safe_load(example)["services"]["redis"]["command"]
    return command[command.index("--maxmemory-policy") + 1]


@asynccontextmanager
async def small_redis(folder: Path, policy: str) -> AsyncIterator[Server]:
    """A Redis with room for some 6,000 counters."""
    options = ["--maxmemory", "2mb", "--maxmemory-policy", policy]
    for server in started(redis_server(folder, *options), "redis-server"):
        yield server


@asynccontextmanager
async def inside(server: Server) -> AsyncIterator[coredis.Redis[str]]:
    """Look at a Redis past the limiter."""
    client = coredis.Redis(port=server.port, decode_responses=True)
    try:
        yield client
    finally:
        client.connection_pool.disconnect()


async def let_in_during_a_flood(url: str) -> int:
    """How often clients over their limit are let in while new keys come."""
    limiter = SharedLimiter(f"{LIMIT}/hour", storage=url, on_error="deny", timeout=PATIENCE)
    for client in range(CLIENTS):
        assert (await limiter.hit(client, cost=1)).allowed
        for _ in range(LIMIT):
            decision = await limiter.hit(client)
        assert not decision.allowed
    let_in = 0
    for start in range(0, FLOOD, 400):
        flood = [limiter.hit(("flood", start + number)) for number in range(400)]
        assert not any(decision.degraded for decision in await asyncio.gather(*flood))
        decisions = [await limiter.hit(client) for client in range(CLIENTS)]
        let_in += sum(decision.allowed for decision in decisions)
    await limiter.aclose()
    return let_in


async def test_a_flood_lets_no_client_in_with_the_documented_policy(tmp_path: Path) -> None:
    """Clients that go on trying are those that a full Redis keeps."""
    async with small_redis(tmp_path, documented_policy()) as server:
        assert await let_in_during_a_flood(f"async+redis://{server.place}") == 0
        async with inside(server) as client:
            stats: dict[str, Any] = await client.info("stats")
            assert stats["evicted_keys"] > FLOOD / 4


async def test_a_flood_lets_clients_in_with_volatile_ttl(tmp_path: Path) -> None:
    """It evicts what ends first, and a client over its limit has an old window."""
    async with small_redis(tmp_path, "volatile-ttl") as server:
        assert await let_in_during_a_flood(f"async+redis://{server.place}") > CLIENTS


async def test_a_flood_lets_no_client_in_on_memcached(tmp_path: Path) -> None:
    """A full Memcached keeps what is asked for."""
    server = memcached_server(tmp_path, "-m", "2")
    for running in started(server, "memcached"):
        assert await let_in_during_a_flood(f"async+memcached://{running.place}") == 0


async def test_a_redis_that_is_full_is_an_outage_of_writes(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It lasts until a request is counted; a refusal, which needs no memory, is no end of it."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    async with small_redis(tmp_path, "noeviction") as server, inside(server) as client:
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
            assert not (await limiter.hit("over")).degraded  # the one that tries
            clock.advance(RETRY_SECONDS)
            assert (await limiter.hit("new")).degraded  # a try that Redis refuses to write
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


async def test_a_storage_that_comes_and_goes_is_logged_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The second outage has a line too, and so has its end."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.ratelimit")
    outage = CircuitBreaker("storage", meanwhile="wait", patience=1.0, clock=clock)

    for seconds in (5, 70, 5, 5):
        outage.record_failure("it broke")
        clock.advance(seconds)
        outage.answered(wrote=False)

    line = "rate limit storage storage"
    failed = f"{line} is unavailable (it broke); until it recovers, wait"
    assert caplog.messages == [
        failed,
        f"{line} is available again (seconds=5 failures=1)",
        f"{failed} (failures=2)",
        f"{line} is available again (seconds=5 failures=1)",
    ]


@pytest.mark.parametrize(
    ("option", "value", "why"),
    [("min-replicas-to-write", "1", "NOREPLICAS"), ("maxmemory", "1", "OOM")],
)
async def test_whatever_keeps_a_redis_from_counting_is_an_outage_of_writes(
    redis: Server, option: str, value: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the server's word for it."""
    limiter = SharedLimiter("5/hour", storage=f"async+redis://{redis.place}", timeout=PATIENCE)
    async with inside(redis) as client:
        await client.config_set({option: value})

        assert (await limiter.hit("a")).degraded

    assert f"cannot count (WriteRefusedError: {why} " in caplog.text
    await limiter.aclose()


async def test_a_replica_refuses_writes(tmp_path: Path) -> None:
    """The driver takes the code off its error."""
    server = redis_server(tmp_path, "--replicaof", "127.0.0.1", "1", "--replica-read-only", "yes")
    for running in started(server, "redis-server"):
        async with inside(running) as client:
            with pytest.raises(coredis.exceptions.ReadOnlyError) as error:
                await client.set("a", "b")
            assert refuses_writes(error.value)
    assert not refuses_writes(ConnectionError("closed"))


async def fill(client: Any) -> None:
    """Write until nothing more fits."""
    for size in (10_000, 1):
        with suppress(coredis.exceptions.ResponseError):  # OOM
            for number in range(10_000):
                await client.set(f"{size}-{number}", "x" * size)

"""Memory of the storage per client, compared with the bounds in docs/ratelimit.md."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokenpulse_mw.ratelimit.shared.shared_limiter import SharedLimiter

from ...support.servers import Server
from ...support.waiting import PATIENCE
from .conftest import direct_client, url

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.slow]

CLIENTS = 5000
WINDOW = 3600  # seconds
DOCS = Path(__file__).parents[3] / "docs" / "ratelimit.md"
AGE_BY_A_WINDOW = f"""
for _, key in ipairs(redis.call('keys', '*')) do
    redis.call('pexpire', key, redis.call('pttl', key) - {WINDOW * 1000})
end
"""


def documented_bound(server: Server, strategy: str) -> int:
    """Return the bound of bytes per client in the table of the documentation."""
    pattern = rf'\| `"{strategy}"` \| \d \| (\d+) bytes \| (\d+) bytes \|'
    row = re.search(pattern, DOCS.read_text())
    assert row is not None
    return int(row[2 if server.program == "memcached" else 1])


async def allocated_bytes(server: Server) -> int:
    """Return the allocated bytes of a server: all of Redis, or the items of Memcached."""
    if server.program != "memcached":
        async with direct_client(server) as client:
            memory: dict[str, Any] = await client.info("memory")
            return int(memory["used_memory"])
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(b"stats slabs\r\n")
        response = b""
        while not response.endswith(b"END\r\n"):
            response += connection.recv(65536)
    stats = dict(re.findall(r"STAT (\S+) (\d+)", response.decode()))
    chunks = {
        name.partition(":")[0]: int(size) for name, size in stats.items() if "chunk_size" in name
    }
    return sum(size * int(stats[f"{slab}:used_chunks"]) for slab, size in chunks.items())


async def hit_all(limiter: SharedLimiter) -> None:
    """Count a request of each client."""
    for start in range(0, CLIENTS, 500):
        hits = [limiter.hit(("client", start + number)) for number in range(500)]
        assert not any(decision.degraded for decision in await asyncio.gather(*hits))


async def test_client_takes_at_most_the_documented_memory(
    server: Server, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documented bound holds, and is less than twice the measured memory."""
    limiter = SharedLimiter("100/hour", storage=url(server), strategy=strategy, timeout=PATIENCE)
    await limiter.peek("client")
    before = await allocated_bytes(server)

    await hit_all(limiter)
    if strategy == "sliding-window-counter":  # then fill the counters of the next window too
        if server.program == "memcached":
            next_window = SimpleNamespace(time=lambda: time.time() + WINDOW)
            monkeypatch.setattr("limits.aio.storage.memcached.time", next_window)
        else:
            async with direct_client(server) as client:
                await client.eval(AGE_BY_A_WINDOW)
        await hit_all(limiter)
    bytes_per_client = (await allocated_bytes(server) - before) / CLIENTS
    await limiter.aclose()

    bound = documented_bound(server, strategy)
    assert bound / 2 < bytes_per_client <= bound

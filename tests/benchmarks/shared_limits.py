"""Time of a hit that several processes share: in files, in SQLite, and in Redis under load."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from tokenpulse_mw import Limiter, SharedLimiter, ZoneLimiter

from ..support.servers import redis_server
from .apps import LIMIT
from .measure import Turn, medians
from .report import Cell, Row, Summary, table

KEYS = [number.to_bytes(4) for number in range(1000)]
AT_ONCE = (1, 16, 64)
HITS = 960  # in a turn
_UPSERT = """
INSERT INTO windows VALUES (?, ?, 1) ON CONFLICT (key) DO UPDATE SET
ends = iif(ends <= ?, excluded.ends, ends), used = iif(ends <= ?, 1, used + 1) RETURNING used
"""


def hits(hit: Callable[[bytes], object]) -> Turn:
    """Return a function that counts a hit for each key."""

    async def turn() -> float:
        began = time.thread_time()
        for key in KEYS:
            hit(key)
        return (time.thread_time() - began) / len(KEYS) * 1e6

    return turn


def on_sqlite(path: Path) -> Turn:
    """Return a function that counts a hit for each key in SQLite, without waiting for the disk."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("CREATE TABLE windows (key BLOB PRIMARY KEY, ends REAL, used INT)")

    def hit(key: bytes) -> object:
        now = time.monotonic()
        return database.execute(_UPSERT, (key, now + 60, now, now)).fetchone()

    return hits(hit)


def at_once(limiter: SharedLimiter, number: int, key: Callable[[int], Hashable]) -> Turn:
    """Return a function that hits the keys from `number` tasks at once."""
    numbers = count()

    async def hit() -> None:
        for _ in range(HITS // number):
            decision = await limiter.hit(key(next(numbers)))
            assert not decision.degraded, "Redis did not respond in time"

    async def turn() -> float:
        began = time.thread_time()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(number):
                tasks.create_task(hit())
        return (time.thread_time() - began) / HITS * 1e6

    return turn


@asynccontextmanager
async def pinging(address: tuple[str, int]) -> AsyncIterator[Turn]:
    """Return a function that sends PING one after the other, without a driver."""
    reader, writer = await asyncio.open_connection(*address)

    async def turn() -> float:
        began = time.thread_time()
        for _ in range(HITS):
            writer.write(b"PING\r\n")
            await reader.readline()
        return (time.thread_time() - began) / HITS * 1e6

    try:
        yield turn
    finally:
        writer.close()
        await writer.wait_closed()


async def measure_files() -> None:
    """Print the time of a hit in each place that one machine's processes share."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        times = await medians(
            {
                "Limiter": hits(Limiter(LIMIT).hit),
                "Limiter, gcra": hits(Limiter(LIMIT, strategy="gcra").hit),
                "ZoneLimiter": hits(ZoneLimiter(LIMIT, path=folder / "fixed").hit),
                "ZoneLimiter, gcra": hits(
                    ZoneLimiter(LIMIT, path=folder / "gcra", strategy="gcra").hit
                ),
                "SQLite": on_sqlite(folder / "windows.db"),
            }
        )
    rows = [(name, cost, cost / times["Limiter"]) for name, cost in times.items()]
    table("hit of one of 1,000 clients", ("limiter", "CPU in µs", "x Limiter"), rows)


async def measure_redis() -> Summary:
    """Print the time of a hit in Redis, by the number of hits at once."""
    with tempfile.TemporaryDirectory() as folder:
        server = redis_server(Path(folder))
        server.start()
        url = f"redis://{server.place}"
        limiter = SharedLimiter(LIMIT, storage=url, timeout=30)
        closed = SharedLimiter("1/day", storage=url, timeout=30)
        try:
            async with pinging(("127.0.0.1", server.port)) as ping:
                turns = {"PING without a driver": ping}
                for number in AT_ONCE:
                    turns[f"hit, {number} at once"] = at_once(
                        limiter, number, lambda hit: KEYS[hit % len(KEYS)]
                    )
                for number in AT_ONCE:
                    turns[f"key over its limit, {number} at once"] = at_once(
                        closed, number, lambda hit: b"over"
                    )
                times = await medians(turns)
            await limiter.aclose()
            await closed.aclose()
        finally:
            server.kill()
    ping_cost, alone = times["PING without a driver"], times["hit, 1 at once"]
    rows: list[list[Cell]] = [
        [name, cost, cost / ping_cost, cost / alone] for name, cost in times.items()
    ]
    columns = ("case", "CPU in µs", "x PING", "x hit alone")
    table("SharedLimiter on Redis: CPU of the event loop for each hit", columns, rows)
    others = ("hit, 64 at once", "key over its limit, 1 at once")
    return [
        Row("Redis: hit", f"{alone:.0f} µs", f"{alone / ping_cost:.1f} x PING without a driver"),
        *(
            Row(f"Redis: {name}", f"{times[name]:.0f} µs", f"{times[name] / alone:.2f} of a hit")
            for name in others
        ),
    ]


async def _measure() -> Summary:
    await measure_files()
    if shutil.which("redis-server") is None:
        print("\nredis-server is not installed: SharedLimiter is not measured")
        return []
    return await measure_redis()


def measure_shared_limits() -> Summary:
    """Print the tables of shared limits."""
    return asyncio.run(_measure())

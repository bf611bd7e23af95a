"""Rate limiter compared with its peers, for up to a million clients."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Limiter, Policy, RateLimitMiddleware, SharedLimiter, ZoneLimiter

from ..support.asgi import http_scope
from ..support.servers import redis_server
from .measure import Turn, medians, receive, send

PER_DAY = 1_000_000_000
BATCH = 1000  # requests
MIN_REQUESTS = 20_000  # per application
MAX_SECONDS = 6.0  # per application


async def _respond(scope: Any) -> Response:
    return Response(b"{}", media_type="application/json")


def application() -> Starlette:
    """Return a Starlette application with one route, since some peers need a route."""
    return Starlette(routes=[Route("/chat", _respond)])


def slowapi() -> ASGIApp:
    """Return the application with the pure ASGI middleware of slowapi."""
    peer = import_module("slowapi")
    app, client_of = application(), import_module("slowapi.util").get_remote_address
    app.state.limiter = peer.Limiter(client_of, default_limits=[f"{PER_DAY}/day"])
    app.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)
    return app


def asgi_ratelimit() -> ASGIApp:
    """Return the application with the middleware and the memory backend of asgi-ratelimit."""
    peer, backend = import_module("ratelimit"), import_module("ratelimit.backends.simple")

    async def client_of(scope: Scope) -> tuple[str, str]:
        return scope["client"][0], "default"

    app = application()
    rules = {r"^/": [peer.Rule(day=PER_DAY)]}
    options = {"authenticate": client_of, "backend": backend.MemoryBackend(), "config": rules}
    app.add_middleware(peer.RateLimitMiddleware, **options)
    return app


def limited_by(limit: Callable[[str], Any]) -> ASGIApp:
    """Return the application with a minimal middleware that calls `limit` and sends no headers."""
    inner = application()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await limit(scope["client"][0])
        await inner(scope, receive, send)

    return app


def throttled() -> ASGIApp:
    """Return the application with throttled-py and its memory store."""
    peer = import_module("throttled.asyncio")
    return limited_by(peer.Throttled(using="fixed_window", quota=peer.per_day(PER_DAY)).limit)


def limits_alone() -> ASGIApp:
    """Return the application with the limits package and its asynchronous memory storage."""
    limiter, item = FixedWindowRateLimiter(MemoryStorage()), parse(f"{PER_DAY}/day")
    return limited_by(lambda client: limiter.hit(item, client))


def ours(strategy: str) -> ASGIApp:
    """Return the application with RateLimitMiddleware, which also sends headers."""
    app = application()
    limiter = Limiter(f"{PER_DAY}/day", strategy=strategy)
    app.add_middleware(RateLimitMiddleware, policies=[Policy(limiter)])
    return app


def contenders() -> Iterator[tuple[str, ASGIApp]]:
    """Yield the bare application, those of this package, and those of installed peers."""
    yield "bare", application()
    for strategy in ("fixed-window", "sliding-window-counter", "gcra"):
        yield f"tokenpulse, {strategy}", ours(strategy)
    for peer in (slowapi, asgi_ratelimit, throttled, limits_alone):
        with suppress(ImportError):
            yield peer.__name__, peer()


@dataclass
class Run:
    """Progress of an application, and the times of its requests."""

    app: ASGIApp
    done: int = 0
    spent: float = 0.0
    times: list[float] = field(default_factory=list)

    async def batch(self, clients: int) -> None:
        """Send a batch of requests, each from the next client."""
        scopes = [
            http_scope("/chat", client=(address((self.done + number) % clients), 1))
            for number in range(BATCH)
        ]
        began = time.perf_counter()
        for scope in scopes:
            await self.app(scope, receive, send)
        took = time.perf_counter() - began
        self.done += BATCH
        self.spent += took
        self.times.append(took / BATCH * 1e6)

    def is_finished(self, clients: int) -> bool:
        """Return True if all clients sent a request, or the time is used up."""
        return self.done >= max(clients, MIN_REQUESTS) or self.spent >= MAX_SECONDS

    @property
    def cost(self) -> float:
        """Return the microseconds per request in the last third."""
        return median(self.times[-len(self.times) // 3 :])


def address(number: int) -> str:
    """Return a different IPv4 address for each number."""
    return f"{10 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


async def race(clients: int) -> Mapping[str, Run]:
    """Run all applications in turn, batch by batch, until each is finished."""
    runs = {name: Run(app) for name, app in contenders()}
    while active := [run for run in runs.values() if not run.is_finished(clients)]:
        for run in active:
            await run.batch(clients)
    return runs


async def measure_limiters() -> None:
    """Print the additional time per request over the bare application."""
    for clients in (1, 10_000, 1_000_000):
        runs = await race(clients)
        bare = runs["bare"].cost
        print(f"\nlimiters at {clients:,} clients: microseconds over the bare ({bare:.2f})")
        for name, run in runs.items():
            reached = f"  (only {run.done:,} within the time)" if run.done < clients else ""
            print(f"  {name:<30}{run.cost - bare:8.2f}{reached}")


SHARED_KEYS = [number.to_bytes(4) for number in range(1000)]
_UPSERT = """
INSERT INTO windows VALUES (?, ?, 1) ON CONFLICT (key) DO UPDATE SET
ends = iif(ends <= ?, excluded.ends, ends), used = iif(ends <= ?, 1, used + 1) RETURNING used
"""


def hits(hit: Callable[[bytes], object]) -> Turn:
    """Return a function that counts a hit for each key."""

    async def turn() -> int:
        for key in SHARED_KEYS:
            hit(key)
        return len(SHARED_KEYS)

    return turn


def on_redis(limiter: SharedLimiter) -> Turn:
    """Return a function that counts a hit for each key in a storage."""

    async def turn() -> int:
        for key in SHARED_KEYS:
            await limiter.hit(key)
        return len(SHARED_KEYS)

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


async def measure_shared_limits() -> None:
    """Print the time of a hit that several processes share, without other load."""
    rate = f"{PER_DAY}/day"
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        turns = {
            "Limiter": hits(Limiter(rate).hit),
            "Limiter, gcra": hits(Limiter(rate, strategy="gcra").hit),
            "ZoneLimiter": hits(ZoneLimiter(rate, path=folder / "fixed").hit),
            "ZoneLimiter, gcra": hits(ZoneLimiter(rate, path=folder / "gcra", strategy="gcra").hit),
            "SQLite": on_sqlite(folder / "windows.db"),
        }
        server = redis_server(folder) if shutil.which("redis-server") else None
        try:
            if server is not None:
                server.start()
                shared = SharedLimiter(rate, storage=f"redis://{server.place}")
                turns["SharedLimiter, Redis"] = on_redis(shared)
            times = await medians(turns)
        finally:
            if server is not None:
                server.kill()
    print("\nhits of 1,000 clients: microseconds")
    for label, cost in times.items():
        print(f"  {label:<24}{cost:8.2f}{cost / times['Limiter']:8.1f} x Limiter")

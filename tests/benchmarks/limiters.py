"""Rate limiter compared with its peers, for up to a million clients."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median
from typing import Any

import anyio
from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Limiter, Policy, RateLimitMiddleware

from ..support.asgi import http_scope
from .apps import LIMIT, PER_DAY
from .measure import receive, send
from .report import Cell, Summary, table

BATCH = 1000  # requests
MIN_REQUESTS = 20_000  # per application
MAX_SECONDS = 2.0  # per application


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
        began = time.thread_time()
        for scope in scopes:
            await self.app(scope, receive, send)
        took = time.thread_time() - began
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


async def measure_peers() -> Summary:
    """Print the additional time per request over the bare application."""
    for clients in (1, 10_000, 1_000_000):
        runs = await race(clients)
        bare = runs["bare"].cost
        rows: list[list[Cell]] = []
        for name, run in runs.items():
            reached = f"only {run.done:,} within the time" if run.done < clients else ""
            rows.append([name, run.cost - bare, reached])
        columns = ("limiter", "µs over bare", "requests")
        table(f"limiters, {clients:,} clients, in Starlette without a server", columns, rows)
    return []


def hit_all(limiter: Limiter, keys: list[bytes]) -> float:
    """Return the microseconds of a hit, the least of three."""
    costs = []
    for _ in range(3):
        began = time.thread_time()
        for key in keys:
            limiter.hit(key)
        costs.append((time.thread_time() - began) / len(keys) * 1e6)
    return min(costs)


def measure_table() -> None:
    """Print the time of a hit for few and many clients, and the memory of the table."""
    rows: list[list[Cell]] = []
    for number in (1000, 10_000, 1_000_000):
        limiter = Limiter(LIMIT)
        keys = [key.to_bytes(4) for key in range(min(number, 200_000))]
        hit_all(limiter, keys[:20_000])
        rows.append([f"{number:,}", hit_all(limiter, keys)])
    table("hit in a table of 5,000 clients", ("clients", "CPU in µs"), rows)
    tracemalloc.start()
    limiter = Limiter(LIMIT)
    for number in range(5000):
        limiter.hit(number.to_bytes(4))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    print(f"\nMemory of 5,000 clients: {size / 1e6:.2f} MB")


def measure_limiters() -> Summary:
    """Print the tables of limiters in one process."""
    measure_table()
    return anyio.run(measure_peers)

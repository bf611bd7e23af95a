"""The rate limiter beside its peers, for one client, ten thousand and a million."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from statistics import median
from typing import Any

from limits import parse
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Limiter, Policy, RateLimitMiddleware

from ..support.asgi import http_scope
from .measure import receive, send

PER_DAY = 1_000_000_000
BATCH = 1000  # requests
FEWEST = 20_000
LONGEST = 6.0  # seconds that each has for all of its requests


async def _answer(scope: Any) -> Response:
    return Response(b"{}", media_type="application/json")


def application() -> Starlette:
    """What is limited: a Starlette application of one route, since some peers need its routes."""
    return Starlette(routes=[Route("/chat", _answer)])


def slowapi() -> ASGIApp:
    """Slowapi with its pure ASGI middleware."""
    peer = import_module("slowapi")
    app, who = application(), import_module("slowapi.util").get_remote_address
    app.state.limiter = peer.Limiter(who, default_limits=[f"{PER_DAY}/day"])
    app.add_middleware(import_module("slowapi.middleware").SlowAPIASGIMiddleware)
    return app


def asgi_ratelimit() -> ASGIApp:
    """asgi-ratelimit with its memory backend."""
    peer, backend = import_module("ratelimit"), import_module("ratelimit.backends.simple")

    async def who(scope: Scope) -> tuple[str, str]:
        return scope["client"][0], "default"

    app = application()
    rules = {r"^/": [peer.Rule(day=PER_DAY)]}
    options = {"authenticate": who, "backend": backend.MemoryBackend(), "config": rules}
    app.add_middleware(peer.RateLimitMiddleware, **options)
    return app


def asking(limit: Callable[[str], Any]) -> ASGIApp:
    """A middleware that only asks `limit`, and sends no headers."""
    inner = application()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await limit(scope["client"][0])
        await inner(scope, receive, send)

    return app


def throttled() -> ASGIApp:
    """throttled-py with its memory store, in the least of middlewares."""
    peer = import_module("throttled.asyncio")
    return asking(peer.Throttled(using="fixed_window", quota=peer.per_day(PER_DAY)).limit)


def limits_alone() -> ASGIApp:
    """The limits package with its asynchronous memory storage, in the least of middlewares."""
    limiter, item = FixedWindowRateLimiter(MemoryStorage()), parse(f"{PER_DAY}/day")
    return asking(lambda client: limiter.hit(item, client))


def ours(strategy: str) -> ASGIApp:
    """RateLimitMiddleware with its headers."""
    app = application()
    limiter = Limiter(f"{PER_DAY}/day", strategy=strategy)
    app.add_middleware(RateLimitMiddleware, policies=[Policy(limiter)])
    return app


def contenders() -> Iterator[tuple[str, ASGIApp]]:
    """The bare application, ours, and each of the peers that are installed."""
    yield "bare", application()
    for strategy in ("fixed-window", "sliding-window-counter", "gcra"):
        yield f"ours, {strategy}", ours(strategy)
    for peer in (slowapi, asgi_ratelimit, throttled, limits_alone):
        with suppress(ImportError):
            yield peer.__name__, peer()


@dataclass
class Run:
    """How far one of them has come, and what its last requests took."""

    app: ASGIApp
    done: int = 0
    spent: float = 0.0
    times: list[float] = field(default_factory=list)

    async def batch(self, clients: int) -> None:
        """A batch of requests, each of the next client in turn."""
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

    def is_over(self, clients: int) -> bool:
        """All clients have asked, or the time is up."""
        return self.done >= max(clients, FEWEST) or self.spent >= LONGEST

    @property
    def cost(self) -> float:
        """Microseconds a request, at the end."""
        return median(self.times[-len(self.times) // 3 :])


def address(number: int) -> str:
    """An IPv4 address of its own for each number."""
    return f"{10 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


async def race(clients: int) -> Mapping[str, Run]:
    """Let all of them take turns, batch by batch, until each is through."""
    runs = {name: Run(app) for name, app in contenders()}
    while waiting := [run for run in runs.values() if not run.is_over(clients)]:
        for run in waiting:
            await run.batch(clients)
    return runs


async def measure_limiters() -> None:
    """Print what each costs a request over the bare application."""
    for clients in (1, 10_000, 1_000_000):
        runs = await race(clients)
        bare = runs["bare"].cost
        print(f"\nlimiters at {clients:,} clients: microseconds over the bare ({bare:.2f})")
        for name, run in runs.items():
            reached = f"  (only {run.done:,} in its time)" if run.done < clients else ""
            print(f"  {name:<30}{run.cost - bare:8.2f}{reached}")

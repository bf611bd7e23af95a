"""Additional time of each part, in one process and with warm caches."""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.types import ASGIApp

from tokenpulse_mw import ExchangeMiddleware, Limiter, MetricsMiddleware

from ..support.apps import answering
from ..support.asgi import http_scope
from .apps import around, metrics, peers, stack, stream
from .limiters import measure_limiters, measure_shared_limits
from .measure import medians, requests
from .report import Summary
from .scrapes import measure_scrape, measure_workers

CLIENTS = [(f"10.0.{number >> 8}.{number & 255}", 1) for number in range(1000)]


def table(title: str, times: dict[str, float]) -> None:
    """Print the additional time of each application over the bare one."""
    bare = times["bare"]
    minimum = times.get("floor", 0) - bare
    print(f"\n{title}: microseconds over the bare application ({bare:.2f})")
    for name, cost in times.items():
        ratio = f"  {(cost - bare) / minimum:5.1f} x minimum" if minimum > 0 else ""
        print(f"  {name:<24}{cost - bare:8.2f}{ratio}")


async def measure_requests(method: str) -> None:
    """Measure each part with an application that sends a small JSON body."""
    scopes = [http_scope("/claude/chat", method=method, client=client) for client in CLIENTS]
    apps = around(answering())
    turns = {name: requests(app, scopes, times=3000) for name, app in apps.items()}
    table(f"{method} requests of 1,000 clients", await medians(turns))


async def measure_peers() -> None:
    """Measure this package and its peers inside a Starlette application."""
    inner = Starlette()
    inner.mount("/", answering())

    def scoped(app: ASGIApp) -> ASGIApp:
        async def with_app(scope: Any, receive: Any, send: Any) -> None:
            scope["app"] = inner
            await app(scope, receive, send)

        return with_app

    apps: dict[str, ASGIApp] = {
        "bare": inner,
        "metrics": MetricsMiddleware(inner, metrics=metrics()),
        "whole stack": stack(inner),
        **dict(peers(inner)),
    }
    scopes = [http_scope("/chat", client=client) for client in CLIENTS]
    turns = {name: requests(scoped(app), scopes, times=1000) for name, app in apps.items()}
    table("peers", await medians(turns))


async def measure_streams() -> None:
    """Measure the time for each chunk of a streamed response."""
    chunks = 2000
    app = stream(chunks)
    apps: dict[str, ASGIApp] = {
        "bare": app,
        "exchange without usage": ExchangeMiddleware(app, usage=False),
        "exchange": ExchangeMiddleware(app),
        "whole stack": stack(app),
    }
    scopes = [http_scope("/codex/chat", method="POST")]
    turns = {name: requests(app, scopes, times=3) for name, app in apps.items()}
    times = {name: total / chunks for name, total in (await medians(turns)).items()}
    table("chunk of a stream", times)


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _hit_all(limiter: Limiter, keys: list[bytes]) -> None:
    for key in keys:
        limiter.hit(key)


def measure_limiter() -> None:
    """Print the time of a hit for few and many clients, and the memory of the table."""
    print("\nlimiter: microseconds per hit, with a table of 5,000 clients")
    for number in (1000, 10_000, 1_000_000):
        limiter = Limiter("100/minute")
        keys = [key.to_bytes(4) for key in range(number)]
        _hit_all(limiter, keys[:20_000])
        few = keys[: min(number, 200_000)]
        best = min(
            _timed(lambda few=few, hit=limiter.hit: [hit(key) for key in few]) for _ in "123"
        )
        print(f"  {number:>9,} clients {best / len(few) * 1e6:8.2f}")
    tracemalloc.start()
    limiter = Limiter("100/minute")
    for number in range(5000):
        limiter.hit(number.to_bytes(4))
    print(f"  memory of 5,000 clients {tracemalloc.get_traced_memory()[0] / 1e6:.2f} MB")
    tracemalloc.stop()


async def _measure() -> None:
    await measure_requests("GET")
    await measure_requests("POST")
    await measure_streams()
    await measure_peers()
    measure_scrape()
    measure_workers()
    measure_limiter()
    await measure_limiters()
    await measure_shared_limits()


def measure_parts() -> Summary:
    """Run the benchmarks of one process."""
    anyio.run(_measure)
    return []

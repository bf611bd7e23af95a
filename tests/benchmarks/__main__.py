"""Prints what each part costs, beside the bare application, a hand-written floor and the peers.

All figures of a table come from one run, as medians of interleaved rounds; compare them with one
another and with no other run.
"""

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
from .alerts import measure_alerts
from .apps import around, metrics, peers, stack, stream
from .limiters import measure_limiters
from .measure import medians, requests
from .scrapes import measure_scrape, measure_workers

CLIENTS = [(f"10.0.{number >> 8}.{number & 255}", 1) for number in range(1000)]


def table(title: str, times: dict[str, float]) -> None:
    """Print what each costs over the bare application."""
    bare = times["bare"]
    floor = times.get("floor", 0) - bare
    print(f"\n{title}: microseconds over the bare application ({bare:.2f})")
    for name, time_ in times.items():
        ratio = f"  {(time_ - bare) / floor:5.1f} x floor" if floor > 0 else ""
        print(f"  {name:<24}{time_ - bare:8.2f}{ratio}")


async def measure_requests(method: str) -> None:
    """Each part on an application that answers a small JSON body."""
    scopes = [http_scope("/claude/chat", method=method, client=client) for client in CLIENTS]
    apps = around(answering())
    turns = {name: requests(app, scopes, times=3000) for name, app in apps.items()}
    table(f"a {method} of one of 1,000 clients", await medians(turns))


async def measure_peers() -> None:
    """The peers and ours, inside a Starlette application, as they are meant to be used."""
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
    """What a chunk of a streamed answer costs."""
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
    times = {name: time_ / chunks for name, time_ in (await medians(turns)).items()}
    table("a chunk of a stream", times)


def _timed(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _hit_all(limiter: Limiter, keys: list[bytes]) -> None:
    for key in keys:
        limiter.hit(key)


def measure_limiter() -> None:
    """What the table costs a hit, few clients or many, and how much memory it takes."""
    print("\nthe limiter's table: microseconds a hit, 5,000 kept one by one")
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


async def main() -> None:
    """Everything, one table after the other."""
    await measure_requests("GET")
    await measure_requests("POST")
    await measure_streams()
    await measure_peers()
    measure_scrape()
    measure_workers()
    measure_limiter()
    await measure_limiters()


anyio.run(main)
measure_alerts()  # it runs engines, in event loops of their own

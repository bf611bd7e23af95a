"""Additional time of each part in one process, with warm and with cold caches."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp

from tokenpulse_mw import ExchangeMiddleware

from ..support.apps import answering
from ..support.asgi import http_scope
from .apps import CLIENTS, COMPLETION, around, stack, stream, with_cost
from .measure import cold, medians, warm
from .report import Cell, Row, Summary, table

CHUNKS = 2000


async def measure_requests(title: str, method: str, app: ASGIApp) -> Summary:
    """Print the additional time of each part, by request."""
    scopes = [http_scope("/claude/chat", method=method, client=client) for client in CLIENTS]
    apps = around(app)
    warm_times = await medians({name: warm(app, scopes, times=2000) for name, app in apps.items()})
    cold_times = await medians({name: cold(app, scopes, times=150) for name, app in apps.items()})
    rows: list[list[Cell]] = []
    for name in apps:
        row: list[Cell] = [name]
        for times in (warm_times, cold_times):
            more, floor = times[name] - times["bare"], times["floor"] - times["bare"]
            row += [more, more / floor]
        rows.append(row)
    columns = ("part", "warm, µs over bare", "x floor", "cold, µs over bare", "x floor")
    table(f"{title}, 1,000 clients, without a server", columns, rows)
    return [
        Row(f"whole stack without a server, {title}, {caches}", f"+{cost:.1f} µs", remark)
        for caches, cost, remark in (
            ("warm", rows[-1][1], f"{rows[-1][2]:.1f} x floor"),
            ("cold", rows[-1][3], f"{rows[-1][4]:.1f} x floor"),
        )
    ]


async def measure_chunks() -> None:
    """Print the time for each chunk of a long stream."""
    app = stream(CHUNKS)
    apps: dict[str, ASGIApp] = {
        "bare": app,
        "exchange without usage": ExchangeMiddleware(app, usage=False),
        "exchange": ExchangeMiddleware(app),
        "whole stack": stack(app),
    }
    scopes = [http_scope("/codex/chat", method="POST")]
    times = await medians({name: warm(app, scopes, times=3) for name, app in apps.items()})
    rows = [(name, (cost - times["bare"]) / CHUNKS) for name, cost in times.items()]
    table(f"chunk of a stream of {CHUNKS:,}", ("part", "µs over bare"), rows)


async def measure_cost() -> Summary:
    """Print the additional time of prices and of a budget in money."""
    scopes = [http_scope("/codex/chat", method="POST", client=client) for client in CLIENTS]
    apps = with_cost(answering(COMPLETION))
    times = await medians({name: warm(app, scopes, times=2000) for name, app in apps.items()})
    base = times["whole stack"]
    rows = [(name, cost - times["bare"], cost / base) for name, cost in times.items()]
    table("POST with a cost, warm", ("part", "µs over bare", "of the whole stack"), rows)
    return [
        Row(f"the same, {name}, warm", f"+{more:.1f} µs", f"{share:.2f} of that")
        for name, more, share in rows[2:]
    ]


async def _measure() -> Summary:
    summary = await measure_requests("GET", "GET", answering())
    summary += await measure_requests("POST, metered JSON", "POST", answering(COMPLETION))
    summary += await measure_cost()
    await measure_chunks()
    return summary


def measure_parts() -> Summary:
    """Print the tables of all parts."""
    return anyio.run(_measure)

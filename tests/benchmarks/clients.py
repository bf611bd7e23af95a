"""Additional time by the number of clients, with the default table and with one for all of them."""

from __future__ import annotations

import anyio
from starlette.types import ASGIApp

from tokenpulse_mw import Settings, TokenPulse

from ..support.apps import answering
from ..support.asgi import http_scope
from .apps import LIMIT, metrics
from .limiters import address
from .measure import medians, receive, send, warm
from .report import Cell, Row, Summary, table

FEW, MANY = 1000, 20_000
NUMBERS = (1, FEW, MANY, 100_000)


def stack(app: ASGIApp, max_keys: int) -> ASGIApp:
    """Return `app` with the whole stack and a table of `max_keys` clients."""
    settings = Settings(limit=LIMIT, max_keys=max_keys)
    return TokenPulse(settings=settings, metrics=metrics()).wrap(app)


async def measure_number(clients: int) -> dict[str, float]:
    """Return the microseconds of each application, with so many clients in turn."""
    app = answering()
    apps = {
        "bare": app,
        "default": stack(app, Settings().max_keys),
        "enough": stack(app, max(NUMBERS)),
    }
    scopes = [http_scope("/claude/chat", client=(address(client), 1)) for client in range(clients)]
    for application in apps.values():
        for scope in scopes:
            await application(dict(scope), receive, send)
    return await medians({name: warm(app, scopes, times=2500) for name, app in apps.items()})


async def _measure() -> Summary:
    times = {clients: await measure_number(clients) for clients in NUMBERS}
    costs = {
        clients: {name: cost - columns["bare"] for name, cost in columns.items()}
        for clients, columns in times.items()
    }
    rows: list[list[Cell]] = [
        [f"{clients:,}", cost["default"], cost["default"] / costs[FEW]["default"], cost["enough"]]
        for clients, cost in costs.items()
    ]
    columns = (
        "clients",
        f"max_keys={Settings().max_keys:,}",
        f"x {FEW:,} clients",
        f"max_keys={max(NUMBERS):,}",
    )
    table("clients: whole stack, µs over bare, without a server", columns, rows)
    few, many = costs[FEW], costs[MANY]
    return [
        Row(
            f"{MANY:,} clients, {name}",
            f"+{many[column]:.1f} µs",
            f"{many[column] / few[column]:.1f} x {FEW:,} clients",
        )
        for name, column in (("default max_keys", "default"), ("max_keys above", "enough"))
    ]


def measure_clients() -> Summary:
    """Print the table of clients."""
    return anyio.run(_measure)

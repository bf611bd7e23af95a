"""Additional time of 1 to 10 policies, and of policies of different kinds."""

from __future__ import annotations

from collections.abc import Callable

import anyio
from starlette.types import ASGIApp

from tokenpulse_mw import InFlight, Policy, RateLimitMiddleware, Settings, TokenPulse

from ..support.apps import answering
from ..support.asgi import http_scope
from .apps import CLIENTS, LIMIT, metrics
from .measure import Turn, cold, medians, warm
from .report import Cell, Row, Summary, table

NUMBERS = (1, 2, 3, 5, 10)


def requests_policy(name: str = "requests") -> Policy:
    """Return a limit of requests."""
    return Policy(LIMIT, name=name)


def tokens_policy() -> Policy:
    """Return a limit of tokens."""
    return Policy(LIMIT, name="tokens", tokens=1000)


def in_flight_policy() -> Policy:
    """Return a limit of requests in progress."""
    return Policy(InFlight(1000), name="in-flight")


def several(number: int) -> Callable[[], list[Policy]]:
    """Return a function that creates so many limits of requests."""
    return lambda: [requests_policy(f"requests-{index}") for index in range(number)]


ALL_KINDS = "requests + tokens + in flight"
CASES: dict[str, Callable[[], list[Policy]]] = {
    **{f"{number} of requests": several(number) for number in NUMBERS},
    "requests + tokens": lambda: [requests_policy(), tokens_policy()],
    "requests + in flight": lambda: [requests_policy(), in_flight_policy()],
    ALL_KINDS: lambda: [requests_policy(), tokens_policy(), in_flight_policy()],
}


def stack(app: ASGIApp, policies: list[Policy]) -> ASGIApp:
    """Return `app` with the whole stack and its policies."""
    return TokenPulse(settings=Settings(), policies=policies, metrics=metrics()).wrap(app)


async def _measure() -> Summary:
    app = answering()
    scopes = [http_scope("/claude/chat", client=client) for client in CLIENTS]
    limited = {
        name: RateLimitMiddleware(app, policies=policies()) for name, policies in CASES.items()
    }
    whole = {name: stack(app, policies()) for name, policies in CASES.items()}

    def of(apps: dict[str, ASGIApp], turn: Callable[..., Turn], times: int) -> dict[str, Turn]:
        return {name: turn(app, scopes, times=times) for name, app in apps.items()}

    columns = [
        await medians(of({"bare": app, **limited}, warm, 1000)),
        await medians(of({"bare": app, **whole}, warm, 1000)),
        await medians(of({"bare": app, **whole}, cold, 100)),
    ]
    rows: list[list[Cell]] = [
        [name, *(times[name] - times["bare"] for times in columns)] for name in CASES
    ]
    names = ("policies", "limit alone, warm", "whole stack, warm", "whole stack, cold")
    table("policies: µs over bare, without a server", names, rows)
    first = columns[1]["1 of requests"] - columns[1]["bare"]
    return [
        Row(f"policies: {name}", f"+{columns[1][name] - columns[1]['bare']:.1f} µs", remark)
        for name in ("3 of requests", ALL_KINDS)
        for remark in (f"{(columns[1][name] - columns[1]['bare']) / first:.1f} x 1 policy",)
    ]


def measure_policies() -> Summary:
    """Print the table of policies."""
    return anyio.run(_measure)

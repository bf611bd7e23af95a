"""Medians of interleaved rounds, so that a machine that slows down slows everyone alike."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median

from starlette.types import ASGIApp, Message, Scope

Turn = Callable[[], Awaitable[int]]

ROUNDS = 9


async def receive() -> Message:
    """An empty request body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """A server that takes everything."""


def requests(app: ASGIApp, scopes: list[Scope], *, times: int) -> Turn:
    """Asks `app` `times` times, by these scopes in turn."""

    async def turn() -> int:
        for number in range(times):
            await app(dict(scopes[number % len(scopes)]), receive, send)
        return times

    return turn


async def medians(turns: Mapping[str, Turn]) -> dict[str, float]:
    """Microseconds that one step of each turn takes."""
    rounds: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            began = time.perf_counter()
            steps = await turn()
            rounds[name].append((time.perf_counter() - began) / steps * 1e6)
    return {name: median(times) for name, times in rounds.items()}

"""Medians of interleaved repetitions, so that a slower machine affects all figures equally."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from statistics import median

from starlette.types import ASGIApp, Message, Scope

Turn = Callable[[], Awaitable[int]]

REPETITIONS = 9


async def receive() -> Message:
    """Return an empty request body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Accept any message."""


def requests(app: ASGIApp, scopes: list[Scope], *, times: int) -> Turn:
    """Return a function that sends `times` requests to `app`, with `scopes` in turn."""

    async def turn() -> int:
        for number in range(times):
            await app(dict(scopes[number % len(scopes)]), receive, send)
        return times

    return turn


async def medians(turns: Mapping[str, Turn]) -> dict[str, float]:
    """Return the microseconds per step of each turn."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(REPETITIONS):
        for name, turn in turns.items():
            began = time.perf_counter()
            steps = await turn()
            times[name].append((time.perf_counter() - began) / steps * 1e6)
    return {name: median(values) for name, values in times.items()}

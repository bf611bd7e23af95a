"""CPU time of interleaved rounds, so that a slower machine affects all figures equally."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import cycle, islice
from statistics import median

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Scope

from ..support.asgi import http_scope

Turn = Callable[[], Awaitable[float]]  # returns the microseconds of CPU time for each step

ROUNDS = 9
EVICTING_BYTES = 4 << 20  # more than the second-level cache of most processors


async def receive() -> Message:
    """Return an empty request body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Message) -> None:
    """Accept any message."""


def warm(app: ASGIApp, scopes: Sequence[Scope], *, times: int) -> Turn:
    """Return a function that sends `times` requests one after the other, from `scopes` in turn."""
    following = cycle(scopes)

    async def turn() -> float:
        requests = [dict(scope) for scope in islice(following, times)]
        began = time.thread_time()
        for request in requests:
            await app(request, receive, send)
        return (time.thread_time() - began) / times * 1e6

    return turn


def cold(app: ASGIApp, scopes: Sequence[Scope], *, times: int) -> Turn:
    """Return a function that evicts the caches of the processor before each of its requests."""
    following, memory, other = cycle(scopes), bytes(EVICTING_BYTES), _fastapi()

    async def turn() -> float:
        spent = 0.0
        for request in islice(following, times):
            memory.count(1)
            await other(http_scope("/other"), receive, send)
            scope = dict(request)
            began = time.thread_time()
            await app(scope, receive, send)
            spent += time.thread_time() - began
        return spent / times * 1e6

    return turn


def _fastapi() -> FastAPI:
    """Return an application whose requests touch much other code and memory."""
    app = FastAPI()

    @app.get("/other")
    async def other() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def medians(turns: Mapping[str, Turn], *, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median of the rounds of each turn, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name in _in_turn(list(turns), number):
            cost = await turns[name]()
            if number:
                times[name].append(cost)
    return {name: median(values) for name, values in times.items()}


def _in_turn(names: list[str], number: int) -> Iterator[str]:
    """Yield the names, in every second round from the last to the first."""
    return iter(names[::-1] if number % 2 else names)

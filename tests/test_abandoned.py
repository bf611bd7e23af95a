"""Requests that are in flight when their event loop is closed."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any

import pytest
import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import (
    ExchangeMiddleware,
    HttpMetrics,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    Settings,
    TokenPulse,
)

from .support.asgi import http_scope

HTTP = http_scope("/chat", method="POST")
WEBSOCKET = {**HTTP, "type": "websocket"}

Abandon = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


class _Endless:
    """Awaited for ever, by any event loop."""

    def __await__(self) -> Generator[None]:
        while True:
            yield


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does not end."""
    await _Endless()


async def _receive() -> Message:
    raise AssertionError("nothing is received")


async def _send(message: Message) -> None:
    raise AssertionError("nothing is sent")


def on_asyncio(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close the loop, and let the garbage collector find the task."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # asyncio says that it was pending
    task = loop.create_task(work())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task, loop
    gc.collect()


def on_trio(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Begin the request inside of a run, and drop it after."""

    async def begin() -> Coroutine[Any, Any, None]:
        request = work()
        request.send(None)
        return request

    trio.run(begin).close()


def place(metrics: HttpMetrics) -> Policy:
    """A limit of one request at once."""
    return Policy(InFlight(1), key=lambda scope: "key")


def tokens(metrics: HttpMetrics) -> Policy:
    """A limit of tokens."""
    return Policy(Limiter("9/day"), key=lambda scope: "key", tokens=5)


def limited(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """A rate limit alone."""
    return RateLimitMiddleware(endless, policies=[policy])


def observed(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """A rate limit inside of an exchange."""
    return ExchangeMiddleware(limited(policy, metrics), observers=[metrics])


def complete(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """Everything."""
    settings = Settings(access_log=True)
    return TokenPulse(settings=settings, metrics=metrics, policies=[policy]).wrap(endless)


@pytest.mark.parametrize("scope", [HTTP, WEBSOCKET], ids=["http", "websocket"])
@pytest.mark.parametrize("build", [limited, observed, complete])
@pytest.mark.parametrize("limit", [place, tokens])
@pytest.mark.parametrize("abandon", [on_asyncio, on_trio])
def test_request_of_a_closed_loop_ends_without_a_word_and_gives_back_its_place(
    abandon: Abandon,
    limit: Callable[[HttpMetrics], Policy],
    build: Callable[[Policy, HttpMetrics], ASGIApp],
    scope: Scope,
    metrics: HttpMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is printed, and no place stays taken, though nothing can be awaited any more."""
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: said.append(repr(told.exc_value)))
    policy = limit(metrics)
    app = build(policy, metrics)
    begun: list[Scope] = []

    async def request() -> None:
        begun.append(dict(scope))
        await app(begun[0], _receive, _send)

    abandon(request)

    assert begun
    assert said == []
    if isinstance(policy.limiter, InFlight):
        assert policy.limiter.peek("key").remaining == 1

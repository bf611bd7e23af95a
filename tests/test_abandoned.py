"""Requests in flight at the close of their event loop."""

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
    """An awaitable that no event loop completes."""

    def __await__(self) -> Generator[None]:
        while True:
            yield


async def endless(scope: Scope, receive: Receive, send: Send) -> None:
    """Await for ever."""
    await _Endless()


async def _receive() -> Message:
    raise AssertionError("nothing is received")


async def _send(message: Message) -> None:
    raise AssertionError("nothing is sent")


def on_asyncio(request: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Close the loop with a pending task, and collect the task as garbage."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # asyncio reports a pending task
    task = loop.create_task(request())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del task, loop
    gc.collect()


def on_trio(request: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Start the request in a run, and close its coroutine after the run."""

    async def begin() -> Coroutine[Any, Any, None]:
        coroutine = request()
        coroutine.send(None)
        return coroutine

    trio.run(begin).close()


def in_flight(metrics: HttpMetrics) -> Policy:
    """Return a limit of one concurrent request."""
    return Policy(InFlight(1), key=lambda scope: "key")


def tokens(metrics: HttpMetrics) -> Policy:
    """Return a limit of tokens."""
    return Policy(Limiter("9/day"), key=lambda scope: "key", tokens=5)


def limited(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """Return an application with a rate limit."""
    return RateLimitMiddleware(endless, policies=[policy])


def observed(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """Return an application with a rate limit inside an exchange."""
    return ExchangeMiddleware(limited(policy, metrics), observers=[metrics])


def complete(policy: Policy, metrics: HttpMetrics) -> ASGIApp:
    """Return an application with every middleware."""
    settings = Settings(access_log=True)
    return TokenPulse(settings=settings, metrics=metrics, policies=[policy]).wrap(endless)


@pytest.mark.parametrize("scope", [HTTP, WEBSOCKET], ids=["http", "websocket"])
@pytest.mark.parametrize("build", [limited, observed, complete])
@pytest.mark.parametrize("limit", [in_flight, tokens])
@pytest.mark.parametrize("abandon", [on_asyncio, on_trio])
def test_request_of_a_closed_loop_is_released_without_an_error(
    abandon: Abandon,
    limit: Callable[[HttpMetrics], Policy],
    build: Callable[[Policy, HttpMetrics], ASGIApp],
    scope: Scope,
    metrics: HttpMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The slot in flight is released, and no error is printed, although nothing can be awaited."""
    errors: list[object] = []
    monkeypatch.setattr(
        sys, "unraisablehook", lambda unraisable: errors.append(repr(unraisable.exc_value))
    )
    policy = limit(metrics)
    app = build(policy, metrics)
    scopes: list[Scope] = []

    async def request() -> None:
        scopes.append(dict(scope))
        await app(scopes[0], _receive, _send)

    abandon(request)

    assert scopes
    assert errors == []
    if isinstance(policy.limiter, InFlight):
        assert policy.limiter.peek("key").remaining == 1

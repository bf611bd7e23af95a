"""Warnings about likely misconfiguration."""

from __future__ import annotations

import logging

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
)
from tokenpulse_mw.ratelimit.misuse import WarnOnce

from ..support.apps import answering
from ..support.asgi import drive, http_scope

TWICE = (
    "a limiter counts the same request twice (seen on {!r}), so each client gets half its limit: "
    "add RateLimitMiddleware once, or give each middleware its own limiter"
)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Capture the log from the level INFO."""
    caplog.set_level(logging.INFO)
    return caplog


async def hello(request: Request) -> PlainTextResponse:
    """Return a greeting."""
    return PlainTextResponse("hello")


def mounted(outer: Limiter, inner: Limiter) -> ASGIApp:
    """Return a limited application with a mounted limited application."""
    below = Starlette(
        routes=[Route("/hello", hello)],
        middleware=[Middleware(RateLimitMiddleware, limiter=inner)],
    )
    return Starlette(
        routes=[Route("/hello", hello), Mount("/below", below)],
        middleware=[Middleware(RateLimitMiddleware, limiter=outer)],
    )


@pytest.mark.anyio
async def test_limiter_that_counts_twice_is_logged_once(log: pytest.LogCaptureFixture) -> None:
    """The warning names the path and the fix."""
    limiter = Limiter("100/day")
    app = mounted(limiter, limiter)

    for path in ("/hello", "/below/hello", "/below/hello"):
        assert (await drive(app, http_scope(path))).status == 200

    assert log.messages == [TWICE.format("/below/hello")]
    assert [record.levelname for record in log.records] == ["WARNING"]


@pytest.mark.anyio
async def test_stacked_middleware_with_different_limiters_logs_nothing(
    log: pytest.LogCaptureFixture,
) -> None:
    """An application and a mounted application may have separate limits."""
    app = mounted(Limiter("100/day"), Limiter("100/day"))

    for _ in range(2):
        assert (await drive(app, http_scope("/below/hello"))).status == 200

    assert log.messages == []


@pytest.mark.anyio
async def test_one_repeated_limiter_of_several_is_logged(
    log: pytest.LogCaptureFixture,
) -> None:
    """The warning covers limiters of any kind, also of concurrent requests."""
    slots = InFlight(9)
    inner = RateLimitMiddleware(
        answering(), policies=[Policy("9/day", name="own"), Policy(slots, name="twice")]
    )
    app = RateLimitMiddleware(inner, policies=[Policy(slots)])

    await drive(app)

    assert log.messages == [TWICE.format("/")]


@pytest.mark.anyio
async def test_reused_scope_is_another_request(
    log: pytest.LogCaptureFixture,
) -> None:
    """Some servers and tests reuse a scope, which is not a repeated limiter."""
    app = RateLimitMiddleware(answering(), limit="100/day")
    tokens = RateLimitMiddleware(answering(), policies=[Policy("100/day", tokens=5)])
    scope = http_scope()

    for _ in range(3):
        await drive(app, scope)
        await drive(tokens, scope)

    assert log.messages == []


@pytest.mark.anyio
async def test_websockets_are_not_inspected(log: pytest.LogCaptureFixture) -> None:
    """The scope of a WebSocket is passed on unchanged."""
    limiter = Limiter("100/day")
    inner = RateLimitMiddleware(answering(), limiter=limiter)
    scope = {**http_scope(), "type": "websocket"}

    await drive(RateLimitMiddleware(inner, limiter=limiter), scope)

    assert scope == {**http_scope(), "type": "websocket"}
    assert log.messages == []


@pytest.mark.anyio
async def test_only_the_first_thousand_requests_are_inspected(
    log: pytest.LogCaptureFixture,
) -> None:
    """Later requests are passed on without the limiters in the scope."""
    limiter = Limiter("9999/day")
    app = RateLimitMiddleware(answering(), limiter=limiter)
    scopes = [http_scope() for _ in range(1001)]

    for scope in scopes:
        await drive(app, scope)
    await drive(RateLimitMiddleware(app, limiter=limiter))

    inspected = ["tokenpulse_mw.limiters" in scope for scope in scopes]
    assert inspected == [True] * 1000 + [False]
    assert log.messages == []


def test_warning_is_logged_once_per_logger(log: pytest.LogCaptureFixture) -> None:
    """A second `WarnOnce` logs its own first message."""
    first, second = WarnOnce(), WarnOnce()

    first("%s in %s", "error", "key")
    first("%s in %s", "error", "cost")
    second("error")

    assert log.messages == ["error in key", "error"]
    assert (first.logged, WarnOnce().logged) == (True, False)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.anyio
async def test_metrics_inside_the_limit_are_logged_once(
    outside: bool, log: pytest.LogCaptureFixture
) -> None:
    """The warning is logged unless an exchange outside the limit counts rejections."""
    exchanges: list[Exchange] = []
    inner = ExchangeMiddleware(answering(), observers=[exchanges.append])
    app: ASGIApp = RateLimitMiddleware(inner, limit="1/day")
    if outside:
        app = ExchangeMiddleware(app)

    statuses = [(await drive(app, http_scope("/chat"))).status for _ in range(3)]

    assert statuses == [200, 429, 429]
    assert len(exchanges) == 1
    expected = [] if outside else ["requests are measured inside RateLimitMiddleware"]
    assert [message.partition(",")[0] for message in log.messages] == expected

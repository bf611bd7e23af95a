"""Uses that cannot be meant are told once, with what to do."""

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
    "add RateLimitMiddleware once, or give each one its own limiter"
)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is written to the log."""
    caplog.set_level(logging.INFO)
    return caplog


async def hello(request: Request) -> PlainTextResponse:
    """A route."""
    return PlainTextResponse("hello")


def mounted(outer: Limiter, inner: Limiter) -> ASGIApp:
    """An application with a limit, in which another one with a limit is mounted."""
    below = Starlette(
        routes=[Route("/hello", hello)],
        middleware=[Middleware(RateLimitMiddleware, limiter=inner)],
    )
    return Starlette(
        routes=[Route("/hello", hello), Mount("/below", below)],
        middleware=[Middleware(RateLimitMiddleware, limiter=outer)],
    )


@pytest.mark.anyio
async def test_a_limiter_that_counts_twice_is_told_once(told: pytest.LogCaptureFixture) -> None:
    """It is in an application and in one that is mounted in it; the log says how to mend it."""
    limiter = Limiter("100/day")
    app = mounted(limiter, limiter)

    for path in ("/hello", "/below/hello", "/below/hello"):
        assert (await drive(app, http_scope(path))).status == 200

    assert told.messages == [TWICE.format("/below/hello")]
    assert [record.levelname for record in told.records] == ["WARNING"]


@pytest.mark.anyio
async def test_limits_of_their_own_may_be_stacked(told: pytest.LogCaptureFixture) -> None:
    """An application and one that is mounted in it may each have a limit."""
    app = mounted(Limiter("100/day"), Limiter("100/day"))

    for _ in range(2):
        assert (await drive(app, http_scope("/below/hello"))).status == 200

    assert told.messages == []


@pytest.mark.anyio
async def test_one_limiter_of_several_is_enough_to_be_told(
    told: pytest.LogCaptureFixture,
) -> None:
    """Whatever it counts: requests, or requests at once."""
    places = InFlight(9)
    inner = RateLimitMiddleware(
        answering(), policies=[Policy("9/day", name="own"), Policy(places, name="twice")]
    )
    app = RateLimitMiddleware(inner, policies=[Policy(places)])

    await drive(app)

    assert told.messages == [TWICE.format("/")]


@pytest.mark.anyio
async def test_a_scope_that_is_used_again_is_another_request(
    told: pytest.LogCaptureFixture,
) -> None:
    """Some servers and tests do that; each middleware still counts it once at a time."""
    app = RateLimitMiddleware(answering(), limit="100/day")
    tokens = RateLimitMiddleware(answering(), policies=[Policy("100/day", tokens=5)])
    scope = http_scope()

    for _ in range(3):
        await drive(app, scope)
        await drive(tokens, scope)

    assert told.messages == []


@pytest.mark.anyio
async def test_websockets_are_not_looked_at(told: pytest.LogCaptureFixture) -> None:
    """Nothing is added to their scope, which passes as the server has made it."""
    limiter = Limiter("100/day")
    inner = RateLimitMiddleware(answering(), limiter=limiter)
    scope = {**http_scope(), "type": "websocket"}

    await drive(RateLimitMiddleware(inner, limiter=limiter), scope)

    assert scope == {**http_scope(), "type": "websocket"}
    assert told.messages == []


@pytest.mark.anyio
async def test_only_the_first_requests_are_looked_at(told: pytest.LogCaptureFixture) -> None:
    """What is mounted wrongly shows in the first thousand; then no request pays for it."""
    limiter = Limiter("9999/day")
    app = RateLimitMiddleware(answering(), limiter=limiter)
    scopes = [http_scope() for _ in range(1001)]

    for scope in scopes:
        await drive(app, scope)
    await drive(RateLimitMiddleware(app, limiter=limiter))

    assert [len(scope) - len(http_scope()) for scope in scopes] == [1] * 1000 + [0]
    assert told.messages == []


def test_a_warning_is_given_once(told: pytest.LogCaptureFixture) -> None:
    """By whoever gives it; another one has a first time of its own."""
    one, other = WarnOnce(), WarnOnce()

    one("no %s of %s", "sign", "life")
    one("no %s of %s", "end", "it")
    other("no more")

    assert told.messages == ["no sign of life", "no more"]
    assert (one.told, WarnOnce().told) == (True, False)


@pytest.mark.parametrize("outside", [False, True])
@pytest.mark.anyio
async def test_what_is_measured_inside_of_the_limit_is_told_once(
    outside: bool, told: pytest.LogCaptureFixture
) -> None:
    """Its refusals are counted by nobody; unless somebody else measures outside of it as well."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(answering(), observers=[seen.append])
    app: ASGIApp = RateLimitMiddleware(inner, limit="1/day")
    if outside:
        app = ExchangeMiddleware(app)

    statuses = [(await drive(app, http_scope("/chat"))).status for _ in range(3)]

    assert statuses == [200, 429, 429]
    assert len(seen) == 1
    said = [] if outside else ["requests are measured inside RateLimitMiddleware"]
    assert [each.partition(",")[0] for each in told.messages] == said

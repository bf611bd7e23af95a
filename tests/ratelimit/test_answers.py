"""What a request over its limit is answered, and what the vendors' own SDKs make of it."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anthropic
import anyio
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from tests.support.asgi import Answer, drive, http_scope
from tests.support.clock import FakeClock
from tokenpulse_mw import Decision, InFlight, Limiter, Policy, RateLimitMiddleware
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.ratelimit import (
    ANSWERS,
    anthropic_error,
    openai_error,
    problem_details,
    too_many_requests,
)
from tokenpulse_mw.ratelimit.answers import Respond

SHORT = Decision(False, 5, 0, 60.0, 0.2001, "burst")
LONG = Decision(False, 100, 0, 60.0, 41.5, "minute", ("day", "month"))
NEVER = Decision(False, 100, 7, 60.0, math.inf, "minute")

WAIT = "Rate limit 'minute' of 100 is exceeded. Retry in 42 s."
TOO_MUCH = "This request is more than the limit 'minute' of 100 ever has room for."


async def answered(respond: Respond, decision: Decision) -> Answer:
    """What `respond` gives, as it is sent."""
    return await drive(respond(decision))


def told(answer: Answer) -> dict[str, str]:
    """What the headers of an answer say of waiting."""
    names = ("retry-after", "retry-after-ms", "x-should-retry")
    return {name: answer.headers[name] for name in names if name in answer.headers}


@pytest.mark.anyio
async def test_the_seeds_answer() -> None:
    """Plain text, and when to come back."""
    answer = await answered(too_many_requests, LONG)

    assert (answer.status, answer.body) == (429, b"Too Many Requests")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert told(answer) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_problem_details() -> None:
    """RFC 9457: the type says what kind of problem, and all policies that refused are named."""
    answer = await answered(problem_details, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body) == {
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Too Many Requests",
        "status": 429,
        "detail": WAIT,
        "violated-policies": ["minute", "day", "month"],
    }
    assert told(answer) == {"retry-after": "42"}


@pytest.mark.anyio
async def test_the_error_of_openai() -> None:
    """As its API words it, with the wait in milliseconds."""
    answer = await answered(openai_error, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "error": {
            "message": WAIT,
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    }
    assert told(answer) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.anyio
async def test_the_error_of_anthropic() -> None:
    """As its API words it, with the wait in milliseconds."""
    answer = await answered(anthropic_error, LONG)

    assert answer.status == 429
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.body) == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": WAIT},
    }
    assert told(answer) == {"retry-after": "42", "retry-after-ms": "41500"}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.anyio
async def test_a_short_wait_is_rounded_up(name: str) -> None:
    """To a whole second, and for the SDKs to a millisecond."""
    answer = await answered(ANSWERS[name], SHORT)

    of_sdk = {"retry-after-ms": "201"} if name in ("openai", "anthropic") else {}
    assert told(answer) == {"retry-after": "1", **of_sdk}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.anyio
async def test_what_never_fits_need_not_be_tried_again(name: str) -> None:
    """No time to wait is told where waiting does not help, and the message says so."""
    answer = await answered(ANSWERS[name], NEVER)

    of_sdk = {"x-should-retry": "false"} if name in ("openai", "anthropic") else {}
    assert answer.status == 429
    assert told(answer) == of_sdk
    assert name == "text" or TOO_MUCH in answer.body.decode()


LIMITERS: dict[str, Callable[[int, int, FakeClock], Limiter]] = {
    strategy: lambda limit, window, clock, strategy=strategy: Limiter(  # type: ignore[misc]
        f"{limit} per {window} seconds", strategy=strategy, clock=clock
    )
    for strategy in ("fixed-window", "sliding-window-counter", "gcra")
}


def sixteenths(most: int) -> st.SearchStrategy[float]:
    """Seconds up to `most` that floats can hold."""
    return st.integers(0, 16 * most).map(lambda count: count / 16)


@given(
    strategy=st.sampled_from(sorted(LIMITERS)),
    limit=st.integers(1, 50),
    window=st.integers(1, 3600),
    cost=st.integers(1, 50),
    start=sixteenths(10**7),
    gaps=st.lists(sixteenths(100), max_size=5),
)
def test_whoever_waits_as_told_is_let_in(
    strategy: str, limit: int, window: int, cost: int, start: float, gaps: list[float]
) -> None:
    """To the second by `Retry-After`, to the millisecond by `retry-after-ms`; never at once."""
    clock, cost = FakeClock(start), min(cost, limit)
    limiter = LIMITERS[strategy](limit, window, clock)
    for gap in gaps:
        limiter.hit("client", cost)
        clock.advance(gap)
    while (refused := limiter.peek("client", cost)).allowed:
        limiter.hit("client", cost)

    waits = told(anyio.run(answered, openai_error, refused))
    seconds, milliseconds = int(waits["retry-after"]), int(waits["retry-after-ms"])

    assert seconds == max(math.ceil(refused.retry_after), 1)
    assert 0 <= milliseconds / 1000 - refused.retry_after < 0.0011
    clock.advance(milliseconds / 1000)
    assert limiter.peek("client", cost).allowed
    clock.advance(max(seconds - milliseconds / 1000, 0))
    assert limiter.peek("client", cost).allowed


# The official SDKs.


@dataclass
class Gateway:
    """A gateway over its limit, that serves.

    Attributes:
        url: Where it is.
        asked: When each request came in, in seconds of `time.monotonic`.
        refusals: What was decided against some of them.
    """

    url: str = ""
    asked: list[float] = field(default_factory=list)
    refusals: list[Decision] = field(default_factory=list)


CHAT: dict[str, Any] = {
    "id": "c-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-demo",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    ],
}
MESSAGE: dict[str, Any] = {
    "id": "m-1",
    "type": "message",
    "role": "assistant",
    "model": "claude-demo",
    "content": [{"type": "text", "text": "yes"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}


# A server may be closing a connection that was idle for long, where the machine is slow.
ONE_EACH = {"connection": "close"}


@contextmanager
def gateway_over_its_limit(respond: Respond, *, cost: int = 1) -> Iterator[Gateway]:
    """One that has room again when a client has been told how long to wait, and no earlier."""
    clock, gateway = FakeClock(), Gateway()
    limiter = Limiter("5/second", strategy="gcra", clock=clock)
    limiter.hit("client", 5)

    def note(scope: Scope, decision: Decision) -> None:
        gateway.asked.append(time.monotonic())
        if not decision.allowed:
            gateway.refusals.append(decision)
            # The client is to wait that long; it is measured below whether it does.
            clock.advance(math.ceil(min(decision.retry_after, 1.0) * 1000) / 1000)

    async def chat(request: Request) -> Response:
        return JSONResponse(CHAT)

    async def message(request: Request) -> Response:
        return JSONResponse(MESSAGE)

    policy = Policy(limiter, name="burst", key=lambda scope: "client", cost=lambda scope: cost)
    options = {"policies": [policy], "respond": respond, "on_decision": note}
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/messages", message, methods=["POST"]),
        ],
        middleware=[Middleware(RateLimitMiddleware, **options)],  # type: ignore[arg-type]
    )
    with LocalServer(app) as server:
        gateway.url = server.url
        yield gateway


def ask_openai(url: str, max_retries: int) -> str | None:
    """What the SDK of OpenAI is answered."""
    with openai.OpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=max_retries, default_headers=ONE_EACH
    ) as client:
        answer = client.chat.completions.create(
            model="gpt-demo", messages=[{"role": "user", "content": "Is it?"}]
        )
        return answer.choices[0].message.content


def ask_anthropic(url: str, max_retries: int) -> str | None:
    """What the SDK of Anthropic is answered."""
    with anthropic.Anthropic(
        base_url=url, api_key="k", max_retries=max_retries, default_headers=ONE_EACH
    ) as client:
        answer = client.messages.create(
            model="claude-demo", max_tokens=1, messages=[{"role": "user", "content": "Is it?"}]
        )
        return answer.content[0].text  # type: ignore[union-attr]


Ask = Callable[[str, int], str | None]
SDKS: dict[str, tuple[Ask, Respond, type[Exception]]] = {
    "openai": (ask_openai, openai_error, openai.RateLimitError),
    "anthropic": (ask_anthropic, anthropic_error, anthropic.RateLimitError),
}


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_raises_its_own_error(ask: Ask, respond: Respond, error: type[Exception]) -> None:
    """The one that its users catch, with our message in it."""
    with (
        gateway_over_its_limit(respond) as gateway,
        pytest.raises(error, match=r"Rate limit 'burst' of 5 is exceeded\. Retry in 1 s\."),
    ):
        ask(gateway.url, 0)

    assert len(gateway.asked) == 1


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_waits_as_it_is_told(
    ask: Ask, respond: Respond, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It reads the milliseconds, tries once more when they are over, and is answered."""
    with gateway_over_its_limit(respond) as gateway, caplog.at_level(logging.INFO):
        assert ask(gateway.url, 1) == "yes"

    refused_at, answered_at = gateway.asked
    (refusal,) = gateway.refusals
    assert refusal.retry_after == pytest.approx(0.2, abs=0.001)
    assert answered_at - refused_at >= refusal.retry_after
    assert "in 0.201000 seconds" in caplog.text  # and not in the second of Retry-After


@pytest.mark.parametrize(("ask", "respond", "error"), SDKS.values(), ids=SDKS)
def test_an_sdk_does_not_try_again_what_never_fits(
    ask: Ask, respond: Respond, error: type[Exception]
) -> None:
    """However often it may."""
    with (
        gateway_over_its_limit(respond, cost=6) as gateway,
        pytest.raises(error, match="more than the limit 'burst' of 5 ever has room for"),
    ):
        ask(gateway.url, 5)

    assert len(gateway.asked) == 1


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.anyio
async def test_a_place_is_to_be_asked_for_again_in_a_second(name: str) -> None:
    """Nobody can tell when a request that is in progress will end."""
    places = InFlight(1)
    places.hit("client")
    app = RateLimitMiddleware(
        too_many_requests(SHORT),
        policies=[Policy(places, key=lambda scope: "client")],
        respond=ANSWERS[name],
    )

    answer = await drive(app, http_scope())

    of_sdk = {"retry-after-ms": "1000"} if name in ("openai", "anthropic") else {}
    assert told(answer) == {"retry-after": "1", **of_sdk}


@pytest.mark.parametrize("respond", [openai_error, anthropic_error])
@pytest.mark.anyio
async def test_nobody_is_made_to_sleep_for_hours(respond: Respond) -> None:
    """SDKs are told not to retry by themselves after more than two minutes."""
    soon, late = (Decision(False, 1, 0, wait, wait) for wait in (120.0, 120.5))

    assert "x-should-retry" not in (await drive(respond(soon))).headers
    answer = await drive(respond(late))
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["retry-after"] == "121"


@pytest.mark.anyio
async def test_no_one_is_told_to_retry_at_once() -> None:
    """Some SDKs ignore a wait of 0."""
    answer = await drive(openai_error(Decision(False, 1, 0, 0.0, 0.0)))

    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1")


@pytest.mark.anyio
async def test_without_the_storage_no_limit_is_said_to_be_exceeded() -> None:
    """The reason is told as it is."""
    answer = await drive(openai_error(Decision(False, 5, 0, 1.0, 1.0, degraded=True)))

    assert b"Rate limit 'default' cannot be checked now. Retry in 1 s." in answer.body

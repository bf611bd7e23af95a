"""RateLimitMiddleware: 429 for whoever asks too often, headers for all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    Decision,
    Exchange,
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    keys,
)

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock


@pytest.mark.anyio
async def test_the_seeds_answer() -> None:
    """Of 150 requests in a minute 100 are answered, 50 get 429; another client is untouched."""
    app = RateLimitMiddleware(answering())

    answers = [await drive(app) for _ in range(150)]
    other = await drive(app, http_scope(client=("192.0.2.2", 1)))

    assert [answer.status for answer in answers] == [200] * 100 + [429] * 50
    assert answers[-1].body == b"Too Many Requests"
    assert answers[-1].headers["content-type"].startswith("text/plain")
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60
    assert other.status == 200


@pytest.mark.anyio
async def test_whoever_waits_as_told_is_let_in(clock: FakeClock) -> None:
    """`Retry-After` is honest, and at least 1 also when the window ends in a moment."""
    app = RateLimitMiddleware(answering(), limiter=Limiter("1/minute", clock=clock))
    await drive(app)
    clock.advance(59.9)

    refused = await drive(app)
    clock.advance(int(refused.headers["retry-after"]))

    assert refused.headers["retry-after"] == "1"
    assert (await drive(app)).status == 200


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_every_answer_tells_where_the_client_stands(around: type[ExchangeMiddleware]) -> None:
    """The headers are on answers of the application and on 429, with and without an exchange."""
    limiter = Limiter("1/minute", clock=FakeClock())
    app = around(RateLimitMiddleware(answering(headers=[(b"x", b"y")]), limiter=limiter))

    first, second = await drive(app), await drive(app)

    assert first.headers["ratelimit-policy"] == '"default";q=1;w=60'
    assert first.headers["ratelimit"] == second.headers["ratelimit"] == '"default";r=0;t=60'
    assert first.headers["x"] == "y"


@pytest.mark.anyio
async def test_headers_can_be_left_out() -> None:
    """A gateway may keep its limits to itself."""
    app = RateLimitMiddleware(answering(), headers=None)

    assert list((await drive(app)).headers) == ["content-type"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.anyio
async def test_read_of_exempt_path_is_not_counted(method: str) -> None:
    """The response has no rate limit headers."""
    limiter = Limiter("1/day")
    app = RateLimitMiddleware(answering(), limiter=limiter, exempt=["/health*"])

    answers = [await drive(app, http_scope("/health/live", method=method)) for _ in range(3)]

    assert [answer.status for answer in answers] == [200] * 3
    assert "ratelimit" not in answers[0].headers
    assert len(limiter) == 0


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/metrics"])
@pytest.mark.anyio
async def test_without_exempt_every_path_is_limited(path: str) -> None:
    """The middleware cannot know what answers a path, so it exempts none by default."""
    app = RateLimitMiddleware(answering(), limit="1/day")

    assert [(await drive(app, http_scope(path))).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.anyio
async def test_other_method_on_exempt_path_is_limited(method: str) -> None:
    """An exempt path is exempt for GET and HEAD only."""
    app = RateLimitMiddleware(answering(), limit="1/day", exempt=["/health*"])
    scope = http_scope("/health/x", method=method)

    assert [(await drive(app, dict(scope))).status for _ in range(2)] == [200, 429]


@pytest.mark.anyio
async def test_a_request_without_a_key_is_not_limited() -> None:
    """A key of None says that this limit is not meant for it."""
    app = RateLimitMiddleware(answering(), limit="1/day", key=keys.header("x-api-key"))

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3


@pytest.mark.anyio
async def test_shadow_mode_only_tells() -> None:
    """With `enforce=False` every request passes, and the decisions are told all the same."""
    told: list[bool] = []

    def note(scope: Scope, decision: Decision) -> None:
        told.append(decision.allowed)

    app = RateLimitMiddleware(answering(), limit="1/day", enforce=False, on_decision=note)

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3
    assert told == [True, False, False]


@pytest.mark.anyio
async def test_the_answer_can_be_another() -> None:
    """`respond` makes it from the decision."""
    app = RateLimitMiddleware(
        answering(),
        limiter=Limiter("1/day", clock=FakeClock()),
        respond=lambda decision: JSONResponse({"wait": decision.retry_after}, status_code=429),
    )
    await drive(app)

    assert (await drive(app)).body == b'{"wait":86400.0}'


@pytest.mark.anyio
async def test_an_exchange_knows_that_it_was_limited() -> None:
    """Whoever observes can tell our 429 from one of the application."""
    seen: list[Exchange] = []
    limited = RateLimitMiddleware(answering(), limit="1/day")
    app = ExchangeMiddleware(limited, observers=[seen.append])

    await drive(app)
    await drive(app)
    await drive(ExchangeMiddleware(answering(status=429), observers=[seen.append]))

    assert [(each.status, each.limited) for each in seen] == [
        (200, False),
        (429, True),
        (429, False),
    ]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_a_failure_of_ours_lets_the_request_pass(
    around: type[ExchangeMiddleware], caplog: pytest.LogCaptureFixture
) -> None:
    """A key function that raises limits no request, and is logged once."""

    def key(scope: Scope) -> str:
        raise KeyError("user")

    app = around(RateLimitMiddleware(answering(), key=key))

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [200, 200]

    assert [record.args for record in caplog.records] == [("rate limit policy default", "KeyError")]


@pytest.mark.anyio
async def test_a_failing_callback_changes_no_decision() -> None:
    """Whoever is told of decisions cannot undo them by raising."""

    def note(scope: Scope, decision: Decision) -> None:
        raise RuntimeError("no disk")

    app = RateLimitMiddleware(answering(), limit="1/day", on_decision=note)

    assert [(await drive(app)).status for _ in range(2)] == [200, 429]


async def async_key(scope: Scope) -> str:
    """A key that cannot be waited for."""
    return "me"


class AsyncKey:
    """An object whose call cannot be waited for either."""

    async def __call__(self, scope: Scope) -> str:
        return "me"


@pytest.mark.parametrize(
    "options",
    [
        {"key": "x-api-key"},
        {"key": async_key},
        {"key": AsyncKey()},
        {"respond": 429},
        {"respond": None},
        {"respond": async_key},
        {"on_decision": []},
        {"on_decision": AsyncKey()},
    ],
)
def test_what_is_no_function_is_refused(options: dict[str, Any]) -> None:
    """A limit that could tell nobody apart would let everyone through."""
    with pytest.raises(ValueError, match="must be a function that is not async, got"):
        RateLimitMiddleware(answering(), **options)


def test_two_limits_are_one_too_many() -> None:
    """A limit beside a limiter would be silently ignored, so it is refused."""
    with pytest.raises(ValueError, match="give limit or limiter, not both: got '5/minute' and"):
        RateLimitMiddleware(answering(), limit="5/minute", limiter=Limiter("1/day"))


def test_an_empty_limiter_is_still_the_one_given() -> None:
    """A limiter that has seen nobody yet is not taken for none."""
    limiter = Limiter("7/day")

    assert RateLimitMiddleware(answering(), limiter=limiter).policies[0].limiter is limiter


# Several policies.


# The answer's headers.


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.parametrize(
    ("headers", "theirs", "sent"),
    [
        ("openai", b"X-RateLimit-Limit-Requests", [b"5"]),
        ("openai", b"x-ratelimit-remaining-tokens", []),
        ("openai", b"x-ratelimit-limit", [b"theirs"]),
        ("legacy", b"X-Ratelimit-Remaining", [b"4"]),
        ("legacy", b"x-ratelimit-limit-requests", [b"theirs"]),
        ("draft-11", b"RateLimit-Policy", [b"theirs", b'"default";q=5;w=86400']),
        ("draft-11", b"x-ratelimit-limit", [b"theirs"]),
        (None, b"ratelimit", [b"theirs"]),
    ],
)
@pytest.mark.anyio
async def test_headers_of_a_vendor_behind_us_are_not_taken_for_ours(
    headers: str | None, theirs: bytes, sent: list[bytes], around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """A dialect of single values replaces its own names; what is a list may be added to."""
    vendor = answering(headers=[(theirs, b"theirs"), (b"x-request-id", b"7")])
    app = around(RateLimitMiddleware(vendor, limit="5/day", headers=headers))

    (start, _) = (await drive(app)).messages

    found = [value for name, value in start["headers"] if name.lower() == theirs.lower()]
    assert found == sent
    assert (b"x-request-id", b"7") in start["headers"]


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_an_answer_without_headers_gets_ours(
    headers: str, around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """ASGI lets an application leave them out; early hints and trailers pass as they are."""

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})
        await send({"type": "http.response.trailers", "headers": []})

    app = around(RateLimitMiddleware(bare, limit="5/day", headers=headers))

    hint, start, *rest = (await drive(app)).messages

    assert any(b"ratelimit" in name for name, _ in start["headers"])
    assert [hint, *rest] == [
        {"type": "http.response.early_hint", "links": [b"</a>"]},
        {"type": "http.response.body"},
        {"type": "http.response.trailers", "headers": []},
    ]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_an_answer_that_cannot_be_made_is_the_seeds(
    around: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """A `respond` that raises is logged once, and lets nobody in."""

    def respond(decision: Decision) -> ASGIApp:
        raise KeyError("template")

    app = around(RateLimitMiddleware(answering(), limit="1/day", respond=respond))

    answers = [await drive(app) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 429, 429]
    assert answers[1].body == b"Too Many Requests"
    assert int(answers[1].headers["retry-after"]) >= 1
    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.anyio
async def test_what_is_no_request_passes_untouched() -> None:
    """A lifespan is not limited, nor is what ASGI may bring one day."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    limiter = Limiter("1/day")
    limited = RateLimitMiddleware(app, limiter=limiter)
    for kind in ("lifespan", "lifespan", "webtransport"):
        await drive(limited, {"type": kind})

    assert seen == ["lifespan", "lifespan", "webtransport"]
    assert len(limiter) == 0


@pytest.mark.parametrize("path", ["/health", "/metrics"])
@pytest.mark.anyio
async def test_exempt_paths_hold_nothing(path: str) -> None:
    """No place, no tokens, and no exchange is opened for them."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "tokenpulse_mw.exchange" not in scope
        await answering()(scope, receive, send)

    places = InFlight(1)
    places.hit("client")
    policies = [Policy(places, key=lambda scope: "client")]
    limited = RateLimitMiddleware(app, policies=policies, exempt=["/health*", "/metrics"])

    assert (await drive(limited, http_scope(path))).status == 200


@pytest.mark.anyio
async def test_stacked_limits_share_one_exchange() -> None:
    """Each settles what it holds itself, and observers are told of one exchange."""
    seen: list[Exchange] = []
    chat = answering(b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    tenant, user, places = Limiter("100/day"), Limiter("100/day"), InFlight(5)
    app: ASGIApp = chat
    for limiter in (tenant, user):
        app = RateLimitMiddleware(
            app, policies=[Policy(limiter, key=lambda scope: "client", tokens=40)]
        )
    app = RateLimitMiddleware(app, limiter=places)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope(method="POST"))

    assert len(seen) == 1
    assert [each.peek("client").remaining for each in (tenant, user)] == [93, 93]
    assert len(places) == 0


# Real servers, and clients that leave.


@pytest.mark.anyio
async def test_an_answer_that_is_none_is_the_seeds(caplog: pytest.LogCaptureFixture) -> None:
    """A `respond` that forgets its return is told of once, and the request is refused."""

    def respond(decision: Decision) -> ASGIApp:
        return None  # type: ignore[return-value]

    app = RateLimitMiddleware(answering(), limit="1/day", respond=respond)
    await drive(app)

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [429, 429]

    assert [record.args for record in caplog.records] == [("ratelimit", "TypeError")]

"""RateLimitMiddleware: rejections and headers."""

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
from ..support.asgi import Answer, drive, http_scope
from ..support.clock import FakeClock


@pytest.mark.anyio
async def test_default_limit_rejects_requests_after_the_first_hundred() -> None:
    """Of 150 requests in a minute 50 are rejected; another client is not affected."""
    app = RateLimitMiddleware(answering())

    responses = [await drive(app) for _ in range(150)]
    other = await drive(app, http_scope(client=("192.0.2.2", 1)))

    assert [response.status for response in responses] == [200] * 100 + [429] * 50
    assert responses[-1].body == b"Too Many Requests"
    assert responses[-1].headers["content-type"].startswith("text/plain")
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 60
    assert other.status == 200


@pytest.mark.anyio
async def test_request_after_retry_after_is_allowed(clock: FakeClock) -> None:
    """`Retry-After` is at least 1, even if the window ends sooner."""
    app = RateLimitMiddleware(answering(), limiter=Limiter("1/minute", clock=clock))
    await drive(app)
    clock.advance(59.9)

    rejected = await drive(app)
    clock.advance(int(rejected.headers["retry-after"]))

    assert rejected.headers["retry-after"] == "1"
    assert (await drive(app)).status == 200


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_every_response_has_rate_limit_headers(around: type[ExchangeMiddleware]) -> None:
    """Responses of the application and 429 have them, with and without an exchange."""
    limiter = Limiter("1/minute", clock=FakeClock())
    app = around(RateLimitMiddleware(answering(headers=[(b"x", b"y")]), limiter=limiter))

    first, second = await drive(app), await drive(app)

    assert first.headers["ratelimit-policy"] == '"default";q=1;w=60'
    assert first.headers["ratelimit"] == second.headers["ratelimit"] == '"default";r=0;t=60'
    assert first.headers["x"] == "y"


@pytest.mark.anyio
async def test_headers_none_adds_no_headers() -> None:
    """With `headers=None`, the response has only its own headers."""
    app = RateLimitMiddleware(answering(), headers=None)

    assert list((await drive(app)).headers) == ["content-type"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.anyio
async def test_read_of_exempt_path_is_not_counted(method: str) -> None:
    """The response has no rate limit headers."""
    limiter = Limiter("1/day")
    app = RateLimitMiddleware(answering(), limiter=limiter, exempt=["/health*"])

    responses = [await drive(app, http_scope("/health/live", method=method)) for _ in range(3)]

    assert [response.status for response in responses] == [200] * 3
    assert "ratelimit" not in responses[0].headers
    assert len(limiter) == 0


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/metrics"])
@pytest.mark.anyio
async def test_without_exempt_every_path_is_limited(path: str) -> None:
    """No path is exempt by default."""
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
async def test_request_with_key_none_is_not_limited() -> None:
    """A key of None means that the limit does not apply to the request."""
    app = RateLimitMiddleware(answering(), limit="1/day", key=keys.header("x-api-key"))

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3


@pytest.mark.anyio
async def test_shadow_mode_only_reports() -> None:
    """With `enforce=False` every request passes, and `on_decision` gets the decisions."""
    allowed: list[bool] = []

    def on_decision(scope: Scope, decision: Decision) -> None:
        allowed.append(decision.allowed)

    app = RateLimitMiddleware(answering(), limit="1/day", enforce=False, on_decision=on_decision)

    assert [(await drive(app)).status for _ in range(3)] == [200] * 3
    assert allowed == [True, False, False]


@pytest.mark.anyio
async def test_respond_replaces_the_response() -> None:
    """`respond` returns the response for a decision."""
    app = RateLimitMiddleware(
        answering(),
        limiter=Limiter("1/day", clock=FakeClock()),
        respond=lambda decision: JSONResponse({"wait": decision.retry_after}, status_code=429),
    )
    await drive(app)

    assert (await drive(app)).body == b'{"wait":86400.0}'


@pytest.mark.anyio
async def test_rejected_exchange_is_marked_as_limited() -> None:
    """An observer can distinguish a rejection from a 429 of the application."""
    exchanges: list[Exchange] = []
    limited = RateLimitMiddleware(answering(), limit="1/day")
    app = ExchangeMiddleware(limited, observers=[exchanges.append])

    await drive(app)
    await drive(app)
    await drive(ExchangeMiddleware(answering(status=429), observers=[exchanges.append]))

    assert [(exchange.status, exchange.limited) for exchange in exchanges] == [
        (200, False),
        (429, True),
        (429, False),
    ]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_failing_key_function_limits_no_request(
    around: type[ExchangeMiddleware], caplog: pytest.LogCaptureFixture
) -> None:
    """The error of the key function is logged once."""

    def key(scope: Scope) -> str:
        raise KeyError("user")

    app = around(RateLimitMiddleware(answering(), key=key))

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [200, 200]

    assert [record.args for record in caplog.records] == [("rate limit policy default", "KeyError")]


@pytest.mark.anyio
async def test_failing_on_decision_changes_no_decision() -> None:
    """An error of `on_decision` does not undo the decision."""

    def on_decision(scope: Scope, decision: Decision) -> None:
        raise RuntimeError("no disk")

    app = RateLimitMiddleware(answering(), limit="1/day", on_decision=on_decision)

    assert [(await drive(app)).status for _ in range(2)] == [200, 429]


async def async_key(scope: Scope) -> str:
    """Return a key asynchronously."""
    return "me"


class AsyncKey:
    """Object with an asynchronous call."""

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
def test_option_that_is_not_a_function_is_rejected(options: dict[str, Any]) -> None:
    """Functions of the middleware must be callable and not async."""
    with pytest.raises(ValueError, match="must be a function that is not async, got"):
        RateLimitMiddleware(answering(), **options)


def test_limit_and_limiter_exclude_each_other() -> None:
    """A limit together with a limiter would be ignored silently, so it is rejected."""
    with pytest.raises(ValueError, match="give limit or limiter, not both: got '5/minute' and"):
        RateLimitMiddleware(answering(), limit="5/minute", limiter=Limiter("1/day"))


def test_empty_limiter_is_used() -> None:
    """A limiter without entries is not treated as missing."""
    limiter = Limiter("7/day")

    assert RateLimitMiddleware(answering(), limiter=limiter).policies[0].limiter is limiter


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.parametrize(
    ("headers", "name", "sent"),
    [
        ("openai", b"X-RateLimit-Limit-Requests", [b"5"]),
        ("openai", b"x-ratelimit-remaining-tokens", []),
        ("openai", b"x-ratelimit-limit", [b"vendor"]),
        ("legacy", b"X-Ratelimit-Remaining", [b"4"]),
        ("legacy", b"x-ratelimit-limit-requests", [b"vendor"]),
        ("draft-11", b"RateLimit-Policy", [b"vendor", b'"default";q=5;w=86400']),
        ("draft-11", b"x-ratelimit-limit", [b"vendor"]),
        (None, b"ratelimit", [b"vendor"]),
    ],
)
@pytest.mark.anyio
async def test_rate_limit_headers_of_the_application_are_replaced(
    headers: str | None, name: bytes, sent: list[bytes], around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """A dialect with single values replaces its own names; list fields are extended."""
    vendor = answering(headers=[(name, b"vendor"), (b"x-request-id", b"7")])
    app = around(RateLimitMiddleware(vendor, limit="5/day", headers=headers))

    (start, _) = (await drive(app)).messages

    values = [value for field, value in start["headers"] if field.lower() == name.lower()]
    assert values == sent
    assert (b"x-request-id", b"7") in start["headers"]


@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.parametrize(("tenant", "statuses"), [("2/day", [200, 200, 429]), ("9/day", [200] * 3)])
@pytest.mark.parametrize(
    ("headers", "name"),
    [("openai", "x-ratelimit-remaining-requests"), ("legacy", "x-ratelimit-remaining")],
)
@pytest.mark.anyio
async def test_single_value_headers_are_those_of_the_innermost_limit(
    headers: str,
    name: str,
    tenant: str,
    statuses: list[int],
    around: Callable[[ASGIApp], ASGIApp],
) -> None:
    """A response of the limit of a tenant shows that limit, not the one of the address."""
    inner = RateLimitMiddleware(answering(), limit=tenant, headers=headers)
    app = around(RateLimitMiddleware(inner, limit="600/day", headers=headers))

    responses = [await drive(app) for _ in range(3)]

    limit = int(tenant.partition("/")[0])
    assert [response.status for response in responses] == statuses
    remaining = [max(limit - count, 0) for count in (1, 2, 3)]
    assert [int(response.headers[name]) for response in responses] == remaining
    assert [_names(response).count(name) for response in responses] == [1, 1, 1]


@pytest.mark.anyio
async def test_headers_of_different_units_come_from_both_limits() -> None:
    """An inner limit of tokens does not hide an outer limit of requests."""
    budget = [Policy("9000/day", tokens=4000)]
    inner = RateLimitMiddleware(answering(), policies=budget, headers="openai")
    app = RateLimitMiddleware(inner, limit="600/day", headers="openai")

    response = await drive(app)

    assert response.headers["x-ratelimit-remaining-requests"] == "599"
    assert response.headers["x-ratelimit-remaining-tokens"] == "5000"


@pytest.mark.anyio
async def test_list_headers_of_stacked_limits_are_one_header() -> None:
    """Each header name is sent once, with an item for each policy."""
    inner = RateLimitMiddleware(answering(), policies=[Policy("2/day", name="tenant")])
    app = ExchangeMiddleware(RateLimitMiddleware(inner, limit="600/day"))

    response = await drive(app)

    assert _names(response) == ["content-type", "ratelimit-policy", "ratelimit"]
    assert response.headers["ratelimit-policy"] == '"default";q=600;w=86400,"tenant";q=2;w=86400'


def _names(response: Answer) -> list[str]:
    return [name.decode() for name, _ in response.messages[0]["headers"]]


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
@pytest.mark.parametrize("kind", [list, tuple, iter])
@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_response_headers_may_be_any_iterable(
    headers: str, kind: type, around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """Headers of the application that can be read only once reach the client, before ours."""
    own = [(b"content-type", b"application/json"), (b"x-vendor", b"7")]

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": kind(own)})
        await send({"type": "http.response.body"})

    app = around(RateLimitMiddleware(vendor, limit="5/day", headers=headers))

    (start, _) = (await drive(app)).messages

    assert start["headers"][: len(own)] == own
    assert any(b"ratelimit" in name for name, _ in start["headers"])


@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
@pytest.mark.parametrize("around", [lambda app: app, ExchangeMiddleware])
@pytest.mark.anyio
async def test_response_without_headers_gets_rate_limit_headers(
    headers: str, around: Callable[[ASGIApp], ASGIApp]
) -> None:
    """Headers are optional in ASGI; early hints and trailers pass unchanged."""

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
async def test_failing_respond_is_replaced_by_the_default_response(
    around: Callable[[ASGIApp], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """The error of `respond` is logged once, and the request stays rejected."""

    def respond(decision: Decision) -> ASGIApp:
        raise KeyError("template")

    app = around(RateLimitMiddleware(answering(), limit="1/day", respond=respond))

    responses = [await drive(app) for _ in range(3)]

    assert [response.status for response in responses] == [200, 429, 429]
    assert responses[1].body == b"Too Many Requests"
    assert int(responses[1].headers["retry-after"]) >= 1
    assert [record.args for record in caplog.records] == [("ratelimit", "KeyError")]


@pytest.mark.anyio
async def test_other_scope_types_are_not_limited() -> None:
    """A lifespan and unknown scope types are passed to the application."""
    scope_types: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope_types.append(scope["type"])

    limiter = Limiter("1/day")
    limited = RateLimitMiddleware(app, limiter=limiter)
    for kind in ("lifespan", "lifespan", "webtransport"):
        await drive(limited, {"type": kind})

    assert scope_types == ["lifespan", "lifespan", "webtransport"]
    assert len(limiter) == 0


@pytest.mark.parametrize("path", ["/health", "/metrics"])
@pytest.mark.anyio
async def test_exempt_path_takes_no_slot_and_opens_no_exchange(path: str) -> None:
    """An exempt request is passed on before any limiter is used."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert "tokenpulse_mw.exchange" not in scope
        await answering()(scope, receive, send)

    slots = InFlight(1)
    slots.hit("client")
    policies = [Policy(slots, key=lambda scope: "client")]
    limited = RateLimitMiddleware(app, policies=policies, exempt=["/health*", "/metrics"])

    assert (await drive(limited, http_scope(path))).status == 200


@pytest.mark.anyio
async def test_stacked_limits_share_one_exchange() -> None:
    """Every middleware settles its reservations, and observers get a single exchange."""
    exchanges: list[Exchange] = []
    chat = answering(b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}')
    tenant, user, slots = Limiter("100/day"), Limiter("100/day"), InFlight(5)
    app: ASGIApp = chat
    for limiter in (tenant, user):
        app = RateLimitMiddleware(
            app, policies=[Policy(limiter, key=lambda scope: "client", tokens=40)]
        )
    app = RateLimitMiddleware(app, limiter=slots)

    await drive(ExchangeMiddleware(app, observers=[exchanges.append]), http_scope(method="POST"))

    assert len(exchanges) == 1
    assert [limiter.peek("client").remaining for limiter in (tenant, user)] == [93, 93]
    assert len(slots) == 0


@pytest.mark.anyio
async def test_respond_that_returns_none_is_replaced_by_the_default_response(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A `respond` without a return value is logged once, and the request stays rejected."""

    def respond(decision: Decision) -> ASGIApp:
        return None  # type: ignore[return-value]

    app = RateLimitMiddleware(answering(), limit="1/day", respond=respond)
    await drive(app)

    with caplog.at_level(logging.ERROR):
        assert [(await drive(app)).status for _ in range(2)] == [429, 429]

    assert [record.args for record in caplog.records] == [("ratelimit", "TypeError")]

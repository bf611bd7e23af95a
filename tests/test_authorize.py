"""Operators that a function of the application authorizes, and their wrong tokens."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, HttpMetrics, Person, Settings, TokenPulse, bearer

from .support.apps import answering
from .support.asgi import Answer, drive, http_scope

pytestmark = pytest.mark.anyio

TOKEN = "an-admin-token-that-is-long"
SCRAPER = "a-scrape-token-that-is-long"


def gateway(app: Starlette | None = None, *, limit: str = "1000/day", **options: Any) -> ASGIApp:
    """Return a gateway with a limit."""
    settings = Settings(limit=limit, **options.pop("settings", {}))
    metrics = HttpMetrics(CollectorRegistry())
    pulse = TokenPulse(settings=settings, metrics=metrics, **options)
    app = Starlette() if app is None else app
    pulse.install(app)
    return app


async def send(
    app: ASGIApp, path: str, token: str = "", method: str = "GET", **more: Any
) -> Answer:
    """Return the response to a request with a token."""
    headers = more.pop("headers", [(b"authorization", f"Bearer {token}".encode())])
    return await drive(app, http_scope(path, method=method, headers=headers, **more))


class Users:
    """Middleware of an application that authenticates ada."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the user."""
        await self.app({**scope, "user": "ada"}, receive, send)


async def authorize(request: Request) -> Person | None:
    """Admit ada, who may only read."""
    await anyio.lowlevel.checkpoint()
    is_ada = request.headers.get("authorization") == "Bearer ada"
    return Person("ada", can={"read"}) if is_ada else None


async def test_requests_that_a_function_admits_are_not_limited() -> None:
    """An async function replaces the admin token; other requests count under the limit."""
    app = gateway(limit="2/day", authorize=authorize)

    statuses = [(await send(app, "/admin/alerts", "ada")).status for _ in range(5)]
    statuses += [(await send(app, "/admin/alerts", "guess")).status for _ in range(3)]
    statuses.append((await send(app, "/admin/limits", "ada")).status)

    assert statuses == [200] * 5 + [401, 401, 429, 200]


@pytest.mark.parametrize(
    ("values", "function", "is_off"),
    [({}, None, True), ({"admin_token": TOKEN}, None, False), ({}, authorize, False)],
)
async def test_admin_api_that_is_off_is_logged_at_start(
    values: Any, function: Any, is_off: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The line names the setting, since the endpoints do not exist without it."""
    caplog.set_level(logging.INFO)
    settings = Settings(alerts=False, **values)
    metrics = HttpMetrics(CollectorRegistry())
    pulse = TokenPulse(settings=settings, metrics=metrics, authorize=function)

    async with pulse.lifespan():
        lines = [line for line in caplog.messages if "are off" in line]

    assert [" set TOKENPULSE_ADMIN_TOKEN, " in line for line in lines] == [True] * is_off


async def test_rights_of_a_person_apply_to_all_endpoints() -> None:
    """A caller without the right gets 403, and is not limited."""
    app = gateway(limit="1/day", authorize=authorize)

    answers = [
        await send(app, path, "ada", method)
        for path, method in (
            ("/admin/alerts/test", "POST"),
            ("/admin/limits/default", "DELETE"),
            ("/admin/settings", "PUT"),
            ("/admin/usage", "GET"),
        )
    ]

    assert [answer.status for answer in answers] == [403, 403, 403, 200]
    assert "needs the right `thresholds`; ada has `read`" in json.loads(answers[0].body)["detail"]


async def test_function_that_fails_outside_of_the_application_is_called_inside() -> None:
    """It may read what a middleware of the application adds; such requests are limited."""
    app = gateway(
        Starlette(middleware=[Middleware(Users)]),
        limit="12/day",
        authorize=lambda request: request.user,
    )

    statuses = [(await send(app, "/admin/alerts", "session")).status for _ in range(13)]

    assert statuses == [200] * 12 + [429]


async def test_rejection_inside_of_the_application_is_the_fault_of_the_client() -> None:
    """Even if the function has failed outside."""
    exchanges: list[Exchange] = []
    app = gateway(
        Starlette(middleware=[Middleware(Users)]),
        authorize=lambda request: request.user == "grace",
        observers=[exchanges.append],
    )

    answer = await send(app, "/admin/alerts", "session")

    assert (answer.status, exchanges[0].fault) == (401, "client")


async def test_response_to_too_many_wrong_tokens_is_the_fault_of_the_policy() -> None:
    """It is not a 429 of a provider."""
    exchanges: list[Exchange] = []
    app = gateway(Starlette(), authorize=lambda request: False, observers=[exchanges.append])

    for _ in range(11):
        await send(app, "/admin/alerts", "wrong")

    faults = [(exchange.status, exchange.fault) for exchange in exchanges[-2:]]
    assert faults == [(401, "client"), (429, "policy")]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"authorize": authorize, "settings": {"admin_token": TOKEN}},
            "admin_token has no effect if TokenPulse is given authorize: leave it out, or leave "
            "authorize out",
        ),
        ({"authorize": TOKEN}, "authorize must be a function of the request .* got a value of ty"),
    ],
)
def test_invalid_authorize_raises(options: Any, error: str) -> None:
    """It must be a function, and replaces the admin token."""
    with pytest.raises(ValueError, match=error) as caught:
        gateway(**options)
    assert TOKEN not in str(caught.value)


async def test_eleventh_wrong_token_of_a_minute_is_rejected() -> None:
    """The limit is that of the client, and a token that was accepted from it before still works."""
    app = gateway(authorize=bearer(TOKEN))
    await send(app, "/admin/alerts", TOKEN)

    answers = [await send(app, "/admin/alerts", f"guess-{number}") for number in range(12)]
    other = ("198.51.100.7", 1)

    assert [answer.status for answer in answers] == [401] * 10 + [429] * 2
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60
    assert (await send(app, "/admin/settings", TOKEN)).status == 200
    assert (await send(app, "/admin/limits", "guess", client=other)).status == 401


@pytest.mark.parametrize("is_wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "status"), [(HTTPException(401), 401), (HTTPException(403), 403), (KeyError(1), 503)]
)
async def test_authorize_that_raises_rejects_and_counts(
    error: Exception, status: int, is_wrapped: bool
) -> None:
    """The response is that of the exception, in an application without its own error handlers, too.

    A failure of the function is the gateway's fault, and not that of a provider.
    """
    exchanges: list[Exchange] = []

    def authorize(request: Request) -> bool:
        raise error

    if is_wrapped:
        metrics = HttpMetrics(CollectorRegistry())
        pulse = TokenPulse(metrics=metrics, authorize=authorize, observers=[exchanges.append])
        app = pulse.wrap(answering())
    else:
        app = gateway(authorize=authorize, observers=[exchanges.append])

    answers = [await send(app, "/admin/alerts", f"guess-{number}") for number in range(11)]

    assert [answer.status for answer in answers] == [status] * 10 + [429]
    assert json.loads(answers[0].body)["status"] == status
    assert exchanges[0].fault == ("gateway" if status == 503 else "client")


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (HTTPException(418, "short and stout"), 418, "short and stout"),
        (HTTPException(403, "\ud800"), 403, "?"),
        (HTTPException(401, {"code": "expired"}), 401, "Unauthorized"),  # type: ignore[arg-type]
        (HTTPException(204), 503, "Authorization failed: try again later."),
        (HTTPException(999, ["odd"]), 999, "Error"),  # type: ignore[arg-type]
    ],
)
async def test_http_exception_of_authorize_becomes_problem_details(
    error: HTTPException, status: int, detail: str
) -> None:
    """Its detail must be text, its status that of an error, and the body is ours."""
    error.headers = {
        "Content-Type": "text/html",
        "Content-Length": "3",
        "Retry-After": 30,  # type: ignore[dict-item]
        "X-Reason": "zu spät \u20ac\r\nx-forged: 1",
        "X-\u20ac": "1",
    }

    def authorize(request: Request) -> bool:
        raise error

    answer = await send(gateway(authorize=authorize), "/admin/alerts", TOKEN)

    body = json.loads(answer.body)
    assert (answer.status, body["status"], body["detail"]) == (status, status, detail)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-length"] == str(len(answer.body))
    if status != 503:
        assert answer.headers["retry-after"] == "30"
        assert answer.headers["x-reason"].endswith("?  x-forged: 1")


async def test_clients_behind_a_trusted_proxy_have_limits_of_their_own() -> None:
    """The client is that of the limits, not the proxy."""
    app = gateway(settings={"admin_token": TOKEN, "trusted_proxies": ["10.0.0.0/8"]})

    async def guess(address: bytes) -> int:
        headers = [(b"authorization", b"Bearer guess"), (b"x-forwarded-for", address)]
        answer = await send(app, "/admin/alerts", headers=headers, client=("10.0.0.1", 1))
        return answer.status

    statuses = [await guess(b"192.0.2.1") for _ in range(11)]

    assert statuses == [401] * 10 + [429]
    assert await guess(b"192.0.2.2") == 401


async def test_wrong_metrics_tokens_are_limited() -> None:
    """A scrape with the token that was accepted before still works."""
    app = gateway(settings={"metrics_token": SCRAPER})
    first = await send(app, "/metrics", SCRAPER)

    statuses = [(await send(app, "/metrics", "guess")).status for _ in range(11)]

    assert statuses == [404] * 10 + [429]
    assert (first.status, (await send(app, "/metrics", SCRAPER)).status) == (200, 200)

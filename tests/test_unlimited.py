"""Requests that are not limited, and that none of them reaches the application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import HttpMetrics, Settings, TokenPulse

from .support.apps import answering
from .support.asgi import Answer, drive, http_scope

ADMIN = "an-admin-token-that-is-long"
SCRAPER = "a-scrape-token-that-is-long"
OURS = [
    "/health",
    "/health/",
    "/health/live",
    "/health/ready",
    "/health/ready/",
    "/health/startup",
    "/api/credentials/status",
    "/metrics",
]
ADMIN_PATHS = ["/admin/alerts", "/admin/alerts/a1/ack", "/admin/alerts/../x", "/admin/settings"]
NEARLY_OURS = [
    "/healthz",
    "/health/anything",
    "/health/ready/x",
    "/health/../v1/chat",
    "/health/%2e%2e/v1",
    "/health;x",
    "//health",
    "/HEALTH",
    "/Metrics",
    "/metrics/",
    "/metrics/x",
    "/v1/health",
    "/llm/llm/health",
    "/admin",
    "/admin/alertsx",
    "/admin/settings/x",
]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]
LIMIT = 5


class Vendor:
    """An application that answers every path and counts the requests that reach it."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or close a WebSocket."""
        self.requests += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await answering(b"vendor")(scope, receive, send)


def gateway(vendor: ASGIApp, place: str, **options: Any) -> ASGIApp:
    """A gateway before `vendor` that allows `LIMIT` requests a day, put together as in `place`."""
    pulse = TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day", **options),
        metrics=HttpMetrics(CollectorRegistry()),
        credentials={"claude": True},
    )
    if place == "wrap":
        return pulse.wrap(vendor)
    app = Starlette(routes=[Mount("/", vendor)])
    pulse.install(app)
    return Starlette(routes=[Mount("/llm", app)]) if place == "mount" else app


every_place = pytest.mark.parametrize("place", ["install", "wrap", "mount"])


def requested(app: ASGIApp, *requests: Scope) -> list[Answer]:
    """The responses to `requests`, sent one after another."""

    async def send_all() -> list[Answer]:
        return [await drive(app, dict(request)) for request in requests]

    return anyio.run(send_all)


def scope_of(place: str, path: str, **options: Any) -> Scope:
    """A request for `path` of the gateway, from one and the same client."""
    return http_scope(f"/llm{path}" if place == "mount" else path, **options)


def bearing(token: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Headers with a bearer token."""
    return [(b"authorization", b"Bearer " + token.encode()), *more]


@every_place
@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_read_of_own_endpoint_is_answered_by_us_without_limit(
    method: str, path: str, place: str
) -> None:
    """A probe gets its answer however often it asks, and the application is not asked."""
    vendor = Vendor()
    app = gateway(vendor, place)

    answers = requested(app, *[scope_of(place, path, method=method)] * (LIMIT + 3))

    assert {answer.status for answer in answers} == {200}
    assert "ratelimit" not in answers[0].headers
    assert vendor.requests == 0


@every_place
@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("method", METHODS[2:])
def test_other_method_on_own_path_is_limited(method: str, path: str, place: str) -> None:
    """Only a read is unlimited: a method that the application answers counts."""
    vendor = Vendor()

    answers = requested(
        gateway(vendor, place), *[scope_of(place, path, method=method)] * (LIMIT + 3)
    )

    assert [answer.status for answer in answers[LIMIT:]] == [429] * 3
    assert vendor.requests in (0, LIMIT)


@every_place
@pytest.mark.parametrize("path", NEARLY_OURS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_path_that_is_only_similar_to_ours_is_limited(method: str, path: str, place: str) -> None:
    """No spelling of a path reaches the application without being counted."""
    vendor = Vendor()

    answers = requested(
        gateway(vendor, place, admin_token=ADMIN),
        *[scope_of(place, path, method=method, headers=bearing(ADMIN))] * (LIMIT + 3),
    )

    assert [answer.status for answer in answers[LIMIT:]] == [429] * 3
    assert vendor.requests <= LIMIT


@every_place
@pytest.mark.parametrize("path", [*OURS, *NEARLY_OURS])
def test_websocket_on_own_path_is_limited(path: str, place: str) -> None:
    """Our endpoints serve HTTP only, so the application answers every WebSocket."""
    vendor = Vendor()
    scope = {**scope_of(place, path), "type": "websocket"}
    del scope["method"]

    requested(gateway(vendor, place), *[scope] * (LIMIT + 3))

    assert vendor.requests <= LIMIT


@every_place
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    requests=st.lists(
        st.tuples(
            st.sampled_from(METHODS),
            st.sampled_from([*OURS, *ADMIN_PATHS, *NEARLY_OURS]),
            st.sampled_from([ADMIN, SCRAPER, "guess", None]),
            st.booleans(),
        ),
        min_size=LIMIT + 1,
        max_size=30,
    )
)
def test_no_mix_of_requests_reaches_the_application_past_the_limit(
    place: str, requests: list[tuple[str, str, str | None, bool]]
) -> None:
    """Whatever one client sends, with and without tokens, the application gets its limit."""
    vendor = Vendor()
    app = gateway(vendor, place, admin_token=ADMIN, metrics_token=SCRAPER)
    scopes = [
        {
            **scope_of(place, path, method=method, headers=bearing(token) if token else []),
            "type": "websocket" if is_websocket else "http",
        }
        for method, path, token, is_websocket in requests
    ]

    requested(app, *scopes)

    assert vendor.requests <= LIMIT


@every_place
@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/admin/alerts", "guess", 401),
        ("POST", "/admin/alerts/a1/ack", "guess", 401),
        ("GET", "/admin/alerts/../x", "guess", 401),
        ("GET", "/admin/settings", "guess", 401),
        ("PUT", "/admin/settings/", "guess", 401),
        ("GET", "/admin/alerts", None, 401),
        ("OPTIONS", "/admin/alerts", None, 401),
        ("GET", "/metrics", "guess", 404),
        ("GET", "/metrics", ADMIN, 404),
        ("GET", "/metrics", None, 404),
        ("GET", "/health/ready", "guess", 200),
        ("GET", "/health", SCRAPER, 200),
    ],
)
def test_wrong_or_missing_token_is_limited(
    method: str, path: str, token: str | None, status: int, place: str
) -> None:
    """No endpoint tests guesses at a token faster than the limit allows."""
    vendor = Vendor()
    app = gateway(vendor, place, admin_token=ADMIN, metrics_token=SCRAPER)
    accept = (b"accept", b"application/health+json")
    headers = [accept] if token is None else bearing(token, accept)

    answers = requested(app, *[scope_of(place, path, method=method, headers=headers)] * (LIMIT + 3))

    assert [answer.status for answer in answers] == [status] * LIMIT + [429] * 3
    assert vendor.requests == 0


@every_place
@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/admin/alerts", ADMIN, 200),
        ("POST", "/admin/alerts/a1/ack", ADMIN, 404),
        ("BREW", "/admin/alerts/a1", ADMIN, 405),
        ("GET", "/admin/settings/", ADMIN, 200),
        ("POST", "/admin/settings", ADMIN, 405),
        ("BREW", "/admin/settings", ADMIN, 405),
        ("GET", "/metrics", SCRAPER, 200),
        ("GET", "/health/ready", ADMIN, 200),
        ("GET", "/health/ready", None, 200),
    ],
)
def test_right_token_is_not_limited(
    method: str, path: str, token: str | None, status: int, place: str
) -> None:
    """People on call get in although their own address is over its limit."""
    vendor = Vendor()
    app = gateway(vendor, place, admin_token=ADMIN, metrics_token=SCRAPER)
    requested(app, *[scope_of(place, "/chat")] * (LIMIT + 1))
    headers = [] if token is None else bearing(token)

    answers = requested(app, *[scope_of(place, path, method=method, headers=headers)] * 3)

    assert [answer.status for answer in answers] == [status] * 3
    assert vendor.requests == LIMIT


def installed(prepare: Callable[[Starlette], None], **options: Any) -> Starlette:
    """An application that `prepare` has filled before the gateway is installed."""
    app = Starlette()
    prepare(app)
    TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day", **options),
        metrics=HttpMetrics(CollectorRegistry()),
    ).install(app)
    return app


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics"])
def test_middleware_added_before_install_does_not_answer_for_us(path: str) -> None:
    """A proxy middleware inside the limit gets no unlimited request."""
    vendor = Vendor()
    app = installed(lambda app: app.add_middleware(lambda inner: vendor))

    answers = requested(app, *[http_scope(path)] * (LIMIT + 3))

    assert {answer.status for answer in answers} == {200}
    assert vendor.requests == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_own_path_of_the_application_is_limited(method: str) -> None:
    """A health check of the application costs what the application makes it cost."""
    own = Route("/health", lambda request: PlainTextResponse("own"), methods=["GET", "POST"])
    app = installed(lambda app: app.router.routes.append(own))

    answers = requested(app, *[http_scope("/health", method=method)] * (LIMIT + 3))

    assert [answer.status for answer in answers] == [200] * LIMIT + [429] * 3


def test_route_inserted_before_ours_is_limited_where_it_answers() -> None:
    """A catch-all that a later line of the application puts first gets only what is counted."""
    vendor = Vendor()
    app = installed(lambda app: None)
    app.router.routes.insert(0, Mount("/", vendor))

    reads = requested(app, *[http_scope("/health")] * (LIMIT + 3))
    writes = requested(app, *[http_scope("/health", method="POST")] * (LIMIT + 3))

    assert all(b'"status":"ok"' in answer.body for answer in reads)
    assert [answer.status for answer in writes] == [200] * LIMIT + [429] * 3
    assert vendor.requests == LIMIT


def test_cors_preflight_inside_the_limit_is_limited() -> None:
    """A preflight for one of our paths is a request that CORSMiddleware answers."""
    app = installed(lambda app: app.add_middleware(CORSMiddleware, allow_origins=["*"]))
    headers = [(b"origin", b"https://x.example"), (b"access-control-request-method", b"GET")]
    preflight = http_scope("/health", method="OPTIONS", headers=headers)

    answers = requested(app, *[preflight] * (LIMIT + 3))

    assert [answer.status for answer in answers] == [200] * LIMIT + [429] * 3


def test_other_method_on_own_path_is_answered_as_before() -> None:
    """Where nothing of the application answers, the response is 405 with Allow."""
    (answer,) = requested(installed(lambda app: None), http_scope("/health", method="POST"))

    assert answer.status == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}

"""Requests that are not limited, none of which reaches the application."""

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
    """An application that responds on every path and counts the requests that reach it."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, or close a WebSocket."""
        self.requests += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            await answering(b"vendor")(scope, receive, send)


def gateway(vendor: ASGIApp, setup: str, **options: Any) -> ASGIApp:
    """Return a gateway in front of `vendor` that allows `LIMIT` requests a day."""
    pulse = TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day", **options),
        metrics=HttpMetrics(CollectorRegistry()),
        credentials={"claude": True},
    )
    if setup == "wrap":
        return pulse.wrap(vendor)
    app = Starlette(routes=[Mount("/", vendor)])
    pulse.install(app)
    return Starlette(routes=[Mount("/llm", app)]) if setup == "mount" else app


every_setup = pytest.mark.parametrize("setup", ["install", "wrap", "mount"])


def requested(app: ASGIApp, *requests: Scope) -> list[Answer]:
    """Return the responses to `requests`, sent one after another."""

    async def send_all() -> list[Answer]:
        return [await drive(app, dict(request)) for request in requests]

    return anyio.run(send_all)


def scope_of(setup: str, path: str, **options: Any) -> Scope:
    """Return a request for `path` of the gateway; all have the same client."""
    return http_scope(f"/llm{path}" if setup == "mount" else path, **options)


def bearing(token: str, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return headers with a bearer token."""
    return [(b"authorization", b"Bearer " + token.encode()), *more]


@every_setup
@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_get_of_own_endpoint_is_served_without_limit(method: str, path: str, setup: str) -> None:
    """Any number of probes is served, and none reaches the application."""
    vendor = Vendor()
    app = gateway(vendor, setup)

    responses = requested(app, *[scope_of(setup, path, method=method)] * (LIMIT + 3))

    assert {response.status for response in responses} == {200}
    assert "ratelimit" not in responses[0].headers
    assert vendor.requests == 0


@every_setup
@pytest.mark.parametrize("path", OURS)
@pytest.mark.parametrize("method", METHODS[2:])
def test_other_method_on_own_path_is_limited(method: str, path: str, setup: str) -> None:
    """Only GET and HEAD are unlimited; a method that the application serves counts."""
    vendor = Vendor()

    responses = requested(
        gateway(vendor, setup), *[scope_of(setup, path, method=method)] * (LIMIT + 3)
    )

    assert [response.status for response in responses[LIMIT:]] == [429] * 3
    assert vendor.requests in (0, LIMIT)


@every_setup
@pytest.mark.parametrize("path", NEARLY_OURS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_path_that_is_only_similar_to_ours_is_limited(method: str, path: str, setup: str) -> None:
    """No spelling of a path reaches the application without being counted."""
    vendor = Vendor()

    responses = requested(
        gateway(vendor, setup, admin_token=ADMIN),
        *[scope_of(setup, path, method=method, headers=bearing(ADMIN))] * (LIMIT + 3),
    )

    assert [response.status for response in responses[LIMIT:]] == [429] * 3
    assert vendor.requests <= LIMIT


@every_setup
@pytest.mark.parametrize("path", [*OURS, *NEARLY_OURS])
def test_websocket_on_own_path_is_limited(path: str, setup: str) -> None:
    """Our endpoints serve HTTP only, so every WebSocket reaches the application."""
    vendor = Vendor()
    scope = {**scope_of(setup, path), "type": "websocket"}
    del scope["method"]

    requested(gateway(vendor, setup), *[scope] * (LIMIT + 3))

    assert vendor.requests <= LIMIT


@every_setup
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
    setup: str, requests: list[tuple[str, str, str | None, bool]]
) -> None:
    """The application gets at most the limit, for any requests of one client."""
    vendor = Vendor()
    app = gateway(vendor, setup, admin_token=ADMIN, metrics_token=SCRAPER)
    scopes = [
        {
            **scope_of(setup, path, method=method, headers=bearing(token) if token else []),
            "type": "websocket" if is_websocket else "http",
        }
        for method, path, token, is_websocket in requests
    ]

    requested(app, *scopes)

    assert vendor.requests <= LIMIT


@every_setup
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
    method: str, path: str, token: str | None, status: int, setup: str
) -> None:
    """Tokens cannot be guessed faster than the limit allows."""
    vendor = Vendor()
    app = gateway(vendor, setup, admin_token=ADMIN, metrics_token=SCRAPER)
    accept = (b"accept", b"application/health+json")
    headers = [accept] if token is None else bearing(token, accept)

    responses = requested(
        app, *[scope_of(setup, path, method=method, headers=headers)] * (LIMIT + 3)
    )

    assert [response.status for response in responses] == [status] * LIMIT + [429] * 3
    assert vendor.requests == 0


@every_setup
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
    method: str, path: str, token: str | None, status: int, setup: str
) -> None:
    """An operator is served also when the address is over its limit."""
    vendor = Vendor()
    app = gateway(vendor, setup, admin_token=ADMIN, metrics_token=SCRAPER)
    requested(app, *[scope_of(setup, "/chat")] * (LIMIT + 1))
    headers = [] if token is None else bearing(token)

    responses = requested(app, *[scope_of(setup, path, method=method, headers=headers)] * 3)

    assert [response.status for response in responses] == [status] * 3
    assert vendor.requests == LIMIT


def installed(prepare: Callable[[Starlette], None], **options: Any) -> Starlette:
    """Return an application that `prepare` has changed before the gateway is installed."""
    app = Starlette()
    prepare(app)
    TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day", **options),
        metrics=HttpMetrics(CollectorRegistry()),
    ).install(app)
    return app


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics"])
def test_middleware_added_before_install_does_not_serve_our_endpoints(path: str) -> None:
    """A proxy middleware inside the limit gets no unlimited request."""
    vendor = Vendor()
    app = installed(lambda app: app.add_middleware(lambda inner: vendor))

    responses = requested(app, *[http_scope(path)] * (LIMIT + 3))

    assert {response.status for response in responses} == {200}
    assert vendor.requests == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_own_path_of_the_application_is_limited(method: str) -> None:
    """A health check of the application may be expensive, so it is limited."""
    own = Route("/health", lambda request: PlainTextResponse("own"), methods=["GET", "POST"])
    app = installed(lambda app: app.router.routes.append(own))

    responses = requested(app, *[http_scope("/health", method=method)] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * LIMIT + [429] * 3


def test_route_inserted_before_ours_is_limited() -> None:
    """A catch-all route that is inserted later gets only requests that are counted."""
    vendor = Vendor()
    app = installed(lambda app: None)
    app.router.routes.insert(0, Mount("/", vendor))

    reads = requested(app, *[http_scope("/health")] * (LIMIT + 3))
    writes = requested(app, *[http_scope("/health", method="POST")] * (LIMIT + 3))

    assert all(b'"status":"ok"' in response.body for response in reads)
    assert [response.status for response in writes] == [200] * LIMIT + [429] * 3
    assert vendor.requests == LIMIT


def test_cors_preflight_inside_the_limit_is_limited() -> None:
    """CORSMiddleware responds to a preflight for one of our paths, so it is limited."""
    app = installed(lambda app: app.add_middleware(CORSMiddleware, allow_origins=["*"]))
    headers = [(b"origin", b"https://x.example"), (b"access-control-request-method", b"GET")]
    preflight = http_scope("/health", method="OPTIONS", headers=headers)

    responses = requested(app, *[preflight] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * LIMIT + [429] * 3


def test_other_method_on_own_path_is_not_allowed() -> None:
    """If the application does not serve the path, the response is 405 with Allow."""
    (response,) = requested(installed(lambda app: None), http_scope("/health", method="POST"))

    assert response.status == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}

"""Requests that are not limited, none of which reaches the application."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Host, Match, Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import HttpMetrics, Policy, RateLimitMiddleware, Settings, TokenPulse
from tokenpulse_mw.stack.unlimited import PROBE_PATHS

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
    "/livez",
    "/ping",
    "/health/liveliness",
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
    "/administration",
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


@pytest.mark.slow
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
    """An operator is served even when the address is over its limit."""
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


@pytest.mark.parametrize("path", ["/health", "/chat"])
def test_cors_preflight_is_answered_without_a_limit(path: str) -> None:
    """`CORSMiddleware` answers preflights outside of the limit, and none reaches the application.

    A browser sends one before each request to another origin, so they would halve the limit.
    """
    vendor = Vendor()

    def prepare(app: Starlette) -> None:
        app.router.routes.append(Mount("/", vendor))
        app.add_middleware(CORSMiddleware, allow_origins=["*"])

    headers = [(b"origin", b"https://x.example"), (b"access-control-request-method", b"GET")]
    preflight = http_scope(path, method="OPTIONS", headers=headers)

    responses = requested(installed(prepare), *[preflight] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * (LIMIT + 3)
    assert "ratelimit" not in responses[0].headers
    assert vendor.requests == 0


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"origin", b"https://x.example")],
        [(b"access-control-request-method", b"GET")],
    ],
)
def test_options_request_that_is_not_a_preflight_is_limited(
    headers: list[tuple[bytes, bytes]],
) -> None:
    """`CORSMiddleware` passes it on to the application."""
    vendor = Vendor()

    def prepare(app: Starlette) -> None:
        app.router.routes.append(Mount("/", vendor))
        app.add_middleware(CORSMiddleware, allow_origins=["*"])

    request = http_scope("/chat", method="OPTIONS", headers=headers)

    responses = requested(installed(prepare), *[request] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * LIMIT + [429] * 3
    assert vendor.requests == LIMIT


def test_other_method_on_own_path_is_not_allowed() -> None:
    """If the application does not serve the path, the response is 405 with Allow."""
    (response,) = requested(installed(lambda app: None), http_scope("/health", method="POST"))

    assert response.status == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


def probed(*routes: BaseRoute, setup: str = "install") -> ASGIApp:
    """Return a limited gateway of an application with `routes`."""
    app = Starlette(routes=routes)
    pulse = TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day"), metrics=HttpMetrics(CollectorRegistry())
    )
    if setup == "wrap":
        return pulse.wrap(app)
    pulse.install(app)
    return Starlette(routes=[Mount("/llm", app)]) if setup == "mount" else app


@every_setup
@pytest.mark.parametrize("path", sorted(PROBE_PATHS))
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probe_of_the_application_is_not_limited(method: str, path: str, setup: str) -> None:
    """A route that is declared with the path of a probe is not limited, and has no 429."""
    app = probed(Route(path, lambda request: PlainTextResponse("own")), setup=setup)

    responses = requested(app, *[scope_of(setup, path, method=method)] * (LIMIT + 3))

    assert {response.status for response in responses} == {200}


def test_probe_of_an_included_router_and_of_a_mount_is_not_limited() -> None:
    """A route below a prefix or in a mounted application is declared as well."""
    app = FastAPI()
    below = Route("/liveliness", lambda request: PlainTextResponse("own"))
    app.mount("/health", Starlette(routes=[below]))

    @app.get("/healthz")
    def healthz() -> str:
        return "own"

    TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day"), metrics=HttpMetrics(CollectorRegistry())
    ).install(app)

    for path in ("/healthz", "/health/liveliness"):
        responses = requested(app, *[http_scope(path)] * (LIMIT + 3))
        assert {response.status for response in responses} == {200}


def test_probe_that_is_declared_after_install_is_not_limited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Routes are read when the application starts, and each path is logged at its first request."""
    caplog.set_level(logging.INFO)
    app = installed(lambda app: None)
    app.router.add_route("/livez", lambda request: PlainTextResponse("own"))

    responses = requested(app, *[http_scope("/livez")] * (LIMIT + 3))

    assert {response.status for response in responses} == {200}
    assert caplog.messages == ["probe of the application not limited (logged once): path=/livez"]


class Proxy(BaseRoute):
    """A route of an unknown kind that takes every request."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every request."""
        return Match.FULL, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond."""
        await answering(b"vendor")(scope, receive, send)


PING = Route("/ping", lambda request: PlainTextResponse("own"), methods=["GET", "POST"])
HELLO = Route("/{path:path}", lambda request: PlainTextResponse("vendor"))


@pytest.mark.parametrize(
    "routes",
    [
        [HELLO],
        [HELLO, PING],
        [Route("/{name}", lambda request: PlainTextResponse("vendor"))],
        [Mount("/", answering())],
        [Mount("/", answering()), PING],
        [Host("a.example", Starlette(routes=[PING])), HELLO],
        [Proxy(), PING],
    ],
    ids=["catch-all", "after catch-all", "parameter", "mount", "after mount", "host", "unknown"],
)
@every_setup
def test_path_of_a_probe_without_a_declared_route_is_limited(
    routes: list[BaseRoute], setup: str
) -> None:
    """A vendor behind a catch-all route or a mount receives only requests that are counted."""
    app = probed(*routes, setup=setup)

    responses = requested(app, *[scope_of(setup, "/ping")] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * LIMIT + [429] * 3


@pytest.mark.parametrize(
    "options",
    [
        {"method": "POST"},
        {"query_string": b"key=guess"},
        {"headers": [(b"authorization", b"Bearer guess")]},
        {"headers": [(b"X-Api-Key", b"guess")]},
        {"headers": [(b"cookie", b"session=guess")]},
        {"headers": [(b"x-access-token", b"guess")]},
    ],
    ids=["POST", "query", "authorization", "api key", "cookie", "token"],
)
@every_setup
def test_probe_with_credentials_or_another_method_is_limited(
    options: dict[str, Any], setup: str
) -> None:
    """The application may check credentials on every path, so they cannot be guessed there."""
    app = probed(PING, setup=setup)

    responses = requested(app, *[scope_of(setup, "/ping", **options)] * (LIMIT + 3))

    assert [response.status for response in responses] == [200] * LIMIT + [429] * 3


def test_probe_with_the_headers_of_orchestrators_is_not_limited() -> None:
    """Kubernetes, load balancers and HTTP/2 send headers without credentials."""
    names = [b":authority", b"host", b"user-agent", b"accept", b"x-forwarded-for", b"traceparent"]
    request = http_scope("/ping", headers=[(name, b"1") for name in names])

    responses = requested(probed(PING), *[request] * (LIMIT + 3))

    assert {response.status for response in responses} == {200}


def test_head_of_a_probe_that_a_catch_all_route_serves_is_limited() -> None:
    """FastAPI declares a route for GET without HEAD, so another route serves HEAD."""
    vendor = Vendor()
    app = FastAPI()

    @app.get("/ping")
    def ping() -> str:
        return "own"

    app.mount("/", vendor)
    TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day"), metrics=HttpMetrics(CollectorRegistry())
    ).install(app)

    reads = requested(app, *[http_scope("/ping")] * (LIMIT + 3))
    heads = requested(app, *[http_scope("/ping", method="HEAD")] * (LIMIT + 3))

    assert {response.status for response in reads} == {200}
    assert [response.status for response in heads] == [200] * LIMIT + [429] * 3
    assert vendor.requests == LIMIT


@pytest.mark.filterwarnings("ignore:The `root_path` parameter")
@pytest.mark.parametrize("path", ["/api/ping", "/ping"])
def test_probe_below_the_root_path_of_fastapi_is_not_limited(path: str) -> None:
    """FastAPI adds its `root_path` to every scope, also to that of the lifespan."""
    app = FastAPI(root_path="/api", routes=[PING])
    TokenPulse(
        settings=Settings(limit=f"{LIMIT}/day"), metrics=HttpMetrics(CollectorRegistry())
    ).install(app)

    with TestClient(app) as client:
        statuses = {client.get(path).status_code for _ in range(LIMIT + 3)}

    assert statuses == {200}


def test_websocket_on_the_path_of_a_probe_is_limited() -> None:
    """Only HTTP requests are probes."""
    limited = probed(PING)
    scope = {**http_scope("/ping"), "type": "websocket"}
    del scope["method"]

    requested(limited, *[scope] * LIMIT)

    assert requested(limited, http_scope("/chat"))[0].status == 429


def test_probe_without_a_limit_is_served() -> None:
    """Without a limit there is nothing to exempt."""
    app = Starlette(routes=[PING])
    TokenPulse(settings=Settings(), limit=None, metrics=HttpMetrics(CollectorRegistry())).install(
        app
    )

    assert requested(app, http_scope("/ping"))[0].body == b"own"


def test_probe_skips_only_the_limit_of_the_gateway() -> None:
    """A limit of the application, which may be the next layer, counts a request to a probe."""
    app = Starlette(routes=[PING])
    app.add_middleware(RateLimitMiddleware, limit="1/day")
    TokenPulse(limit=None, metrics=HttpMetrics(CollectorRegistry())).install(app)

    responses = requested(app, *[http_scope("/ping")] * 2)

    assert [response.status for response in responses] == [200, 429]


def test_probe_does_not_skip_an_inner_policy() -> None:
    """An inner policy limits a probe, with and without an outer one."""
    app = Starlette(routes=[PING])
    TokenPulse(
        policies=[],
        inner_policies=[Policy("1/day", name="inner")],
        metrics=HttpMetrics(CollectorRegistry()),
    ).install(app)

    responses = requested(app, *[http_scope("/ping")] * 2)

    assert [response.status for response in responses] == [200, 429]

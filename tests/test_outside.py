"""Middleware of the application, added before and after `install`."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import (
    Exchange,
    HttpMetrics,
    Limiter,
    Policy,
    Settings,
    TokenPulse,
    annotate,
    keys,
)

ORIGIN = {"origin": "https://x.example"}
PREFLIGHT = {**ORIGIN, "access-control-request-method": "POST"}
PROBES = ["/health/live", "/health/ready", "/health", "/metrics"]
USAGE = {"model": "m", "text": "x" * 600, "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


async def chat(request: Request) -> Response:
    """Return the response of a model."""
    return JSONResponse(USAGE)


def gateway(
    *middleware: tuple[Any, dict[str, Any]], order: str, limit: str = "2/day", **options: Any
) -> tuple[Starlette, list[Exchange]]:
    """Return an application with `middleware` before or after `install`, and its exchanges."""
    exchanges: list[Exchange] = []
    app = Starlette(routes=[Route("/chat", chat, methods=["GET", "POST"])])
    pulse = TokenPulse(
        settings=Settings(limit=limit, **options),
        metrics=HttpMetrics(CollectorRegistry()),
        observers=[exchanges.append],
    )
    if order == "after":
        pulse.install(app)
    for layer, arguments in middleware:
        app.add_middleware(layer, **arguments)
    if order == "before":
        pulse.install(app)
    return app, exchanges


every_order = pytest.mark.parametrize("order", ["before", "after"])


@every_order
@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
def test_browser_can_read_429_and_preflights_are_not_counted(order: str, headers: Any) -> None:
    """`CORSMiddleware` is outside of the limit and the measurement, wherever it was added."""
    cors = (CORSMiddleware, {"allow_origins": ["https://x.example"], "allow_methods": ["POST"]})
    app, exchanges = gateway(cors, order=order, limit_headers=headers)
    client = TestClient(app)

    preflights = [client.options("/chat", headers=PREFLIGHT) for _ in range(5)]
    responses = [client.post("/chat", headers=ORIGIN) for _ in range(3)]

    assert {response.status_code for response in preflights} == {200}
    assert {response.headers["access-control-allow-methods"] for response in preflights} == {"POST"}
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert {response.headers["access-control-allow-origin"] for response in responses} == {
        "https://x.example"
    }
    assert [exchange.method for exchange in exchanges] == ["POST"] * 3


def test_cors_given_to_the_constructor_is_moved_outside(caplog: pytest.LogCaptureFixture) -> None:
    """Other middleware keeps its order, and the move is logged."""
    caplog.set_level(logging.INFO)
    app = Starlette(
        routes=[Route("/chat", chat)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["*"]),
            Middleware(CORSMiddleware, allow_origins=["*"]),
            Middleware(GZipMiddleware),
        ],
    )
    settings = Settings(limit="1/day", access_log=True)
    TokenPulse(settings=settings, metrics=HttpMetrics(CollectorRegistry())).install(app)

    assert [getattr(entry.cls, "__name__", "") for entry in app.user_middleware] == [
        "CORSMiddleware",
        "RequestIdMiddleware",
        "GatewayExchangeMiddleware",
        "UnlimitedEndpoints",
        "RateLimitMiddleware",
        "TrustedHostMiddleware",
        "GZipMiddleware",
    ]
    assert "CORSMiddleware moved outside of the rate limit, so that browsers can read 429" in (
        caplog.messages
    )


def test_wrap_around_cors_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """`wrap` does not change the application, so the line names what does."""
    caplog.set_level(logging.INFO)
    app = Starlette(middleware=[Middleware(CORSMiddleware, allow_origins=["*"])])

    TokenPulse(settings=Settings(), metrics=HttpMetrics(CollectorRegistry())).wrap(app)

    (line,) = caplog.messages
    assert "browsers cannot read a 429" in line
    assert "use install(), or add CORSMiddleware around the wrapped application" in line


@every_order
def test_compressed_response_is_metered(order: str) -> None:
    """`GZipMiddleware` inside or outside changes neither the usage nor the 429."""
    app, exchanges = gateway((GZipMiddleware, {"minimum_size": 10}), order=order)
    client = TestClient(app, headers={"accept-encoding": "gzip"})

    responses = [client.post("/chat") for _ in range(3)]

    assert responses[0].headers["content-encoding"] == "gzip"
    assert responses[0].json() == USAGE
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].text == "Too Many Requests"
    assert [exchange.usage and exchange.usage.total for exchange in exchanges] == [13, 13, None]


@pytest.mark.parametrize(
    ("layer", "options", "refused", "status"),
    [
        (TrustedHostMiddleware, {"allowed_hosts": ["gateway.example"]}, "http://10.0.0.7", 400),
        (HTTPSRedirectMiddleware, {}, "http://gateway.example", 307),
    ],
)
def test_refused_request_is_limited_if_the_layer_was_added_before(
    layer: Any, options: dict[str, Any], refused: str, status: int
) -> None:
    """Probes pass with the address of a pod as the host and without TLS; the rest is counted."""
    app, exchanges = gateway((layer, options), order="before")
    client = TestClient(app, base_url=refused, follow_redirects=False)

    probes = [client.get(path).status_code for path in PROBES]
    statuses = [client.get("/chat").status_code for _ in range(3)]

    assert probes == [200] * len(PROBES)
    assert statuses == [status, status, 429]
    assert [exchange.status for exchange in exchanges] == statuses


@pytest.mark.parametrize(
    ("layer", "options", "refused", "status"),
    [
        (TrustedHostMiddleware, {"allowed_hosts": ["gateway.example"]}, "http://10.0.0.7", 400),
        (HTTPSRedirectMiddleware, {}, "http://gateway.example", 307),
    ],
)
def test_refused_probe_is_logged_once_if_the_layer_was_added_after(
    layer: Any, options: dict[str, Any], refused: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The layer sees everything first; the warning names it and the fix."""
    app, exchanges = gateway((layer, options), order="after")

    with TestClient(app, base_url=refused, follow_redirects=False) as client:
        statuses = [client.get("/chat").status_code for _ in range(3)]
        assert not caplog.messages
        statuses += [client.get(path).status_code for path in PROBES]

    assert statuses == [status] * 7
    assert exchanges == []
    assert caplog.messages == [
        f"rejected outside of TokenPulse (logged once): path=/health/live status={status} "
        f"middleware={layer.__name__}; add the middleware before install(), so that probes and "
        "scrapes pass it, and the requests that it rejects are limited and measured"
    ]


class RequireKey:
    """Middleware that rejects every request without a known key, and annotates the tenant."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] == "http":
            tenant = {"sk-1": "acme", "sk-2": "globex"}.get(Request(scope).headers.get("x-key", ""))
            if tenant is None:
                await PlainTextResponse("unknown key", 401)(scope, receive, send)
                return
            annotate(scope, tenant=tenant)
        await self.app(scope, receive, send)


class KeyBackend(AuthenticationBackend):
    """Backend of Starlette's own middleware that does the same."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Return the user, or raise an error."""
        tenant = {"sk-1": "acme", "sk-2": "globex"}.get(conn.headers.get("x-key", ""))
        if tenant is None:
            raise AuthenticationError("unknown key")
        annotate(conn, tenant=tenant)
        return AuthCredentials(["authenticated"]), SimpleUser(tenant)


async def require_key(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Do the same as a function, for `app.middleware("http")`."""
    tenant = {"sk-1": "acme", "sk-2": "globex"}.get(request.headers.get("x-key", ""))
    if tenant is None:
        return PlainTextResponse("unknown key", 401)
    annotate(request, tenant=tenant)
    return await call_next(request)


AUTHENTICATIONS: dict[str, Callable[[Starlette], object]] = {
    "own": lambda app: app.add_middleware(RequireKey),
    "starlette": lambda app: app.add_middleware(
        AuthenticationMiddleware,
        backend=KeyBackend(),
        on_error=lambda conn, error: PlainTextResponse(str(error), 401),
    ),
    "function": lambda app: app.add_middleware(BaseHTTPMiddleware, dispatch=require_key),
}
every_authentication = pytest.mark.parametrize(
    "authenticate", AUTHENTICATIONS.values(), ids=AUTHENTICATIONS
)


def authenticated(
    authenticate: Callable[[Starlette], object], **options: Any
) -> tuple[FastAPI, list[Exchange]]:
    """Return a gateway with 9 requests for an address and 2 for a tenant, and its exchanges."""
    exchanges: list[Exchange] = []
    app = FastAPI()
    app.add_api_route("/chat", chat)
    authenticate(app)
    TokenPulse(
        settings=Settings(limit="9/day", **options),
        inner_policies=[Policy("2/day", name="tenant", key=keys.annotation("tenant"))],
        metrics=HttpMetrics(CollectorRegistry()),
        observers=[exchanges.append],
    ).install(app)
    return app, exchanges


@every_authentication
def test_guessed_keys_are_limited_by_address_and_measured(
    authenticate: Callable[[Starlette], object],
) -> None:
    """An authentication that was added before `install` gets no more guesses than the limit."""
    app, exchanges = authenticated(authenticate)
    client = TestClient(app)

    statuses = [client.get("/chat", headers={"x-key": f"guess-{i}"}).status_code for i in range(50)]

    assert statuses == [401] * 9 + [429] * 41
    assert [exchange.status for exchange in exchanges] == statuses


@every_authentication
def test_probes_and_scrapes_pass_an_authentication_that_refuses(
    authenticate: Callable[[Starlette], object], caplog: pytest.LogCaptureFixture
) -> None:
    """They have no key, and are answered before it."""
    app, _ = authenticated(authenticate)

    with TestClient(app) as client:
        assert {client.get(path).status_code for path in PROBES} == {200}
        assert client.get("/chat").status_code == 401
    assert not caplog.messages


@every_authentication
@pytest.mark.parametrize("headers", ["draft-11", "openai", "legacy"])
def test_inner_policy_limits_the_tenant_that_was_authenticated(
    headers: Any, authenticate: Callable[[Starlette], object]
) -> None:
    """Each tenant has its own limit, and only requests that pass the address count."""
    app, exchanges = authenticated(authenticate, limit_headers=headers)
    client = TestClient(app)

    acme = [client.get("/chat", headers={"x-key": "sk-1"}) for _ in range(4)]
    globex = client.get("/chat", headers={"x-key": "sk-2"})

    assert [response.status_code for response in acme] == [200, 200, 429, 429]
    assert globex.status_code == 200
    assert [exchange.tenant for exchange in exchanges] == ["acme"] * 4 + ["globex"]
    assert [exchange.limited for exchange in exchanges] == [False, False, True, True, False]
    names = [name for name, _ in acme[2].headers.multi_items()]
    assert len(names) == len(set(names))
    if headers == "draft-11":
        assert acme[2].headers["ratelimit"].startswith('"default";r=6;t=')
        assert ',"tenant";r=0;t=' in acme[2].headers["ratelimit"]
    else:
        suffix = "-requests" if headers == "openai" else ""
        assert acme[2].headers[f"x-ratelimit-remaining{suffix}"] == "0"


def test_authentication_added_after_install_that_refuses_a_probe_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The names of the layers outside are logged at the start, the refusal as a warning."""
    caplog.set_level(logging.INFO, "tokenpulse_mw")
    app, exchanges = gateway((GZipMiddleware, {}), (RequireKey, {}), order="after")

    with TestClient(app) as client:
        for path in PROBES:
            assert client.get(path).status_code == 401
        assert client.get("/health", headers={"x-key": "sk-1"}).status_code == 200

    assert exchanges == []
    started, refused = (line for line in caplog.messages if "utside of TokenPulse" in line)
    assert started == (
        "middleware outside of TokenPulse: names=RequireKey; requests that it rejects are neither "
        "limited nor measured"
    )
    assert "path=/health/live status=401 middleware=RequireKey" in refused
    assert [record.levelname for record in caplog.records if record.message == refused] == [
        "WARNING"
    ]


def test_function_outside_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """A middleware of `@app.middleware("http")` has the name of its function."""
    caplog.set_level(logging.INFO, "tokenpulse_mw")
    app = FastAPI()
    TokenPulse(settings=Settings(), metrics=HttpMetrics(CollectorRegistry())).install(app)
    app.middleware("http")(require_key)

    with TestClient(app):
        pass

    assert any("names=require_key;" in line for line in caplog.messages)


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("GET", "/chat", "", 401),
        ("POST", "/health/live", "", 401),
        ("GET", "/admin/settings", "", 401),
        ("GET", "/admin/settings", "sk-1", 401),
        ("GET", "/metrics", "sk-1", 404),
        ("GET", "/health/ready", "sk-1", 503),
    ],
)
def test_response_that_is_not_a_refused_probe_is_not_logged(
    method: str, path: str, key: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients without a key, our own responses and operators are not what the warning is about."""
    app = FastAPI()
    TokenPulse(
        settings=Settings(metrics_token="s3cret-of-enough", admin_token="s3cret-of-enough-too"),
        metrics=HttpMetrics(CollectorRegistry()),
        checks={"disk": lambda: False},
    ).install(app)
    app.add_middleware(RequireKey)

    with TestClient(app) as client:
        response = client.request(method, path, headers={"x-key": key})

    assert response.status_code == status
    assert not [line for line in caplog.messages if "refused" in line]


def test_start_without_layers_outside_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Without other middleware, no layer is added and nothing is logged."""
    caplog.set_level(logging.INFO, "tokenpulse_mw")
    app, _ = gateway((CORSMiddleware, {}), (GZipMiddleware, {}), order="after")

    with TestClient(app):
        stack = app.middleware_stack
        assert type(stack).__module__.startswith("starlette.")

    assert app.middleware_stack is stack
    assert not [line for line in caplog.messages if "outside" in line]


def test_application_that_removes_our_layers_starts() -> None:
    """Tests of an application may empty its list of middleware."""
    app, exchanges = gateway(order="after")
    app.user_middleware.clear()

    with TestClient(app) as client:
        assert [client.get("/chat").status_code for _ in range(3)] == [200, 200, 200]

    assert exchanges == []


def test_layers_that_the_application_replaces_are_kept() -> None:
    """Instrumentation may build the layers again while the application runs."""
    app, _ = gateway((RequireKey, {}), order="after")

    with TestClient(app) as client:
        stack = app.middleware_stack = app.build_middleware_stack()
        assert client.get("/chat", headers={"x-key": "sk-1"}).status_code == 200

    assert app.middleware_stack is stack


@pytest.mark.anyio
async def test_lifespan_that_is_entered_directly_runs_before_the_layers_are_built() -> None:
    """Tests may enter the lifespan of a router without the application."""
    app, _ = gateway((RequireKey, {}), order="after")

    async with app.router.lifespan_context(app):
        assert app.middleware_stack is None


def test_authentication_as_a_dependency_does_not_refuse_probes() -> None:
    """Dependencies of the whole FastAPI application do not apply to our routes."""

    def refuse() -> None:
        raise HTTPException(401)

    app = FastAPI(dependencies=[Depends(refuse)])
    app.add_api_route("/chat", chat)
    TokenPulse(settings=Settings(limit="2/day"), metrics=HttpMetrics(CollectorRegistry())).install(
        app
    )
    client = TestClient(app)

    assert {client.get(path).status_code for path in PROBES} == {200}
    assert [client.get("/chat").status_code for _ in range(3)] == [401, 401, 429]


def test_inner_policy_limits_websockets() -> None:
    """Starlette's authentication covers WebSockets too."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(json.dumps(USAGE))
        await websocket.close()

    app = FastAPI()
    app.router.routes.append(WebSocketRoute("/talk", talk))
    AUTHENTICATIONS["starlette"](app)
    TokenPulse(
        settings=Settings(limit="9/day"),
        inner_policies=[Policy("1/day", name="tenant", key=keys.annotation("tenant"))],
        metrics=HttpMetrics(CollectorRegistry()),
    ).install(app)
    client = TestClient(app)

    with client.websocket_connect("/talk", headers={"x-key": "sk-1"}) as websocket:
        assert json.loads(websocket.receive_text()) == USAGE
    with (
        pytest.raises(WebSocketDenialResponse) as denial,
        client.websocket_connect("/talk", headers={"x-key": "sk-1"}),
    ):
        pass
    assert denial.value.status_code == 429


def test_inner_token_budget_is_settled_and_reported(metrics: HttpMetrics) -> None:
    """A budget of tokens of a tenant is charged with the usage, and in gauges and alerts."""
    app = FastAPI()
    app.add_api_route("/chat", chat, methods=["POST"])
    app.add_middleware(RequireKey)
    limiter = Limiter("9000/day")
    budget = Policy(limiter, name="tokens", key=keys.annotation("tenant"), tokens=4000)
    pulse = TokenPulse(settings=Settings(), inner_policies=[budget], metrics=metrics)
    pulse.install(app)

    response = TestClient(app).post("/chat", headers={"x-key": "sk-1"})

    assert response.status_code == 200
    assert limiter.peek("acme", 0).remaining == 9000 - 13
    assert b'tokenpulse_rate_limit_keys{policy="tokens"} 1.0' in metrics.render()


def test_options_apply_to_inner_policies_too() -> None:
    """Response, shadow mode and `on_decision` are those of the TokenPulse."""
    decisions: list[str] = []
    statuses = {}
    for enforce in (True, False):
        app = Starlette(routes=[Route("/chat", chat)], middleware=[Middleware(RequireKey)])
        TokenPulse(
            settings=Settings(limit="9/day", limit_enforce=enforce),
            inner_policies=[Policy("1/day", name="tenant", key=keys.annotation("tenant"))],
            metrics=HttpMetrics(CollectorRegistry()),
            respond=lambda decision: PlainTextResponse(decision.policy, 418),
            on_decision=lambda scope, decision: decisions.append(decision.policy),
        ).install(app)
        client = TestClient(app, headers={"x-key": "sk-1"})
        statuses[enforce] = [client.get("/chat").status_code for _ in range(2)]

    assert statuses == {True: [200, 418], False: [200, 200]}
    assert decisions == ["default", "tenant"] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_policies": "2/day"}, "^inner_policies must be a list of Policy, got '2/day'"),
        ({"inner_policies": ["2/day"]}, "must be a list of Policy, got '2/day' among them"),
        ({"inner_policies": [Policy("2/day")]}, "other names than the outer .*got 'default': give"),
    ],
)
def test_invalid_inner_policies_are_rejected(options: dict[str, Any], message: str) -> None:
    """The error names the argument and the fix."""
    with pytest.raises(ValueError, match=message):
        TokenPulse(settings=Settings(), metrics=HttpMetrics(CollectorRegistry()), **options)


def test_inner_policies_without_other_limit_need_no_name() -> None:
    """With `limit=None` there is no outer policy."""
    pulse = TokenPulse(
        settings=Settings(),
        limit=None,
        inner_policies=[Policy("2/day")],
        metrics=HttpMetrics(CollectorRegistry()),
    )

    assert [policy.name for policy in pulse.policies] == ["default"]


def test_wrap_rejects_inner_policies() -> None:
    """Nothing is known of the middleware of a wrapped application."""
    pulse = TokenPulse(
        settings=Settings(),
        inner_policies=[Policy("2/day", name="tenant", key=keys.annotation("tenant"))],
        metrics=HttpMetrics(CollectorRegistry()),
    )

    with pytest.raises(ValueError, match=r"inner_policies need install\(\)"):
        pulse.wrap(Starlette())

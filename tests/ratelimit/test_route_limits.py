"""Limits at routes: one contract with the middleware, and what only they have."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from tokenpulse_mw import (
    Decision,
    Exchange,
    HttpMetrics,
    InFlight,
    Limiter,
    PlanLimiter,
    Policy,
    RateLimited,
    RateLimitMiddleware,
    Settings,
    SharedLimiter,
    TokenPulse,
    ZoneLimiter,
    annotate,
    keys,
    openai_error,
    requests_to,
)

from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from ..support.metrics import decided
from ..support.servers import Server
from ..support.waiting import PATIENCE

USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
COMPLETION = {"object": "chat.completion", "choices": [], "usage": USAGE}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Return the captured log of warnings and errors."""
    caplog.set_level(logging.WARNING)
    return caplog


def get_tenant(x_tenant: Annotated[str | None, Header()] = None) -> str | None:
    """Return the tenant of a request, as an application does in a dependency."""
    return x_tenant


def tenant_of(request: Any) -> str | None:
    """Return the tenant of a request or scope."""
    values = [value.decode() for name, value in request["headers"] if name == b"x-tenant"]
    return values[0] if values else None


Options = dict[str, Any]


def with_middleware(limit: Any, options: Options, pulse_options: Options) -> ASGIApp:
    """Return a gateway that limits in the middleware."""
    policy = Policy(limit, name="tenant", key=tenant_of, **options)
    pulse = TokenPulse(policies=[policy], **pulse_options)
    app = FastAPI()
    pulse.install(app)
    add_routes(app, [])
    return app


def with_dependency(limit: Any, options: Options, pulse_options: Options) -> ASGIApp:
    """Return a gateway that limits in a dependency of FastAPI."""
    pulse = TokenPulse(limit=None, **pulse_options)
    app = FastAPI()
    pulse.install(app)
    per_tenant = pulse.limit(limit, name="tenant", key=Depends(get_tenant), **options)
    add_routes(app, [Depends(per_tenant)])
    return app


def with_wrapped_dependency(limit: Any, options: Options, pulse_options: Options) -> ASGIApp:
    """Return a wrapped gateway that limits in a dependency of FastAPI."""
    pulse = TokenPulse(limit=None, **pulse_options)
    app = FastAPI()
    per_tenant = pulse.limit(limit, name="tenant", key=tenant_of, **options)
    add_routes(app, [Depends(per_tenant)])
    return pulse.wrap(app)


def with_check(limit: Any, options: Options, pulse_options: Options) -> ASGIApp:
    """Return a Starlette gateway that limits in its endpoints."""
    pulse = TokenPulse(limit=None, **pulse_options)
    per_tenant = pulse.limit(limit, name="tenant", **options)

    async def chat(request: Request) -> Response:
        await pulse.check(request, per_tenant, key=request.headers.get("x-tenant"))
        return answer(await request.body())

    async def talk(websocket: WebSocket) -> None:
        await pulse.check(websocket, per_tenant, key=websocket.headers.get("x-tenant"))
        await websocket.accept()
        await websocket.close()

    app = Starlette(
        routes=[Route("/chat", chat, methods=["GET", "POST"]), WebSocketRoute("/talk", talk)]
    )
    pulse.install(app)
    return app


def with_check_in_middleware(limit: Any, options: Options, pulse_options: Options) -> ASGIApp:
    """Return a gateway with a middleware of its own, which limits by the scope."""
    pulse = TokenPulse(limit=None, **pulse_options)
    per_tenant = pulse.limit(limit, name="tenant", key=tenant_of, **options)

    class Limits:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "lifespan":
                await pulse.check(scope, per_tenant)
            await self.app(scope, receive, send)

    app = FastAPI()
    add_routes(app, [])
    app.add_middleware(Limits)
    pulse.install(app)
    return app


def add_routes(app: FastAPI, dependencies: list[Any]) -> None:
    """Add an endpoint and a WebSocket, and handlers that turn every error into 500."""

    @app.api_route("/chat", methods=["GET", "POST"], dependencies=dependencies)
    async def chat(request: Request) -> Response:
        return answer(await request.body())

    @app.websocket("/talk", dependencies=dependencies)
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    @app.exception_handler(Exception)
    @app.exception_handler(HTTPException)
    @app.exception_handler(429)
    async def handle(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 500)


def answer(body: bytes) -> Response:
    """Return a completion, as a stream if `body` is "stream"."""
    if body != b"stream":
        return JSONResponse(COMPLETION)

    def events() -> Iterator[bytes]:
        yield b'data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"a"}}]}\n\n'
        yield f"data: {json.dumps({**COMPLETION, 'object': 'chat.completion.chunk'})}\n\n".encode()
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture(
    params=[
        with_middleware,
        with_dependency,
        with_wrapped_dependency,
        with_check,
        with_check_in_middleware,
    ]
)
def gateway(request: pytest.FixtureRequest) -> Callable[..., ASGIApp]:
    """Return a function that builds a gateway with a limit by tenant, in one of all places."""
    build: Callable[..., ASGIApp] = request.param

    def gateway(limit: Any, *, pulse: Options, **options: Any) -> ASGIApp:
        return build(limit, options, pulse)

    return gateway


Gateway = Callable[..., ASGIApp]
ACME, GLOBEX = {"x-tenant": "acme"}, {"x-tenant": "globex"}
ACME_SCOPE = [(b"x-tenant", b"acme")]


def test_contract_over_the_limit_is_429(gateway: Gateway, metrics: HttpMetrics) -> None:
    """Each tenant has its limit, the response is 429 with all headers, and metrics count it."""
    exchanges: list[Exchange] = []
    decisions: list[tuple[str, bool]] = []

    def on_decision(scope: Scope, decision: Decision) -> None:
        decisions.append((scope["path"], decision.allowed))

    app = gateway(
        "2/hour",
        pulse={
            "metrics": metrics,
            "observers": [exchanges.append],
            "on_decision": on_decision,
        },
    )
    with TestClient(app) as client:
        allowed = [client.get("/chat", headers=ACME) for _ in range(2)]
        rejected = client.get("/chat", headers=ACME)
        other = client.get("/chat", headers=GLOBEX)
        anonymous = client.get("/chat")

    assert [response.status_code for response in allowed] == [200, 200]
    assert allowed[1].headers["ratelimit-policy"] == '"tenant";q=2;w=3600'
    assert allowed[1].headers["ratelimit"].startswith('"tenant";r=0;t=')
    assert (rejected.status_code, rejected.text) == (429, "Too Many Requests")
    assert rejected.headers["ratelimit-policy"] == '"tenant";q=2;w=3600'
    assert 3590 <= int(rejected.headers["retry-after"]) <= 3600
    assert [other.status_code, anonymous.status_code] == [200, 200]
    assert "ratelimit" not in anonymous.headers
    assert decided(metrics, "tenant") == {"allowed": 3, "limited": 1}
    assert [exchange.limited for exchange in exchanges] == [False, False, True, False, False]
    assert (exchanges[2].status, exchanges[2].route) == (429, "/chat")
    assert decisions == [("/chat", True), ("/chat", True), ("/chat", False), ("/chat", True)]


def test_contract_websocket_is_denied(gateway: Gateway, metrics: HttpMetrics) -> None:
    """A handshake over the limit is denied with the response 429 and its headers."""
    app = gateway("1/hour", pulse={"metrics": metrics})

    with TestClient(app) as client:
        with client.websocket_connect("/talk", headers=ACME):
            pass
        with (
            pytest.raises(WebSocketDenialResponse) as denial,
            client.websocket_connect("/talk", headers=ACME),
        ):
            pass

    assert denial.value.status_code == 429
    assert denial.value.text == "Too Many Requests"
    assert denial.value.headers["ratelimit-policy"] == '"tenant";q=1;w=3600'
    assert decided(metrics, "tenant") == {"allowed": 1, "limited": 1}


@pytest.mark.anyio
async def test_contract_websocket_without_the_extension_is_closed(
    gateway: Gateway, metrics: HttpMetrics
) -> None:
    """If the server cannot deny with a response, the handshake is closed with 1013."""
    app = gateway("1/hour", pulse={"metrics": metrics})
    scope = {**http_scope("/talk", headers=[(b"x-tenant", b"acme")]), "type": "websocket"}

    await drive(app, dict(scope), received=[{"type": "websocket.connect"}])
    response = await drive(app, dict(scope), received=[{"type": "websocket.connect"}])

    assert response.messages == [
        {"type": "websocket.close", "code": 1013, "reason": "Too Many Requests"}
    ]


@pytest.mark.parametrize("settings", [{"limit_enforce": False}, {}])
def test_contract_shadow_mode_counts_only(
    gateway: Gateway, metrics: HttpMetrics, settings: dict[str, Any]
) -> None:
    """In shadow mode, of the settings or of the limit, requests pass and are counted."""
    options = {} if settings else {"enforce": False}
    app = gateway("1/hour", pulse={"metrics": metrics, "settings": Settings(**settings)}, **options)

    with TestClient(app) as client:
        responses = [client.get("/chat", headers=ACME) for _ in range(3)]

    assert [response.status_code for response in responses] == [200] * 3
    assert "ratelimit" not in responses[0].headers
    assert decided(metrics, "tenant") == {"allowed": 1, "shadow": 2}


@pytest.mark.parametrize("body", [b"", b"stream"])
def test_contract_tokens_are_settled_at_the_end(
    gateway: Gateway, metrics: HttpMetrics, body: bytes
) -> None:
    """The reserve is replaced by the reported usage, also that of a stream."""
    limiter = Limiter("100/hour")
    app = gateway(limiter, tokens=60, pulse={"metrics": metrics})

    with TestClient(app) as client:
        responses = [client.post("/chat", headers=ACME, content=body) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert limiter.peek("acme").remaining == 40
    policy = '"tenant";q=100;qu="tokens";w=3600'
    assert [response.headers["ratelimit-policy"] for response in responses] == [policy] * 3


def test_contract_slots_are_released(gateway: Gateway, metrics: HttpMetrics) -> None:
    """A slot is released at the end of a response and of a WebSocket."""
    slots = InFlight(1)
    app = gateway(slots, pulse={"metrics": metrics})

    with TestClient(app) as client:
        assert [client.post("/chat", headers=ACME).status_code for _ in range(2)] == [200, 200]
        with client.websocket_connect("/talk", headers=ACME):
            pass

    assert len(slots) == 0


def test_contract_dialect_and_response_are_those_of_the_gateway(
    gateway: Gateway, metrics: HttpMetrics
) -> None:
    """Headers of the chosen dialect replace those of the application, and `respond` responds."""
    app = gateway(
        "1/hour",
        pulse={
            "metrics": metrics,
            "settings": Settings(limit_headers="openai"),
            "respond": openai_error,
        },
    )
    with TestClient(app) as client:
        client.get("/chat", headers=ACME)
        response = client.get("/chat", headers=ACME)

    assert response.json()["error"]["type"] == "rate_limit_error"
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


def test_contract_failing_response_is_plain_text(
    gateway: Gateway, metrics: HttpMetrics, log: pytest.LogCaptureFixture
) -> None:
    """If `respond` fails, it is logged and the default response is sent."""

    def respond(decision: Decision) -> ASGIApp:
        raise RuntimeError("template is missing")

    app = gateway("1/hour", pulse={"metrics": metrics, "respond": respond})
    with TestClient(app) as client:
        client.get("/chat", headers=ACME)
        response = client.get("/chat", headers=ACME)

    assert (response.status_code, response.text) == (429, "Too Many Requests")
    assert "ratelimit failed with RuntimeError" in log.text


def test_contract_plan_of_each_key(gateway: Gateway, metrics: HttpMetrics) -> None:
    """The rate is a function of the key; with None, the key is not limited."""
    plans = {"acme": "1/minute", "globex": None}
    app = gateway(plans.__getitem__, pulse={"metrics": metrics})

    with TestClient(app) as client:
        acme = [client.get("/chat", headers=ACME) for _ in range(2)]
        plans["acme"] = "3/hour"
        later = [client.get("/chat", headers=ACME) for _ in range(3)]
        globex = [client.get("/chat", headers=GLOBEX) for _ in range(3)]

    assert [response.status_code for response in acme] == [200, 429]
    assert acme[0].headers["ratelimit-policy"] == '"tenant";q=1;w=60'
    assert [response.status_code for response in later] == [200, 200, 429]
    assert later[0].headers["ratelimit-policy"] == '"tenant";q=3;w=3600'
    assert [response.status_code for response in globex] == [200] * 3
    assert "ratelimit" not in globex[0].headers


def test_contract_async_plan(gateway: Gateway, metrics: HttpMetrics) -> None:
    """The rate may come from an async function, which is called once for each key."""
    calls: list[str] = []

    async def plan_of(tenant: str) -> str:
        calls.append(tenant)
        return {"acme": "1/minute", "globex": "2/minute"}[tenant]

    app = gateway(plan_of, pulse={"metrics": metrics})

    with TestClient(app) as client:
        acme = [client.get("/chat", headers=ACME).status_code for _ in range(2)]
        globex = [client.get("/chat", headers=GLOBEX).status_code for _ in range(3)]

    assert (acme, globex, calls) == ([200, 429], [200, 200, 429], ["acme", "globex"])


def test_contract_failing_plan_limits_nothing(
    gateway: Gateway, metrics: HttpMetrics, log: pytest.LogCaptureFixture
) -> None:
    """Without a default rate, a failing function is logged and counted, and requests pass."""

    def plan_of(tenant: str) -> str:
        raise ConnectionError("database is down")

    app = gateway(plan_of, pulse={"metrics": metrics})
    with TestClient(app) as client:
        assert [client.get("/chat", headers=ACME).status_code for _ in range(2)] == [200, 200]

    assert decided(metrics, "tenant") == {"error": 2}
    assert "rate limit policy tenant failed with ConnectionError" in log.text


@pytest.mark.usefixtures("patient")
def test_contract_shared_limiter(gateway: Gateway, metrics: HttpMetrics, redis: Server) -> None:
    """Counters and tokens may be in a storage that several processes share."""
    storage = f"async+redis://{redis.place}"
    limiter = SharedLimiter("100/hour", storage=storage, timeout=PATIENCE)
    app = gateway(limiter, tokens=60, pulse={"metrics": metrics})

    with TestClient(app) as client:
        responses = [client.post("/chat", headers=ACME) for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].headers["ratelimit"].startswith('"tenant";r=40;t=')


def test_headers_of_all_layers_are_one_field(metrics: HttpMetrics) -> None:
    """Limits of the middleware, a router and an endpoint share one header field."""
    pulse = TokenPulse(limit="9/hour", metrics=metrics)
    app = FastAPI(dependencies=[Depends(pulse.limit("8/hour", name="app"))])
    pulse.install(app)

    @app.get("/", dependencies=[Depends(pulse.limit("7/hour", name="route"))])
    def read() -> Response:
        return PlainTextResponse("", headers={"RateLimit-Policy": '"vendor";q=5'})

    with TestClient(app) as client:
        response = client.get("/")

    fields = response.headers.get_list("ratelimit-policy")
    ours = '"default";q=9;w=3600,"app";q=8;w=3600,"route";q=7;w=3600'
    assert fields == ['"vendor";q=5', ours]
    assert response.headers["ratelimit"].count("r=") == 3


@pytest.mark.parametrize("dialect", ["openai", "legacy"])
def test_headers_of_all_layers_show_the_tightest_limit(metrics: HttpMetrics, dialect: str) -> None:
    """Dialects with one limit show that with the least remaining, once."""
    settings = Settings.model_validate({"limit": "9/hour", "limit_headers": dialect})
    pulse = TokenPulse(settings=settings, metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    @app.get("/", dependencies=[Depends(pulse.limit("3/hour"))])
    def read() -> Response:
        return PlainTextResponse("", headers={"X-RateLimit-Remaining": "vendor"})

    with TestClient(app) as client:
        headers = client.get("/").headers

    name = {
        "openai": "x-ratelimit-remaining-requests",
        "legacy": "x-ratelimit-remaining",
    }[dialect]
    assert headers.get_list(name) == ["2"]


def test_headers_can_be_switched_off(metrics: HttpMetrics) -> None:
    """Without a dialect, responses have no header but Retry-After."""
    pulse = TokenPulse(settings=Settings(limit_headers=None, limit=None), metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    @app.get("/", dependencies=[Depends(pulse.limit("1/hour"))])
    def read() -> str:
        return ""

    with TestClient(app) as client:
        client.get("/")
        headers = client.get("/").headers

    assert "retry-after" in headers
    assert "ratelimit" not in headers


def test_one_object_is_one_limit_and_two_are_two(metrics: HttpMetrics) -> None:
    """Routes with the same object share a limit; names of two objects differ."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)
    shared, own = pulse.limit("2/hour"), pulse.limit("2/hour")

    @app.get("/a", dependencies=[Depends(shared)])
    @app.get("/b", dependencies=[Depends(shared), Depends(own), Depends(own)])
    def read() -> str:
        return ""

    with TestClient(app) as client:
        assert [client.get(path).status_code for path in ("/a", "/b", "/b")] == [200, 200, 429]

    assert [shared.policy.name, own.policy.name] == ["2-per-hour", "2-per-hour-2"]
    assert decided(metrics, "2-per-hour") == {"allowed": 2, "limited": 1}
    assert decided(metrics, "2-per-hour-2") == {"allowed": 1}


@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ("5 per 10 seconds", "5-per-10-seconds"),
        (Limiter("5/minute"), "5-per-60s"),
        (InFlight(4), "InFlight"),
        (tenant_of, "tenant_of"),
        (PlanLimiter(lambda key: "1/day"), "PlanLimiter"),
        (lambda key: "1/day", "lambda"),
    ],
)
def test_name_follows_the_limit(limit: Any, name: str) -> None:
    """A limit without a name is named after its rate, function or class."""
    assert TokenPulse().limit(limit).policy.name == name


def test_several_limits_are_counted_together(metrics: HttpMetrics) -> None:
    """A request is counted under all limits of a check, or under none."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    wide, narrow = pulse.limit("9/hour", name="wide"), pulse.limit("1/hour", name="narrow")

    async def read(request: Request) -> Response:
        await pulse.check(request, wide, narrow)
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", read)])
    pulse.install(app)
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(4)] == [200, 429, 429, 429]
        assert client.get("/").headers["ratelimit"].startswith('"wide";r=8;')


def test_key_is_the_address_behind_trusted_proxies_by_default(metrics: HttpMetrics) -> None:
    """A limit without a key counts clients as the middleware does."""
    settings = Settings(limit=None, trusted_proxies=("192.0.2.0/24",))
    pulse = TokenPulse(settings=settings, metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    @app.get("/", dependencies=[Depends(pulse.limit("1/hour"))])
    def read() -> str:
        return ""

    with TestClient(app, client=("192.0.2.1", 50000)) as client:
        addresses = ["198.51.100.1", "198.51.100.2", "198.51.100.1"]
        statuses = [
            client.get("/", headers={"x-forwarded-for": address}).status_code
            for address in addresses
        ]

    assert statuses == [200, 200, 429]


@pytest.mark.parametrize(
    "key",
    [
        keys.annotation("tenant"),
        keys.header("x-tenant"),
        keys.route(),
        keys.client_address(),
        keys.combine(keys.client_address(), keys.header("x-tenant")),
        lambda request: request.state.tenant,
        lambda request: request.headers["x-tenant"],
    ],
    ids=["annotation", "header", "route", "address", "combine", "state", "headers"],
)
def test_keys_of_policies_and_functions_of_the_request_work(
    key: Any, metrics: HttpMetrics, log: pytest.LogCaptureFixture
) -> None:
    """The key is a function of the request, and functions of a scope can be used too."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    def authenticate(request: HTTPConnection, x_tenant: Annotated[str, Header()]) -> None:
        request.state.tenant = x_tenant
        annotate(request, tenant=x_tenant)

    limit = pulse.limit(
        "1/hour",
        key=key,
        when=requests_to("/*"),
        cost=lambda request: len(request.url.path),
    )

    @app.get("/", dependencies=[Depends(authenticate), Depends(limit)])
    def read() -> str:
        return ""

    with TestClient(app) as client:
        statuses = [client.get("/", headers=ACME).status_code for _ in range(2)]

    assert (statuses, log.text) == ([200, 429], "")


def test_key_is_resolved_once_for_each_request(metrics: HttpMetrics) -> None:
    """The key may be an annotated dependency, which limits and the endpoint share."""
    calls: list[str] = []

    def tenant_of(x_tenant: Annotated[str, Header()]) -> str:
        calls.append(x_tenant)
        return x_tenant

    tenant = Annotated[str, Depends(tenant_of)]
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)
    limits = [pulse.limit("1/hour", key=tenant), pulse.limit("9/day", key=Depends(tenant_of))]

    def read(tenant: str = Depends(tenant_of)) -> str:
        return tenant

    app.get("/", dependencies=[Depends(limit) for limit in limits])(read)
    with TestClient(app) as client:
        assert [client.get("/", headers=ACME).status_code for _ in range(2)] == [200, 429]
        assert client.get("/", headers=GLOBEX).json() == "globex"

    assert calls == ["acme", "acme", "globex"]


def test_endpoint_of_a_rejected_request_does_not_run(metrics: HttpMetrics) -> None:
    """Dependencies after the limit and the endpoint run only for allowed requests."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)
    events: list[str] = []

    def session() -> Iterator[None]:
        events.append("session")
        yield
        events.append("closed")

    @app.get("/", dependencies=[Depends(pulse.limit("1/hour")), Depends(session)])
    def read() -> None:
        events.append("endpoint")

    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(2)] == [200, 429]

    assert events == ["session", "endpoint", "closed"]


def test_rejection_in_a_mounted_application_is_429(metrics: HttpMetrics) -> None:
    """A mounted application needs no handler of its own."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    inner = FastAPI()

    @inner.get("/", dependencies=[Depends(pulse.limit("1/hour"))])
    def read() -> str:
        return ""

    app = Starlette(routes=[Mount("/inner", inner)])
    pulse.install(app)
    with TestClient(app) as client:
        assert [client.get("/inner/").status_code for _ in range(2)] == [200, 429]


def test_handler_of_the_application_for_rejections_is_used(metrics: HttpMetrics) -> None:
    """Only a handler for RateLimited itself replaces the response."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    @app.exception_handler(RateLimited)
    async def handle(request: Request, error: RateLimited) -> Response:
        return JSONResponse({"limit": error.decision.policy}, 429)

    @app.get("/", dependencies=[Depends(pulse.limit("1/hour", name="slow"))])
    def read() -> str:
        return ""

    with TestClient(app) as client:
        client.get("/")
        response = client.get("/")

    assert response.json() == {"limit": "slow"}
    assert response.headers["ratelimit-policy"] == '"slow";q=1;w=3600'


def test_rejection_in_dispatch_of_a_middleware_is_429(metrics: HttpMetrics) -> None:
    """A middleware inside of the limit of each client may check further limits."""
    pulse = TokenPulse(limit="9/hour", metrics=metrics)
    per_tenant = pulse.limit("1/hour", name="tenant")

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        await pulse.check(request, per_tenant, key="acme")
        return await call_next(request)

    app = FastAPI()
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    pulse.install(app)
    app.get("/")(lambda: "")
    with TestClient(app) as client:
        responses = [client.get("/") for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 429]
    assert responses[1].headers["ratelimit-policy"].count("q=") == 2


def test_each_message_of_a_websocket_can_be_limited(metrics: HttpMetrics) -> None:
    """After the handshake, a rejection closes the connection with 1013."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)
    messages = pulse.limit("2/hour", name="messages", tokens=1)

    @app.websocket("/")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await pulse.check(websocket, messages)
            await websocket.send_text(text)

    with TestClient(app) as client, client.websocket_connect("/") as socket:
        for text in ("a", "b"):
            socket.send_text(text)
            assert socket.receive_text() == text
        socket.send_text("c")
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_text()

    assert (closed.value.code, closed.value.reason) == (1013, "Too Many Requests")


def test_check_in_a_background_task_settles_its_tokens(metrics: HttpMetrics) -> None:
    """After the response, the reserve stays charged and slots are released."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    slots, tokens = InFlight(2), Limiter("100/hour")
    limits = [pulse.limit(slots), pulse.limit(tokens, tokens=10)]

    async def read(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(pulse.check, request, *limits))

    app = Starlette(routes=[Route("/", read)])
    pulse.install(app)
    with TestClient(app) as client:
        client.get("/")

    address = keys.client_address()(http_scope(client=("testclient", 50000)))
    assert (len(slots), tokens.peek(address).remaining) == (0, 90)


def test_rejection_after_the_response_began_is_an_error(metrics: HttpMetrics) -> None:
    """A check in the middle of a response cannot change it: the error reaches the server."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    once = pulse.limit("1/hour")

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        await pulse.check(scope, once)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await pulse.check(scope, once)

    with pytest.raises(RateLimited, match="rate limit '1-per-hour' is exceeded"):
        TestClient(pulse.wrap(vendor)).get("/")


@pytest.mark.anyio
async def test_check_outside_of_a_gateway_limits_and_warns(log: pytest.LogCaptureFixture) -> None:
    """Without install, limits count, the response has the headers, and a warning has the fix."""
    pulse = TokenPulse(limit=None)
    limit = pulse.limit("1/hour", name="tenant")
    slots = pulse.limit(InFlight(1), name="slots")
    app = FastAPI()
    app.get("/", dependencies=[Depends(limit), Depends(slots)])(lambda: "")

    responses = [await drive(app) for _ in range(2)]
    slots.policy.local.hit(keys.client_address()(http_scope()))

    assert [response.status for response in responses] == [200, 429]
    assert responses[1].headers["ratelimit-policy"] == '"tenant";q=1;w=3600'
    assert log.text.count("call install() or wrap()") == 1


class Tenant:
    """A tenant that equals only itself, such as a row of a database."""


@pytest.mark.anyio
async def test_rejection_outside_of_a_gateway_is_429_of_a_limit_around_it() -> None:
    """A plain RateLimitMiddleware turns a rejection by a check inside of it into its response."""
    pulse = TokenPulse(limit=None)
    per_tenant = pulse.limit("1/minute", key=tenant_of)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await pulse.check(scope, per_tenant)
        await PlainTextResponse("ok")(scope, receive, send)

    limited = RateLimitMiddleware(app, limit="100/minute")
    statuses = [(await drive(limited, http_scope(headers=ACME_SCOPE))).status for _ in range(2)]

    assert statuses == [200, 429]


@pytest.mark.anyio
async def test_rejection_after_the_response_began_is_an_error_outside_of_a_gateway() -> None:
    """A rejection never begins a second response, in however many limits."""
    pulse = TokenPulse(limit=None)
    per_tenant = pulse.limit("1/minute", key=tenant_of)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("ok")(scope, receive, send)
        await pulse.check(scope, per_tenant)

    inner = RateLimitMiddleware(app, policies=[Policy(InFlight(9), name="slots")])
    limited = RateLimitMiddleware(inner, limit="100/minute")
    await drive(limited, http_scope(headers=ACME_SCOPE))
    late = await drive(limited, http_scope(headers=ACME_SCOPE))

    assert isinstance(late.error, RateLimited)
    assert [message["type"] for message in late.messages] == [
        "http.response.start",
        "http.response.body",
    ]


@pytest.mark.parametrize(
    ("key", "error"),
    [
        (Tenant, "key must be equal in all requests of a client, got .*: Tenant; use an attribute"),
        (dict, "unhashable type: 'dict'"),
    ],
)
def test_unusable_key_is_logged_with_the_fix(
    key: Any, error: str, metrics: HttpMetrics, log: pytest.LogCaptureFixture
) -> None:
    """A key that cannot be counted disables the limit only, and is an error in metrics and log."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)
    limit = pulse.limit("1/hour", key=Depends(lambda: key()), name="tenant")
    app.get("/", dependencies=[Depends(limit)])(lambda: "")

    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(2)] == [200, 200]

    assert decided(metrics, "tenant") == {"error": 2}
    assert any(record.exc_info for record in log.records)
    with pytest.raises(TypeError, match=error):
        raise next(record.exc_info[1] for record in log.records if record.exc_info)  # type: ignore[misc]


@pytest.mark.anyio
async def test_check_of_a_limit_with_a_dependency_needs_the_key(
    log: pytest.LogCaptureFixture,
) -> None:
    """Outside of FastAPI, nothing resolves `Depends`: the log has the fix."""
    pulse = TokenPulse(limit=None)
    limit = pulse.limit("1/hour", key=Depends(get_tenant))

    await pulse.check(http_scope(), limit)
    await pulse.check(http_scope(), limit, key="acme")
    with pytest.raises(RateLimited):
        await pulse.check(http_scope(), limit, key="acme")
    await pulse.check(http_scope(), limit, key=None)

    assert "use Depends(limit), or give the key to check()" in log.text


async def async_key(request: Request) -> str:
    """Return a key too late."""
    return ""


def header_key(tenant: str = Header()) -> str:
    """Return the tenant of a header."""
    return tenant


def two_keys(request: Request, tenant: str) -> str:
    """Return a key of two arguments."""
    return tenant


TAKEN = Limiter("5/minute")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"limit": 5}, "limit must be a rate such as '100/minute', a function of the key"),
        ({"limit": "fast"}, "limit must be one rate"),
        ({"name": "default"}, "name must be unique among the limits, got 'default' again"),
        ({"name": "a b"}, "name must be 1 to 64 letters"),
        ({"key": async_key}, r"for a dependency of FastAPI, use key=Depends\(async_key\)"),
        ({"key": get_tenant}, r"got the dependency get_tenant: use key=Depends\(get_tenant\)"),
        ({"key": header_key}, r"got the dependency header_key: use key=Depends\(header_key\)"),
        ({"key": two_keys}, r"key must be a function of the request .* key=Depends\(two_keys\)"),
        (
            {"key": "tenant"},
            "key must be a function of the request that is not async, got 'tenant'",
        ),
        ({"key": keys.header}, "uncalled factory header"),
        ({"cost": 0.5}, "cost must be an integer"),
        ({"cost": async_key}, "cost must be a function that is not async"),
        ({"tokens": 0}, "tokens must be an integer"),
        ({"when": "/v1/*"}, "when must be a function that is not async"),
        ({"enforce": "false"}, "enforce must be True or False"),
        ({"limit": TAKEN}, "limit must have its own limiter"),
    ],
)
def test_malformed_argument_of_limit_is_rejected(options: Options, error: str) -> None:
    """The error names the parameter and how to fix it."""
    pulse = TokenPulse(policies=[Policy(TAKEN)])

    with pytest.raises(ValueError, match=error):
        pulse.limit(**{"limit": "1/minute", **options})


def test_key_with_an_unknown_annotation_is_accepted() -> None:
    """Annotations of names that only type checkers import are not read."""

    def key(request: OnlyForTypes) -> str:  # type: ignore[name-defined]  # noqa: F821
        return ""

    assert TokenPulse().limit("1/minute", key=key).policy.has_key


@pytest.mark.anyio
async def test_malformed_argument_of_check_is_rejected() -> None:
    """Only limits of the same TokenPulse can be checked, so that each is created once."""
    pulse = TokenPulse()
    limit, other = pulse.limit("1/minute"), TokenPulse().limit("1/minute")

    with pytest.raises(ValueError, match="check\\(\\) needs a limit"):
        await pulse.check(http_scope())
    for wrong in ("20/minute", other):
        with pytest.raises(ValueError, match="limits must be made by limit\\(\\) of the same"):
            await pulse.check(http_scope(), wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="every policy must have a unique name"):
        await pulse.check(http_scope(), limit, limit)


def test_limit_created_by_a_request_is_logged(
    metrics: HttpMetrics, log: pytest.LogCaptureFixture
) -> None:
    """A limit for each request never rejects, so the log has the fix, once."""
    pulse = TokenPulse(limit=None, metrics=metrics)

    async def read(request: Request) -> Response:
        await pulse.check(request, pulse.limit("1/hour"))
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", read)])
    pulse.install(app)
    with TestClient(app) as client:
        assert [client.get("/").status_code for _ in range(3)] == [200, 200, 200]

    assert log.text.count("limit() was called after the first request") == 1


def test_number_of_limits_is_bounded() -> None:
    """Creating a limit for each request fails before it costs much memory."""
    pulse = TokenPulse()

    for _ in range(999):  # one is that of the middleware
        pulse.limit("1/minute")

    with pytest.raises(ValueError, match=r"limit\(\) was called 1000 times: create limits once"):
        pulse.limit("1/minute")


@pytest.mark.anyio
async def test_number_of_remembered_combinations_is_bounded(clock: FakeClock) -> None:
    """Any combination of limits can be checked."""
    pulse = TokenPulse(limit=None)
    limits = [pulse.limit(Limiter("999/hour", clock=clock)) for _ in range(20)]

    for first in limits:
        for second in limits:
            if first is not second:
                await pulse.check(http_scope(), first, second)

    assert limits[0].policy.limiter.peek(keys.client_address()(http_scope())).remaining == 961  # type: ignore[union-attr]


def test_limited_tenant_is_alerted(metrics: HttpMetrics) -> None:
    """A tenant that reaches a limit of a route fires the same alert as one of the middleware."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = FastAPI()
    pulse.install(app)

    def annotated_tenant(request: Request, x_tenant: Annotated[str, Header()]) -> str:
        annotate(request, tenant=x_tenant)
        return x_tenant

    limit = pulse.limit("1/hour", key=Depends(annotated_tenant))
    app.get("/", dependencies=[Depends(limit)])(lambda: "")
    with TestClient(app) as client:
        assert [client.get("/", headers=ACME).status_code for _ in range(2)] == [200, 429]
        assert client.portal is not None
        client.portal.call(pulse.engine.evaluate)
        fingerprints = [finding.fingerprint for finding in pulse.engine.firing]

    assert fingerprints == ["rate_limit:master:acme"]


@pytest.mark.anyio
async def test_token_budget_of_a_route_is_a_quota(metrics: HttpMetrics) -> None:
    """A tenant that has used most of its tokens is alerted, even if the limit was added later."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    limiter = Limiter("1000/day")
    pulse.limit(limiter, tokens=10, key=keys.annotation("tenant"))
    limiter.hit("acme", 950)

    (event,) = await pulse.engine.evaluate()

    assert event.fingerprint == "quota_exceeded:key:acme"


def test_budget_of_a_route_rejects_with_402(metrics: HttpMetrics) -> None:
    """A limit of money takes the options of a policy, and functions of the request."""
    pulse = TokenPulse(settings=Settings(limit=None), metrics=metrics)
    budget = pulse.limit(
        "1 USD per calendar month",
        key=Depends(get_tenant),
        reserve=lambda request: int(request.headers["x-reserve"]),
        on_missing_cost="allow",
        status=402,
        timezone="Europe/Berlin",
    )
    app = FastAPI()
    pulse.install(app)

    @app.post("/chat", dependencies=[Depends(budget)])
    def chat() -> str:
        return "hi"

    client = TestClient(app)
    headers = {"x-tenant": "acme", "x-reserve": "600000"}
    responses = [client.post("/chat", headers=headers) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 402]
    assert budget.policy.name == "1-USD-per-calendar-month"
    assert responses[0].headers["ratelimit-policy"].endswith(';q=1000000;qu="micro-USD"')
    limiter = budget.policy.limiter
    assert isinstance(limiter, Limiter)
    assert (limiter.period, limiter.timezone) == ("month", "Europe/Berlin")


def test_weights_of_a_route_count_its_tokens(metrics: HttpMetrics) -> None:
    """The usage of the response is weighted when it ends."""
    pulse = TokenPulse(settings=Settings(limit=None), metrics=metrics)
    tokens = pulse.limit(
        "1000/minute", key=Depends(get_tenant), tokens=10, weights={"output": 4}, name="tokens"
    )
    app = FastAPI()
    pulse.install(app)

    @app.post("/chat", dependencies=[Depends(tokens)])
    def chat() -> Any:
        return COMPLETION

    TestClient(app).post("/chat", headers={"x-tenant": "acme"})

    assert tokens.policy.local.peek("acme", 0).remaining == 1000 - 20 - 4 * 10


def test_new_rate_of_a_route_keeps_the_counts(metrics: HttpMetrics) -> None:
    """The headers of all layers follow the change."""
    pulse = TokenPulse(settings=Settings(limit="5/minute"), metrics=metrics)
    plans = pulse.limit({"acme": "1/minute"}, key=Depends(get_tenant))
    app = FastAPI()
    pulse.install(app)

    @app.post("/chat", dependencies=[Depends(plans)])
    def chat() -> str:
        return "hi"

    client = TestClient(app, headers={"x-tenant": "acme"})
    assert [client.post("/chat").status_code for _ in range(2)] == [200, 429]

    plans.policy.set_rate({"acme": "2/minute"})
    pulse.policies[0].set_rate("4/minute")
    responses = [client.post("/chat") for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 429]
    assert responses[0].headers["ratelimit-policy"] == '"default";q=4;w=60,"plans";q=2;w=60'


@pytest.mark.parametrize("strategy", ["fixed-window", "gcra"])
def test_calendar_limit_of_a_route_is_shared_by_workers(tmp_path: Path, strategy: Any) -> None:
    """In the folder of the workers it has fixed windows, also next to other strategies."""
    settings = Settings(limit=None, shared_dir=str(tmp_path / "shared"), limit_strategy=strategy)
    first, second = (
        TokenPulse(settings=settings).limit("2 USD/calendar day", timezone="Asia/Tokyo")
        for _ in range(2)
    )

    first.policy.local.hit("ada", 1_500_000)

    assert isinstance(first.policy.limiter, ZoneLimiter)
    assert not second.policy.local.hit("ada", 1_000_000).allowed
    assert second.policy.local.hit("ada", 500_000).allowed

"""TokenPulse, with all its parts in one application."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import REGISTRY, CollectorRegistry, Counter
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from tokenpulse_mw import (
    AlertEngine,
    AlertEvent,
    Exchange,
    HttpMetrics,
    InFlight,
    Limiter,
    LogSink,
    Models,
    Policy,
    Providers,
    Settings,
    SharedLimiter,
    Thresholds,
    TokenPulse,
    annotate,
    keys,
    problem_details,
)
from tokenpulse_mw.alerts import MemoryAlertStore
from tokenpulse_mw.secret import hide_url
from tokenpulse_mw.testing import fake_clock

from .support.apps import answering
from .support.asgi import drive, http_scope
from .support.clock import FakeClock
from .support.waiting import PATIENCE
from .usage.sessions import response, responses_usage

TOKEN = "a-token-of-enough-characters"

Installer = Callable[[Starlette, HttpMetrics], ASGIApp]


def requests(metrics: HttpMetrics, **labels: str) -> float | None:
    """Return the number of requests with these labels."""
    return metrics.registry.get_sample_value("tokenpulse_http_requests_total", labels)


def decisions(metrics: HttpMetrics, **labels: str) -> float | None:
    """Return the number of rate limit decisions with these labels."""
    return metrics.registry.get_sample_value("tokenpulse_rate_limit_decisions_total", labels)


def test_requests_of_fastapi_are_limited_and_counted(metrics: HttpMetrics) -> None:
    """Of 150 requests of one client, 100 pass and 50 get 429; all are counted by route."""
    app = FastAPI()

    @app.post("/{vendor}/v1/chat/completions")
    async def chat(vendor: str) -> dict[str, str]:
        return {"from": vendor}

    TokenPulse(providers=["codex"], settings=Settings(), metrics=metrics).install(app)
    with TestClient(app) as client:
        responses = [client.post("/codex/v1/chat/completions") for _ in range(150)]
        other = TestClient(app, client=("192.0.2.2", 1)).post("/codex/v1/chat/completions")

    assert [response.status_code for response in responses] == [200] * 100 + [429] * 50
    assert responses[-1].text == "Too Many Requests"
    assert responses[-1].headers["content-type"].startswith("text/plain")
    assert int(responses[-1].headers["retry-after"]) >= 1
    assert other.status_code == 200
    labels = {
        "method": "POST",
        "route": "/{vendor}/v1/chat/completions",
        "provider": "codex",
    }
    assert requests(metrics, status="200", **labels) == 101
    assert requests(metrics, status="429", **labels) == 50
    assert decisions(metrics, policy="default", decision="limited") == 50


def install(app: Starlette, metrics: HttpMetrics) -> ASGIApp:
    """Install a gateway into `app`, and return the application."""
    TokenPulse(service="oauth2api", settings=Settings(limit="2/day"), metrics=metrics).install(app)
    return app


def wrap(app: Starlette, metrics: HttpMetrics) -> ASGIApp:
    """Return `app` wrapped in a gateway."""
    settings = Settings(limit="2/day")
    return TokenPulse(service="oauth2api", settings=settings, metrics=metrics).wrap(app)


@pytest.mark.parametrize("deploy", [install, wrap])
def test_endpoints_precede_a_catch_all_route(deploy: Installer, metrics: HttpMetrics) -> None:
    """A route for every path does not receive probes and scrapes, which are not counted."""
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])

    with TestClient(deploy(app, metrics)) as client:
        for _ in range(3):
            assert client.get("/health").json()["service"] == "oauth2api"
            assert client.get("/health/ready").json() == {"status": "ok"}
            assert "tokenpulse_http_requests_in_progress 0.0" in client.get("/metrics").text
        assert client.get("/anything").text == "proxied"
        assert "tokenpulse_http_requests_total{" in client.get("/metrics").text
        assert 'route="/{path}",status="200"' in client.get("/metrics").text
        assert requests(metrics, method="GET", route="/health", status="200") is None


@pytest.mark.parametrize("deploy", [install, wrap])
def test_lifespan_of_the_application_runs(deploy: Installer, metrics: HttpMetrics) -> None:
    """The state that the lifespan yields reaches the requests."""
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        events.append("begin")
        yield {"name": "state"}
        events.append("end")

    async def name(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.name)

    app = Starlette(routes=[Route("/name", name)], lifespan=lifespan)

    with TestClient(deploy(app, metrics)) as client:
        assert client.get("/name").text == "state"
    assert events == ["begin", "end"]


def test_an_application_without_routes_is_wrapped(metrics: HttpMetrics) -> None:
    """An ASGI callable without routes or lifespan is limited and measured."""
    pulse = TokenPulse(settings=Settings(limit="2/day"), metrics=metrics)

    async def vendor(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await answering()(scope, receive, send)

    with TestClient(pulse.wrap(vendor)) as client:
        statuses = [client.post("/claude/v1/messages").status_code for _ in range(3)]

    assert statuses == [200, 200, 429]
    labels = {"method": "POST", "route": "/{path}", "provider": "claude"}
    assert requests(metrics, status="200", **labels) == 2
    assert requests(metrics, status="429", **labels) == 1


@pytest.mark.slow
@pytest.mark.anyio
async def test_alerts_are_evaluated_while_the_application_runs(metrics: HttpMetrics) -> None:
    """An error spike fires once while requests fail, and resolves once afterwards."""
    events: list[AlertEvent] = []
    resolved = anyio.Event()

    async def sink(event: AlertEvent) -> None:
        events.append(event)
        if event.transition == "resolved":
            resolved.set()

    engine = AlertEngine(
        sinks=[sink],
        interval=0.01,
        thresholds=Thresholds(error_window=1, provider_failures=None, keep_firing=0),
    )
    pulse = TokenPulse(settings=Settings(limit="1000/day"), engine=engine, metrics=metrics)

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k1")
        await answering(status=503)(scope, receive, send)

    app = pulse.wrap(failing)
    async with pulse.lifespan():
        with anyio.fail_after(PATIENCE):
            while not events:
                await _post(app)
            await resolved.wait()

    assert [(event.transition, event.fingerprint) for event in events] == [
        ("fired", "error_spike:key:k1"),
        ("resolved", "error_spike:key:k1"),
    ]


@pytest.mark.anyio
async def test_only_provider_that_fails_is_down(metrics: HttpMetrics) -> None:
    """Errors of a path for all vendors count for the only declared provider, pages do not."""

    async def chat(request: Request) -> PlainTextResponse:
        return PlainTextResponse("overloaded", 529)

    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/", lambda request: PlainTextResponse("a page")),
        ]
    )
    engine = AlertEngine(sinks=[])
    settings = Settings(limit="1000/day")
    TokenPulse(providers=["openai"], settings=settings, engine=engine, metrics=metrics).install(app)

    for _ in range(10):
        await drive(app, http_scope("/v1/chat/completions", method="POST"))
        await drive(app, http_scope("/"))

    assert "provider_down:provider:openai" in {
        event.fingerprint for event in await engine.evaluate()
    }


async def _post(app: ASGIApp) -> None:
    await drive(app, http_scope("/chat", method="POST"))
    await anyio.lowlevel.checkpoint()


def test_a_service_that_has_shut_down_is_not_ready(metrics: HttpMetrics) -> None:
    """After the lifespan has ended, the service is live and not ready."""
    app = Starlette()
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    pulse.install(app)
    client = TestClient(app)

    with client:
        assert client.get("/health/ready").status_code == 200
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_credentials_and_checks_reach_the_health_endpoints(metrics: HttpMetrics) -> None:
    """The state of credentials is served, and a failed check makes the service not ready."""
    app = Starlette()
    TokenPulse(
        settings=Settings(),
        metrics=metrics,
        credentials={"claude": True, "gemini": False},
        checks={"disk": lambda: False},
    ).install(app)

    client = TestClient(app)

    assert client.get("/api/credentials/status").text == '{"claude":true,"gemini":false}'
    assert client.get("/health/ready").status_code == 503


@pytest.mark.anyio
async def test_metrics_include_limits_alerts_and_providers(
    metrics: HttpMetrics,
) -> None:
    """Gauges that no exchange sets are read when the metrics are scraped."""
    engine = AlertEngine()
    limits = [Policy(Limiter("1/minute", max_keys=2)), Policy(InFlight(9), name="at-once")]
    pulse = TokenPulse(
        settings=Settings(),
        metrics=metrics,
        engine=engine,
        credentials={"claude": True},
        policies=limits,
    )
    app = pulse.wrap(answering())

    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.3"):
        await drive(app, http_scope("/claude/chat", client=(client, 1)))
    await engine.evaluate()
    lines = metrics.render().decode().splitlines()

    assert 'tokenpulse_rate_limit_keys{policy="default"} 2.0' in lines
    assert 'tokenpulse_rate_limit_evictions_total{policy="default"} 1.0' in lines
    alert = 'type="rate_limit",severity="warning",state="firing"'
    assert f"tokenpulse_alerts{{{alert}}} 1.0" in lines
    assert 'tokenpulse_alert_evaluations_total{result="ok"} 1.0' in lines
    assert 'tokenpulse_alert_deliveries_total{sink="LogSink",result="ok"} 1.0' in lines
    assert 'tokenpulse_active_providers{provider="claude"} 1.0' in lines


def test_scrape_requires_the_metrics_token(metrics: HttpMetrics) -> None:
    """Without the token, the response is 404."""
    app = Starlette()
    TokenPulse(settings=Settings(metrics_token="s3cret"), metrics=metrics).install(app)
    client = TestClient(app)

    assert client.get("/metrics").status_code == 404
    allowed = client.get("/metrics", headers={"authorization": "Bearer s3cret"})
    assert allowed.status_code == 200


@pytest.mark.parametrize("deploy", [TokenPulse.install, TokenPulse.wrap])
def test_scrape_shows_no_metrics_of_the_application(deploy: Callable[..., ASGIApp | None]) -> None:
    """Metrics that the application guards on the default registry do not become public."""
    guarded = Counter("guarded_requests", "Requests by user.", ["user_email"])
    guarded.labels("a@example.com").inc()
    try:
        app = FastAPI()
        with TestClient(deploy(TokenPulse(settings=Settings()), app) or app) as client:
            scrape = client.get("/metrics").text
        shared = TokenPulse(settings=Settings(), metrics=HttpMetrics(REGISTRY)).metrics.render()
    finally:
        REGISTRY.unregister(guarded)

    assert "guarded_requests" not in scrape
    assert "process_cpu_seconds_total" in scrape
    assert "python_gc_collections_total" in scrape
    assert "python_info" in scrape
    assert b'guarded_requests_total{user_email="a@example.com"} 1.0' in shared


def test_an_empty_token_is_refused(metrics: HttpMetrics) -> None:
    """An empty token would make the metrics public."""
    with pytest.raises(ValueError, match="token must be"):
        TokenPulse(settings=Settings(metrics_token=""), metrics=metrics)


def test_a_path_of_the_application_stays_with_it(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that serves /health itself keeps it, and a warning is logged."""
    paths = ["/health", "/health/ready"]
    app = Starlette(
        routes=[Route(path, lambda request: PlainTextResponse("own")) for path in paths]
    )
    TokenPulse(settings=Settings(), metrics=metrics).install(app)
    client = TestClient(app)

    assert [client.get(path).text for path in paths] == ["own", "own"]
    assert client.get("/health/live").json() == {"status": "ok"}
    assert [record.getMessage() for record in caplog.records] == [
        "endpoint of the application is kept: path=/health (limited unless `exempt` names it)",
        "endpoint of the application is kept: path=/health/ready",
    ]


def test_a_path_of_an_included_router_stays_with_it(metrics: HttpMetrics) -> None:
    """The paths of routers with a prefix and of mounts count as the application's."""
    router = APIRouter(prefix="/health")

    @router.get("/live")
    async def live() -> str:
        return "own"

    app = FastAPI()
    app.include_router(router)
    app.mount("/metrics", answering(b"own"))

    @app.post("/health")
    async def post() -> str:
        return "own"

    TokenPulse(settings=Settings(), metrics=metrics).install(app)
    client = TestClient(app)

    assert client.get("/health/live").json() == "own"
    assert client.get("/metrics/").text == "own"
    assert client.get("/health").json()["status"] == "ok"
    assert client.post("/health").json() == "own"


def test_other_routes_of_the_same_path_do_not_hide_the_endpoints(metrics: HttpMetrics) -> None:
    """A WebSocket, a route of another host and a catch-all do not serve the path."""
    app = Starlette(
        routes=[
            WebSocketRoute("/health", answering()),
            Host("other.example", Starlette(routes=[Route("/health", answering())])),
            Route("/{path:path}", answering()),
        ]
    )
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    assert TestClient(app).get("/health").json()["status"] == "ok"


def test_paths_below_a_mount_stay_with_it(metrics: HttpMetrics) -> None:
    """An application mounted at `/health` may serve any path below."""
    app = Starlette(routes=[Mount("/health", answering(b"own"))])
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    assert TestClient(app).get("/health/live").text == "own"


def test_endpoints_of_a_mounted_gateway_are_not_limited(metrics: HttpMetrics) -> None:
    """Probes of a gateway below a prefix have the prefix too."""
    settings = Settings(limit="1/day")
    app = Starlette()
    app.mount("/llm", TokenPulse(settings=settings, metrics=metrics).wrap(answering()))
    client = TestClient(app)

    statuses = [client.get("/llm/health/live").status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    assert [client.get("/llm/healthy").status_code for _ in range(2)] == [200, 429]


def test_installing_twice_is_refused(metrics: HttpMetrics) -> None:
    """A second installation would count each request twice."""
    app = Starlette()
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    pulse.install(app)

    with pytest.raises(ValueError, match="installed in the application already"):
        pulse.install(app)


def test_only_starlette_applications_can_be_installed_into(metrics: HttpMetrics) -> None:
    """The error for any other application names `wrap()`."""
    with pytest.raises(ValueError, match=r"got <function .*; use wrap\(\)"):
        TokenPulse(settings=Settings(), metrics=metrics).install(answering())  # type: ignore[arg-type]


def test_providers_may_have_a_resolver(metrics: HttpMetrics) -> None:
    """A `Providers` object is used instead of a list of names."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    providers = Providers(["own"], resolver=lambda scope: "own")
    TokenPulse(providers=providers, settings=Settings(), metrics=metrics).install(app)

    TestClient(app).get("/chat")

    assert requests(metrics, method="GET", route="/chat", status="200", provider="own") == 1


def completing(seen_model: str = "gpt-4o") -> ASGIApp:
    """Return an application that responds as the chat completions of a model do."""
    usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    return answering(json.dumps({"model": seen_model, "choices": [], "usage": usage}).encode())


@pytest.mark.parametrize(
    ("providers", "model", "provider"),
    [
        (None, "gpt-4o", "openai"),
        (None, "o3-mini", "openai"),
        (None, "mistral-large", "mistral"),
        (None, "llama-3", "meta"),
        (None, "deepseek-chat", "deepseek"),
        (None, "openai/gpt-4o", "openai"),
        (["openai", "anthropic"], "claude-sonnet-4", "anthropic"),
        (["claude", "codex"], "gpt-4o", "codex"),
        ({"openai": ["gpt-*"], "local": ["llama*"]}, "llama-3", "local"),
        (["openai", "anthropic"], "mistral-large", "unknown"),
    ],
)
def test_provider_is_that_of_the_model_of_the_response(
    metrics: HttpMetrics,
    caplog: pytest.LogCaptureFixture,
    providers: list[str] | None,
    model: str,
    provider: str,
) -> None:
    """One path serves the models of all vendors; metrics and access log name the vendor."""
    settings = Settings(access_log=True)
    pulse = TokenPulse(providers=providers, settings=settings, metrics=metrics)
    with caplog.at_level(logging.INFO, "tokenpulse_mw.access"):
        TestClient(pulse.wrap(completing(model))).post("/v1/chat/completions")

    labels = {"method": "POST", "route": "/{path}", "status": "200"}
    assert requests(metrics, provider=provider, **labels) == 1
    assert f"provider={provider} " in caplog.text


def test_health_lists_the_providers_that_responded(metrics: HttpMetrics) -> None:
    """A gateway without declared providers has none at first, and no client can add one."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/annotated":
            annotate(scope, provider="undeclared" if scope["query_string"] else "kiro")
        is_page = scope["path"] in ("/claude/page", "/annotated")
        page = answering(b"hi", content_type=b"text/plain")
        await (page if is_page else completing())(scope, receive, send)

    client = TestClient(pulse.wrap(app))
    client.post("/claude/page")
    client.get("/claude/page")
    before = client.get("/health").json()
    client.post("/v1/chat/completions")
    client.get("/annotated")
    client.get("/annotated?other")

    assert before == {"status": "ok", "service": "tokenpulse", "providers": []}
    assert client.get("/health").json()["providers"] == ["kiro", "openai"]


def test_health_lists_declared_providers(metrics: HttpMetrics) -> None:
    """Declared providers are listed in their order, before and after they respond."""
    pulse = TokenPulse(providers=["openai", "claude"], settings=Settings(), metrics=metrics)
    client = TestClient(pulse.wrap(completing()))
    client.post("/v1/chat/completions")

    assert client.get("/health").json()["providers"] == ["openai", "claude"]


def test_settings_are_read_from_the_environment(
    metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator changes the limit by a variable."""
    monkeypatch.setenv("TOKENPULSE_LIMIT", "7/day")

    assert TokenPulse(metrics=metrics).policies[0].limiter.limit == 7


def test_models_and_aliases_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alias is followed by the label, as in the environment."""
    monkeypatch.setenv("TOKENPULSE_MODELS", "gpt-5-mini, o3-2025-04-16")
    monkeypatch.setenv("TOKENPULSE_MODEL_ALIASES", "prod-chat = gpt-5-mini, acme-*=llama-3.3")

    models = TokenPulse(settings=Settings()).metrics.models

    names = ["gpt-5-mini", "o3-2025-04-16", "azure/prod-chat", "acme-1", "gpt-5"]
    assert [models.label(name) for name in names] == [
        "gpt-5-mini",
        "o3-2025-04-16",
        "gpt-5-mini",
        "llama-3.3",
        "other",
    ]


def test_given_models_replace_those_of_the_settings() -> None:
    """Metrics and policies can share them."""
    models = Models(["gpt-5"])

    assert TokenPulse(settings=Settings(), models=models).metrics.models is models


def test_a_response_without_a_model_is_counted_by_that_of_its_request() -> None:
    """An installed gateway keeps the start of the body, which the application reads."""

    async def chat(request: Request) -> JSONResponse:
        await request.json()
        return JSONResponse({"usage": {"prompt_tokens": 7, "completion_tokens": 0}})

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    pulse = TokenPulse(settings=Settings(alerts=False))
    pulse.install(app)

    TestClient(app).post("/chat", json={"messages": [], "model": "command-r-08-2024"})

    labels = {"provider": "cohere", "model": "command-r", "kind": "input"}
    value = pulse.metrics.registry.get_sample_value("tokenpulse_llm_tokens_total", labels)
    assert value == 7


def test_policies_replace_the_limit_of_the_settings(metrics: HttpMetrics) -> None:
    """Several policies are counted together, and distinguished by name in headers and metrics."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    policies = [
        Policy("1/day", name="key", key=keys.header("x-api-key")),
        Policy("9/day", name="ip"),
    ]
    pulse = TokenPulse(policies=policies, settings=Settings(), metrics=metrics)
    pulse.install(app)

    client = TestClient(app)
    responses = [client.get("/chat", headers={"x-api-key": "sk-1"}) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 429]
    assert responses[1].headers["ratelimit-policy"] == '"key";q=1;w=86400,"ip";q=9;w=86400'
    assert pulse.policies[1].limiter.limit == 9
    assert decisions(metrics, policy="key", decision="limited") == 1
    assert decisions(metrics, policy="ip", decision="allowed") == 2


def test_settings_choose_headers_body_and_client_address(metrics: HttpMetrics) -> None:
    """The dialect, the format of 429, the strategy and the client header are settings."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    settings = Settings(
        limit="1/day",
        limit_strategy="gcra",
        limit_headers="openai",
        limit_response="openai",
        trusted_proxies=("10.0.0.0/8",),
        client_header="x-real-ip",
    )
    wrapped = TokenPulse(settings=settings, metrics=metrics).wrap(app)
    client = TestClient(wrapped, client=("10.0.0.1", 1))

    first, second, other = (
        client.get("/chat", headers={"x-real-ip": address})
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
    )

    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert second.json()["error"]["code"] == "rate_limit_exceeded"
    assert other.status_code == 200


def test_policies_without_a_key_use_the_trusted_proxies(metrics: HttpMetrics) -> None:
    """Clients behind a trusted proxy do not share one limit."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    settings = Settings(trusted_proxies=("10.0.0.0/8",))
    policies = [Policy("1/day", name="client"), Policy("9/day", name="all", key=lambda scope: 0)]
    TokenPulse(settings=settings, policies=policies, metrics=metrics).install(app)
    client = TestClient(app, client=("10.0.0.1", 1))

    statuses = [
        client.get("/chat", headers={"x-forwarded-for": address}).status_code
        for address in ("192.0.2.1", "192.0.2.2", "192.0.2.2")
    ]

    assert statuses == [200, 200, 429]
    assert policies[1].limiter.peek(0).remaining == 7  # type: ignore[union-attr]


def test_a_shared_limit_is_built_from_the_settings(metrics: HttpMetrics) -> None:
    """Storage, prefix and the decision without the storage are settings."""
    settings = Settings(
        limit="5/minute",
        max_keys=7,
        limit_storage="async+redis://127.0.0.1:1",
        limit_strategy="sliding-window-counter",
        limit_prefix="chat",
        limit_on_error="deny",
    )
    app = TokenPulse(settings=settings, metrics=metrics).wrap(answering())
    limiter = TokenPulse(settings=settings, metrics=metrics).policies[0].limiter

    assert isinstance(limiter, SharedLimiter)
    assert limiter.counters == (
        hide_url("async+redis://127.0.0.1:1"),
        "sliding-window-counter",
        "chat/5/60/",
    )
    assert anyio.run(drive, app).status == 429  # nothing listens there


def test_shadow_mode_does_not_reject(metrics: HttpMetrics) -> None:
    """Requests over the limit pass, and a metric counts them."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    settings = Settings(limit="1/day", limit_enforce=False)
    TokenPulse(settings=settings, metrics=metrics).install(app)

    assert [TestClient(app).get("/chat").status_code for _ in range(2)] == [200, 200]
    assert decisions(metrics, policy="default", decision="shadow") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": Settings(limit="often")}, "^limit must be one rate such as .* got 'often'"),
        ({"limit": "often"}, "^limit must be one rate such as .* got 'often'"),
        ({"settings": Settings(metrics_token="a b")}, "token"),
        ({"settings": Settings(alert_store="alerts.db")}, "^alert_store must be "),
        ({"settings": {"limit": "5/minute"}}, r"Settings\(...\), got one of type dict$"),
        ({"metrics": CollectorRegistry()}, "metrics must be an HttpMetrics of a registry, got <"),
        (
            {"engine": AlertEngine},
            r"engine must be an AlertEngine, .* got one of type type$",
        ),
        ({"policies": "5/minute"}, "policies must be a list of Policy, got '5/minute'"),
        ({"policies": Policy("5/minute")}, "policies must be a list of Policy, got <"),
        (
            {"policies": [Policy("5/minute")], "settings": Settings(limit="9/minute")},
            r"^limit has no effect if TokenPulse is given policies: leave it out, or give it to a",
        ),
        (
            {
                "policies": [Policy("5/minute")],
                "settings": Settings(limit_storage="async+redis://x"),
            },
            r"^limit_storage has no effect",
        ),
        (
            {"settings": Settings(alert_store="sqlite+aiosqlite://"), "engine": AlertEngine()},
            r"^alert_store has no effect if TokenPulse is given an engine",
        ),
        (
            {"settings": Settings(alert_interval=5), "engine": AlertEngine()},
            "^alert_interval has no effect if TokenPulse is given an engine: leave it out, or",
        ),
        ({"sinks": [LogSink()], "engine": AlertEngine()}, "^give sinks to the AlertEngine, or lea"),
        ({"thresholds": Thresholds(), "engine": AlertEngine()}, "^give thresholds to the AlertEng"),
        ({"sinks": LogSink()}, "^sinks must be a list of functions of an AlertEvent"),
        ({"limit": "1/day", "policies": [Policy("5/minute")]}, "^give limit or policies, not both"),
        ({"observers": [3]}, "^observers must be instances of Observer"),
        ({"exempt": "/docs"}, "^exempt must be a list of strings"),
        ({"respond": 3}, "^respond must be a function"),
        ({"on_decision": 3}, "^on_decision must be a function"),
        ({"settings": Settings(limit_storage="redis://x")}, "storage"),
        (
            {"settings": Settings(trusted_proxies=("me",))},
            "^trusted_proxies must be addresses or networks .* got 'me'",
        ),
        ({"providers": ["Claude!"]}, "provider name must be 1 to 64"),
        ({"models": Models()}, "^give models to the HttpMetrics, or leave metrics out"),
        (
            {"settings": Settings(models=("gpt-5",))},
            "^models has no effect if TokenPulse is given metrics: leave it out, or give it to the",
        ),
        (
            {"models": Models(), "metrics": None, "settings": Settings(models=("gpt-5",))},
            "^models has no effect if TokenPulse is given models: leave it out, or give it to the",
        ),
        (
            {"metrics": None, "settings": Settings(model_aliases=("gpt-5",))},
            """^model_aliases must be a list of "alias=model", got 'gpt-5'""",
        ),
        (
            {"metrics": None, "settings": Settings(model_aliases=("a b=gpt-5",))},
            "^model_aliases must be the name of a model or a pattern",
        ),
        (
            {"metrics": None, "settings": Settings(models=("gpt-5*",))},
            "^models must be 1 to 128 ASCII letters",
        ),
    ],
)
def test_malformed_arguments_are_refused_at_construction(
    options: dict[str, object], metrics: HttpMetrics, message: str
) -> None:
    """An invalid argument is rejected before the server starts."""
    with pytest.raises(ValueError, match=message):
        TokenPulse(**{"settings": Settings(), "metrics": metrics, **options})  # type: ignore[arg-type]


def test_only_applications_can_be_wrapped(metrics: HttpMetrics) -> None:
    """The error is raised by `wrap`, not by the first request."""
    with pytest.raises(ValueError, match=r"^wrap\(\) needs an ASGI application, got 'app'$"):
        TokenPulse(settings=Settings(), metrics=metrics).wrap("app")  # type: ignore[arg-type]


def test_a_lifespan_that_does_not_run_logs_a_warning(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The first scrape reports that alerts are not evaluated."""
    app = Starlette()
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    with TestClient(app) as client:
        client.get("/metrics")
    assert not caplog.messages
    for _ in range(2):
        TestClient(app).get("/metrics")

    assert [message[:48] for message in caplog.messages] == [
        "TokenPulse does not run, so alerts are not evalu"
    ]


def test_a_short_token_logs_a_warning(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning has the length of the token, not the token."""
    TokenPulse(settings=Settings(admin_token="hunter2"), metrics=metrics)

    assert caplog.messages == ["admin_token has 7 characters and can be guessed: use at least 16"]


@pytest.mark.parametrize("after", [False, True])
def test_tenants_annotated_by_an_outer_middleware_are_limited(
    after: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A middleware added after `install` runs before the limit; one added before is too late."""

    class Authentication:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, tenant="acme")
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    if not after:
        app.add_middleware(Authentication)
    policies = [Policy("1/day", key=keys.annotation("tenant"))]
    TokenPulse(settings=Settings(), policies=policies, metrics=metrics).install(app)
    if after:
        app.add_middleware(Authentication)

    statuses = [TestClient(app).get("/chat").status_code for _ in range(3)]

    assert statuses == ([200, 429, 429] if after else [200, 200, 200])
    assert bool(caplog.messages) is not after


@pytest.mark.anyio
async def test_token_budgets_alert_before_they_are_exhausted(metrics: HttpMetrics) -> None:
    """A client that has used 90 % of its tokens fires `quota_exceeded`."""
    limiter = Limiter("1000/day")
    tokens = Policy(limiter, name="tokens", tokens=10, key=keys.annotation("tenant"))
    pulse = TokenPulse(settings=Settings(), metrics=metrics, policies=[tokens])
    limiter.hit("acme", 950)

    (event,) = await pulse.engine.evaluate()

    assert event.fingerprint == "quota_exceeded:key:acme"
    assert (event.finding.severity, event.finding.metadata["used"]) == ("warning", 950)


@pytest.mark.anyio
async def test_budgets_in_money_alert_before_they_are_used_up(metrics: HttpMetrics) -> None:
    """A client that has used 80 % of its dollars fires `budget`, and not `quota_exceeded`."""
    money = Policy("20 USD/day", name="dollars", key=keys.annotation("tenant"))
    pulse = TokenPulse(settings=Settings(), metrics=metrics, policies=[money])
    with fake_clock(pulse) as clock:
        limiter = money.limiter
        assert isinstance(limiter, Limiter)
        limiter.hit("acme", 15_800_000)
        assert await pulse.engine.evaluate() == []
        fired = []
        for _ in range(5):
            clock.advance(60)
            limiter.hit("acme", 200_000)
            fired += await pulse.engine.evaluate()
        (finding,) = (await pulse.engine.dry_run()).findings

    assert [(event.fingerprint, event.finding.severity) for event in fired] == [
        ("budget:dollars:acme", "warning")
    ]
    assert "has used 16.80 of 20.00 USD (84.0 %), empty at about " in finding.message


def test_alerts_are_stored_in_the_database_of_the_settings(
    metrics: HttpMetrics, tmp_path: Path
) -> None:
    """After a restart, the alerts still fire and the edited thresholds apply."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"

    async def run(limited: bool) -> list[str]:
        pulse = TokenPulse(settings=Settings(alert_store=url), metrics=metrics)
        async with pulse.lifespan():
            for _ in range(10 if limited else 0):
                pulse.engine.observe(Exchange("POST", 0.0, provider="claude", status=502))
            await pulse.engine.evaluate()
            return sorted(finding.fingerprint for finding in pulse.engine.firing)

    first, second = anyio.run(run, True), anyio.run(run, False)

    assert first == ["provider_down:provider:claude"] == second


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_process_that_must_not_lead_evaluates_nothing(
    metrics: HttpMetrics, tmp_path: Path
) -> None:
    """With `alert_leads=False` another process of the store evaluates the alerts."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    engines = [
        TokenPulse(settings=Settings(alert_store=url, alert_leads=leads), metrics=metrics).engine
        for leads in (False, True)
    ]

    for engine in engines:
        await engine.evaluate()

    assert [engine.leads for engine in engines] == [False, True]
    for engine in engines:
        await engine.store.aclose()


def test_metrics_include_the_state_of_the_engine(metrics: HttpMetrics) -> None:
    """The last evaluation, the queue of each sink, and the overflow of subjects are metrics."""

    async def hangs(event: AlertEvent) -> None:
        raise OSError("down")

    engine = AlertEngine(sinks=[hangs], max_subjects=1, wall=lambda: 1.7e9)
    pulse = TokenPulse(settings=Settings(), metrics=metrics, engine=engine)
    for master in ("acme", "umbrella"):
        engine.observe(Exchange("POST", 0.0, provider="claude", tenant=master, limited=True))
    anyio.run(pulse.engine.evaluate)

    shown = metrics.render().decode()
    assert "tokenpulse_alert_last_evaluation_timestamp_seconds 1.7e+09" in shown
    assert 'tokenpulse_alert_notification_queue_length{sink="hangs"} 2.0' in shown
    assert "tokenpulse_alert_subject_overflow_total 3.0" in shown


@pytest.mark.anyio
async def test_metrics_of_alerts_are_those_of_the_leader() -> None:
    """Of processes that share a store, one has them; another one that takes over has them then."""
    store, clock = MemoryAlertStore(), FakeClock()
    pulses = [
        TokenPulse(
            settings=Settings(),
            metrics=HttpMetrics(CollectorRegistry()),
            engine=AlertEngine(store=store, clock=clock),
        )
        for _ in range(2)
    ]

    def shown(pulse: TokenPulse, name: str) -> list[float]:
        pulse.metrics.refresh()
        (family,) = [
            rows for family, rows in pulse.metrics.series() if family.name == f"tokenpulse_{name}"
        ]
        return [row[0] for row in family.values()]

    async def states() -> list[tuple[list[float], int]]:
        for pulse in pulses:
            await pulse.engine.evaluate()
        return [
            (
                shown(pulse, "alert_fleet_leader"),
                len(shown(pulse, "alert_last_evaluation_timestamp_seconds")),
            )
            for pulse in pulses
        ]

    before = await states()
    queues = [len(shown(pulse, "alert_notification_queue_length")) for pulse in pulses]
    members = [shown(pulse, "alert_fleet_members") for pulse in pulses]
    pulses[0].engine.observe(Exchange("POST", 0.0, provider="claude", status=200))
    clock.advance(10)
    await pulses[1].engine.fleet()
    clock.advance(16)
    await pulses[1].engine.fleet()
    after = await states()

    assert before == [([1], 1), ([0], 0)]
    assert after == [([0], 0), ([1], 1)]
    assert (queues, members) == ([1, 0], [[1], [2]])
    assert [shown(pulse, "alert_fleet_behind_seconds") for pulse in pulses] == [[0], [0]]
    heartbeats = {"result": "ok"}
    name = "tokenpulse_alert_heartbeats_total"
    assert pulses[0].metrics.registry.get_sample_value(name, heartbeats) == 2
    assert shown(pulses[1], "alert_late_total") == [1]  # the first process sent it after 26 s


def test_access_log_has_the_request_id(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """With `access_log`, the id is in the response and in the line of the request."""
    caplog.set_level("INFO", logger="tokenpulse_mw.access")
    app = TokenPulse(settings=Settings(access_log=True), metrics=metrics).wrap(answering())

    response = TestClient(app).get("/claude/chat", headers={"x-request-id": "r-1"})

    assert response.headers["x-request-id"] == "r-1"
    (line,) = caplog.messages
    assert line.startswith("GET /{path} 200 provider=claude outcome=complete")
    assert line.endswith("request_id=r-1")


def test_access_log_has_tenant_and_credential_with_their_names(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever an id stands, its name stands too; the client's API key is not logged."""
    caplog.set_level("INFO", logger="tokenpulse_mw.access")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant="7", tenant_name="Acme Ltd", api_key="k1")
        annotate(scope, credential="c1", credential_group="claude-prod")
        await answering()(scope, receive, send)

    pulse = TokenPulse(settings=Settings(access_log=True), metrics=metrics)
    TestClient(pulse.wrap(app)).get("/claude/chat")

    (record,) = caplog.records
    names = ' tenant=7 tenant_name="Acme Ltd" credential=c1 credential_group=claude-prod '
    assert names in record.getMessage()
    assert vars(record)["credential_group"] == "claude-prod"
    assert "k1" not in record.getMessage()


@pytest.mark.parametrize("metered", [True, False])
def test_usage_of_websockets_is_metered_if_it_is_set(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture, metered: bool
) -> None:
    """With `websocket_usage`, metrics, alerts, access log and token limits have each response."""
    caplog.set_level("INFO", logger="tokenpulse_mw.access")
    settings = Settings(websocket_usage=metered, access_log=True)
    limiter = Limiter("1000/minute")
    policy = Policy(limiter, name="tokens", key=keys.annotation("tenant"), tokens=5)
    pulse = TokenPulse(settings=settings, metrics=metrics, inner_policies=[policy])
    frames = [response("response.completed", "r", responses_usage(read=30, written=4))] * 2

    async def live(websocket: WebSocket) -> None:
        await websocket.accept()
        for frame in frames:
            await websocket.send_text(frame)
        await websocket.close()

    class Authentication:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "websocket":
                annotate(scope, tenant="acme")
            await self.app(scope, receive, send)

    app = Starlette(routes=[WebSocketRoute("/codex/live", live)])
    app.add_middleware(Authentication)
    pulse.install(app)
    with TestClient(app) as client, client.websocket_connect("/codex/live") as websocket:
        assert [websocket.receive_text() for _ in frames] == frames

    tokens = metrics.registry.get_sample_value(
        "tokenpulse_llm_tokens_total",
        {"provider": "codex", "model": "gpt-5.3-codex", "kind": "input"},
    )
    assert tokens == (60 if metered else None)
    lines = [line for line in caplog.messages if line.startswith("WEBSOCKET /codex/live 101 ")]
    assert len(lines) == (2 if metered else 0)
    assert all("request_id=" in line for line in lines)
    assert limiter.peek("acme").remaining == 1000 - (68 if metered else 5)


@pytest.mark.parametrize("group", [None, "claude-prod"])
def test_a_provider_that_is_down_is_a_warning_of_readiness(
    metrics: HttpMetrics, group: str | None
) -> None:
    """The service stays ready, and authorized requests see the provider."""
    pulse = TokenPulse(settings=Settings(admin_token=TOKEN), metrics=metrics)
    failure = {"provider": "claude", "credential": "c1", "credential_group": group, "status": 502}
    for _ in range(10):
        pulse.engine.observe(Exchange("POST", 0.0, **failure))  # type: ignore[arg-type]
    anyio.run(pulse.engine.evaluate)
    client = TestClient(pulse.wrap(answering()))

    plain = client.get("/health/ready")
    events = client.get(
        "/health/ready",
        headers={"accept": "application/health+json", "authorization": f"Bearer {TOKEN}"},
    )

    assert (plain.status_code, plain.json()) == (200, {"status": "warn"})
    assert events.json()["checks"]["claude:consecutiveFailures"][0]["observedValue"] == 10


@pytest.mark.parametrize("deploy", [install, wrap])
def test_operators_have_the_admin_endpoints(deploy: Installer, metrics: HttpMetrics) -> None:
    """The admin token of the settings opens them, even when the client is limited."""
    settings = Settings(admin_token=TOKEN, limit="1/day")
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])
    pulse = TokenPulse(settings=settings, metrics=metrics)
    served: ASGIApp = app
    if deploy is install:
        pulse.install(app)
    else:
        served = pulse.wrap(app)
    client = TestClient(served, headers={"authorization": f"Bearer {TOKEN}"})

    responses = [
        client.get("/admin/alerts").json(),
        client.get("/admin/alerts/silences/none").json()["title"],
        client.get("/admin/settings").json().keys(),
        client.get("/admin/settings/").json().keys(),
        client.get("/admin/alerts/").json()["title"],
        client.get("/admin/other").text,
        client.post("/admin/alerts/a1/ack").status_code,
        client.get("/admin/other").status_code,
        client.get("/admin/alerts", headers={"authorization": "Bearer guess"}).status_code,
        client.get("/admin/alerts").status_code,
    ]

    assert responses == [
        {"alerts": [], "next": None},
        "Not Found",
        {"log_level"},
        {"log_level"},
        "Not Found",
        "proxied",
        404,
        429,  # the application's own path
        429,  # a wrong token
        200,
    ]


def test_without_an_admin_token_no_admin_endpoint_is_served(metrics: HttpMetrics) -> None:
    """Requests below /admin reach the application."""
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])
    wrapped = TokenPulse(settings=Settings(), metrics=metrics).wrap(app)

    assert TestClient(wrapped).get("/admin/alerts").text == "proxied"


def test_the_state_of_credentials_is_not_limited(metrics: HttpMetrics) -> None:
    """The script of the monitoring guide would take a 429 for success."""
    pulse = TokenPulse(settings=Settings(limit="1/day"), metrics=metrics, credentials={"a": False})
    client = TestClient(pulse.wrap(answering()))

    responses = [client.get("/api/credentials/status") for _ in range(3)]

    assert [response.json() for response in responses] == [{"a": False}] * 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LIMIT": "100"}, "LIMIT must be one rate .* got '100': add the window, .* '100/minute'$"),
        ({"MAX_REQUESTS": "9" * 15}, "MAX_REQUESTS must allow at most 281474976710655 per window"),
        ({"LIMIT_STORAGE": "mongodb://x"}, "LIMIT_STORAGE must have .* use one of redis, rediss"),
        ({"METRICS_TOKEN": "a b"}, "METRICS_TOKEN must be one or more printable characters"),
        ({"METRICS_TOKEN": " "}, "METRICS_TOKEN must not be empty: set a token, or remove"),
        ({"ADMIN_TOKEN": "a b"}, "ADMIN_TOKEN must be one or more printable characters"),
        ({"ALERT_STORE": "alerts.db"}, "ALERT_STORE must be the URL of a database, such as"),
        ({"TRUSTED_PROXIES": "me"}, "TRUSTED_PROXIES must be addresses or networks such as"),
        ({"CLIENT_HEADER": "a b"}, "CLIENT_HEADER must be letters, digits and dashes such as"),
        ({"ALERT_SLACK_URL": "slack"}, "ALERT_SLACK_URL must be 'http://' or 'https://', a host"),
        ({"ALERT_ALERTMANAGER_URL": "a"}, "ALERT_ALERTMANAGER_URL must be 'http://' or 'https"),
        ({"ALERT_WEBHOOK_URL": "a"}, "ALERT_WEBHOOK_URL must be 'http://' or 'https://', a host"),
        (
            {"ALERT_WEBHOOK_URL": "https://a", "ALERT_WEBHOOK_SECRET": "a"},
            "ALERT_WEBHOOK_SECRET must be 'whsec_' and",
        ),
    ],
)
def test_an_invalid_variable_is_refused_at_construction(
    variables: dict[str, str],
    message: str,
    metrics: HttpMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the one variable that is at fault, in the place of the parameter."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TOKENPULSE_{name}", value)

    with pytest.raises(ValueError, match=f"^TOKENPULSE_{message}"):
        TokenPulse(metrics=metrics)


def test_an_error_about_a_package_names_the_variable(
    metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator has chosen the driver by the variable."""
    monkeypatch.setenv("TOKENPULSE_ALERT_STORE", "postgresql://u:hunter2@h/d")
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ValueError, match=r"pip install asyncpg \(set by TOKENPULSE_ALERT_STORE\)$"):
        TokenPulse(metrics=metrics)


@pytest.mark.parametrize(
    ("settings", "options", "name"),
    [
        (Settings(limit_prefix="own"), {}, "limit_prefix"),
        (Settings(limit_on_error="deny"), {}, "limit_on_error"),
        (Settings(alert_webhook_secret="whsec_c2VjcmV0"), {}, "alert_webhook_secret"),
        (Settings(alert_leads=False), {}, "alert_leads"),
        (Settings(alert_alone_after=None), {}, "alert_alone_after"),
        (Settings(limit_response="openai"), {"respond": problem_details}, "limit_response"),
    ],
)
def test_a_setting_without_effect_logs_a_warning(
    settings: Settings,
    options: dict[str, Any],
    name: str,
    metrics: HttpMetrics,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A setting that needs another one is not ignored without a log line."""
    TokenPulse(settings=settings, metrics=metrics, **options)

    assert [message.partition(";")[0] for message in caplog.messages] == [
        f"setting has no effect: name={name}"
    ]


@pytest.mark.parametrize(
    "options",
    [{"limit": None}, {"limit": "off"}, {"policies": []}, {"settings": Settings(limit=None)}],
    ids=["limit", "off", "policies", "settings"],
)
def test_a_gateway_may_have_no_limit(options: dict[str, Any], metrics: HttpMetrics) -> None:
    """Requests without a limit pass, without rate limit headers, and are measured."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    TokenPulse(metrics=metrics, **options).install(app)

    responses = [TestClient(app).get("/chat") for _ in range(150)]

    assert {response.status_code for response in responses} == {200}
    assert "ratelimit" not in responses[0].headers
    assert requests(metrics, method="GET", route="/chat", status="200", provider="unknown") == 150


def test_the_argument_limit_replaces_the_limit_of_the_settings(metrics: HttpMetrics) -> None:
    """All other settings of the limiter keep their effect."""
    pulse = TokenPulse(settings=Settings(limit="9/day", max_keys=7), limit="2/day", metrics=metrics)

    (policy,) = pulse.policies
    assert isinstance(policy.limiter, Limiter)
    assert (policy.limiter.limit, policy.limiter.max_keys) == (2, 7)


def test_a_gateway_can_be_unlimited_for_a_time(metrics: HttpMetrics) -> None:
    """Inside `unlimited()`, requests neither count nor are rejected."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    pulse = TokenPulse(limit="1/day", metrics=metrics)
    pulse.install(app)
    client = TestClient(app)

    with pulse.unlimited():
        assert [client.get("/chat").status_code for _ in range(3)] == [200] * 3
    assert [client.get("/chat").status_code for _ in range(2)] == [200, 429]


def test_the_limit_takes_the_options_of_its_middleware(metrics: HttpMetrics) -> None:
    """`exempt`, `respond` and `on_decision` need no middleware built by hand."""
    decided: list[bool] = []
    app = Starlette(
        routes=[
            Route("/chat", lambda request: PlainTextResponse("hi")),
            Route("/docs", lambda request: PlainTextResponse("docs")),
        ]
    )
    TokenPulse(
        limit="1/day",
        exempt=["/docs*"],
        respond=problem_details,
        on_decision=lambda scope, decision: decided.append(decision.allowed),
        metrics=metrics,
    ).install(app)
    client = TestClient(app)

    assert [client.get("/docs").status_code for _ in range(3)] == [200] * 3
    assert client.get("/chat").status_code == 200
    assert client.get("/chat").json()["title"] == "Too Many Requests"
    assert decided == [True, False]


def test_limits_in_a_storage_share_it(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A rate given to `limit()` counts in the storage of the settings under its name."""
    settings = Settings(limit_storage="async+redis://127.0.0.1:1", limit_prefix="gw")
    shared = SharedLimiter("9/minute", storage="async+redis://127.0.0.1:1", prefix="gw:team")
    policies = [
        Policy("5/minute", name="tenant", key=keys.annotation("tenant")),
        Policy(shared, name="team", key=keys.header("x-team")),
    ]
    pulse = TokenPulse(settings=settings, inner_policies=policies, metrics=metrics)
    route_limit = pulse.limit("20/minute").policy.limiter

    with pytest.raises(ValueError, match=r"^limit must be one rate .* got 'often'[^(]*$"):
        pulse.limit("often")
    assert isinstance(route_limit, SharedLimiter)
    assert "gw:20-per-minute" in str(route_limit.counters)
    assert [message.partition(";")[0] for message in caplog.messages] == [
        "policy counts in each process alone: policy=tenant"
    ]


def test_own_metrics_of_the_application_are_not_hidden(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning says that the token does not protect them, and how to join both."""
    app = Starlette(routes=[Route("/metrics", lambda request: PlainTextResponse("own"))])
    TokenPulse(settings=Settings(metrics_token="s3cret"), metrics=metrics).install(app)

    assert TestClient(app).get("/metrics").text == "own"
    assert "metrics_token does not protect it" in caplog.text
    assert "TokenPulse(metrics=HttpMetrics())" in caplog.text


def test_install_into_a_started_application_is_rejected(metrics: HttpMetrics) -> None:
    """Starlette builds its middleware at the first request or the lifespan."""
    app = Starlette()
    TestClient(app).get("/")

    with pytest.raises(ValueError, match=r"^install\(\) must be called before the application sta"):
        TokenPulse(metrics=metrics).install(app)


@pytest.mark.anyio
async def test_observers_and_sinks_are_added_to_the_default_ones(metrics: HttpMetrics) -> None:
    """An application gets its exchanges and its notifications without building an engine."""
    exchanges: list[Exchange] = []
    events: list[AlertEvent] = []
    pulse = TokenPulse(
        limit="1/day",
        observers=[exchanges.append],
        sinks=[events.append],
        thresholds=Thresholds(global_qps=1e9),
        metrics=metrics,
    )
    app = pulse.wrap(answering())

    assert [(await drive(app)).status for _ in range(2)] == [200, 429]
    async with pulse.lifespan():
        await pulse.engine.evaluate()

    assert [exchange.status for exchange in exchanges] == [200, 429]
    assert [event.finding.type for event in events] == ["rate_limit"]
    assert pulse.engine.controls.thresholds.global_qps == 1e9


def test_sinks_of_the_settings_are_built(metrics: HttpMetrics) -> None:
    """Slack, a signed webhook and a cluster of Alertmanagers need no code."""
    settings = Settings(
        alert_slack_url="https://hooks.slack.example/T0/B0",
        alert_webhook_url="https://hooks.example/alerts",
        alert_webhook_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        alert_alertmanager_url="http://a.example:9093, http://b.example:9093",
    )
    pulse = TokenPulse(settings=settings, sinks=[LogSink()], metrics=metrics)

    assert pulse.engine.sinks == ("LogSink", "SlackSink", "WebhookSink", "AlertmanagerSink")


@pytest.mark.anyio
async def test_alerts_can_be_switched_off(metrics: HttpMetrics) -> None:
    """Without alerts, nothing is evaluated, and the admin API of alerts is not served."""
    settings = Settings(alerts=False, admin_token=TOKEN, limit="1/day")
    pulse = TokenPulse(settings=settings, metrics=metrics)
    app = pulse.wrap(answering())

    async with pulse.lifespan():
        assert [(await drive(app)).status for _ in range(2)] == [200, 429]
        await pulse.engine.evaluate()

    assert pulse.engine.firing == []
    paths = {route.path for route in pulse.routes if isinstance(route, Route)}
    assert "/admin/settings" in paths
    assert not any(path.startswith("/admin/alerts") for path in paths)


@pytest.mark.usefixtures("logging_as_it_was")
def test_logging_is_configured_from_the_settings(
    metrics: HttpMetrics, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logging is configured when the application starts."""
    settings = Settings(log_level="INFO", log_format="json", access_log=True)
    app = Starlette()
    TokenPulse(settings=settings, metrics=metrics).install(app)

    with TestClient(app) as client:
        client.get("/nowhere")

    line = json.loads(capsys.readouterr().err.splitlines()[-2])  # the engine stops last
    assert (line["module"], line["route"], line["status"]) == (
        "tokenpulse_mw.access",
        "__unmatched__",
        404,
    )


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_format_alone_configures_logging_at_info(
    metrics: HttpMetrics, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lines of the server have the same format."""
    app = Starlette()
    TokenPulse(settings=Settings(log_format="json"), metrics=metrics).install(app)

    with TestClient(app):
        logging.getLogger("uvicorn.error").info("started")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert ("uvicorn.error", "started") in [(line["module"], line["message"]) for line in lines]


@pytest.mark.usefixtures("logging_as_it_was")
def test_an_access_log_below_the_log_level_logs_a_warning(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Without configuration, the log level is WARNING."""
    logging.getLogger().setLevel(logging.WARNING)
    app = Starlette()
    TokenPulse(settings=Settings(access_log=True), metrics=metrics).install(app)

    with TestClient(app):
        pass

    assert caplog.messages[0].startswith("access log not written")


def test_a_provider_that_is_down_is_a_warning_of_all_processes() -> None:
    """A process that does not lead warns from its next heartbeat on, and ends like the leader."""
    store = MemoryAlertStore()
    first, second = (
        TokenPulse(
            settings=Settings(),
            metrics=HttpMetrics(CollectorRegistry()),
            engine=AlertEngine(store=store, thresholds=Thresholds(keep_firing=0)),
        )
        for _ in range(2)
    )
    clients = [TestClient(pulse.wrap(answering())) for pulse in (first, second)]

    def statuses() -> list[str]:
        for step in (second.engine.evaluate, first.engine.evaluate, second.engine.fleet):
            anyio.run(step)  # the second sends its traffic, the first evaluates, the second reads
        return [client.get("/health/ready").json()["status"] for client in clients]

    anyio.run(first.engine.evaluate)
    before = statuses()
    for number in range(10):  # half of the failures in each process
        engine = (first, second)[number % 2].engine
        engine.observe(Exchange("POST", 0.0, provider="claude", status=502))
    down = statuses()
    second.engine.observe(Exchange("POST", 0.0, provider="claude", status=200))

    assert (before, down, statuses()) == (["ok", "ok"], ["warn", "warn"], ["ok", "ok"])
    assert (first.engine.leads, second.engine.leads) == (True, False)

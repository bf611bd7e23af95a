"""TokenPulse: everything in one call."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    AlertEngine,
    AlertEvent,
    Exchange,
    HttpMetrics,
    InFlight,
    Limiter,
    LogSink,
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
from tokenpulse_mw.secret import hide_url

from .support.apps import answering
from .support.asgi import drive, http_scope
from .support.waiting import PATIENCE

TOKEN = "a-token-that-nobody-guesses"

Installer = Callable[[Starlette, HttpMetrics], ASGIApp]


def requests(metrics: HttpMetrics, **labels: str) -> float | None:
    """How many requests with these labels were counted."""
    return metrics.registry.get_sample_value("tokenpulse_http_requests_total", labels)


def decisions(metrics: HttpMetrics, **labels: str) -> float | None:
    """How many decisions with these labels were counted."""
    return metrics.registry.get_sample_value("tokenpulse_rate_limit_decisions_total", labels)


def test_installed_in_fastapi(metrics: HttpMetrics) -> None:
    """150 requests of one client: 100 answered, 50 refused, all 150 under route and provider."""
    app = FastAPI()

    @app.post("/{vendor}/v1/chat/completions")
    async def chat(vendor: str) -> dict[str, str]:
        return {"from": vendor}

    TokenPulse(providers=["codex"], settings=Settings(), metrics=metrics).install(app)
    with TestClient(app) as client:
        answers = [client.post("/codex/v1/chat/completions") for _ in range(150)]
        other = TestClient(app, client=("192.0.2.2", 1)).post("/codex/v1/chat/completions")

    assert [answer.status_code for answer in answers] == [200] * 100 + [429] * 50
    assert answers[-1].text == "Too Many Requests"
    assert answers[-1].headers["content-type"].startswith("text/plain")
    assert int(answers[-1].headers["retry-after"]) >= 1
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
    """Everything installed into `app`."""
    TokenPulse(service="oauth2api", settings=Settings(limit="2/day"), metrics=metrics).install(app)
    return app


def wrap(app: Starlette, metrics: HttpMetrics) -> ASGIApp:
    """Everything wrapped around `app`."""
    settings = Settings(limit="2/day")
    return TokenPulse(service="oauth2api", settings=settings, metrics=metrics).wrap(app)


@pytest.mark.parametrize("put_in", [install, wrap])
def test_the_endpoints_answer_before_a_catch_all(put_in: Installer, metrics: HttpMetrics) -> None:
    """A proxy's route for everything does not swallow them; they are not limited or counted."""
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])

    with TestClient(put_in(app, metrics)) as client:
        for _ in range(3):
            assert client.get("/health").json()["service"] == "oauth2api"
            assert client.get("/health/ready").json() == {"status": "ok"}
            assert "tokenpulse_http_requests_in_progress 0.0" in client.get("/metrics").text
        assert client.get("/anything").text == "proxied"
        assert "tokenpulse_http_requests_total{" in client.get("/metrics").text
        assert 'route="/{path}",status="200"' in client.get("/metrics").text
        assert requests(metrics, method="GET", route="/health", status="200") is None


@pytest.mark.parametrize("put_in", [install, wrap])
def test_the_applications_lifespan_is_kept(put_in: Installer, metrics: HttpMetrics) -> None:
    """It runs, and its state reaches the requests."""
    story: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, str]]:
        story.append("begin")
        yield {"name": "kept"}
        story.append("end")

    async def name(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.state.name)

    app = Starlette(routes=[Route("/name", name)], lifespan=lifespan)

    with TestClient(put_in(app, metrics)) as client:
        assert client.get("/name").text == "kept"
    assert story == ["begin", "end"]


def test_an_opaque_application_is_wrapped(metrics: HttpMetrics) -> None:
    """A vendor's ASGI callable without routes or lifespan gets everything as well."""
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
async def test_alerts_are_evaluated_while_the_application_lives(metrics: HttpMetrics) -> None:
    """An error spike fires once while failures last, and is resolved once after."""
    told: list[AlertEvent] = []
    resolved = anyio.Event()

    async def sink(event: AlertEvent) -> None:
        told.append(event)
        if event.transition == "resolved":
            resolved.set()

    engine = AlertEngine(
        sinks=[sink],
        interval=0.01,
        thresholds=Thresholds(error_window=1, provider_failures=None),
    )
    pulse = TokenPulse(settings=Settings(limit="1000/day"), engine=engine, metrics=metrics)

    async def failing(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k1")
        await answering(status=503)(scope, receive, send)

    app = pulse.wrap(failing)
    async with pulse.lifespan():
        with anyio.fail_after(PATIENCE):
            while not told:
                await _post(app)
            await resolved.wait()

    assert [(event.transition, event.fingerprint) for event in told] == [
        ("fired", "error_spike:key:k1"),
        ("resolved", "error_spike:key:k1"),
    ]


async def _post(app: ASGIApp) -> None:
    await drive(app, http_scope("/chat", method="POST"))
    await anyio.lowlevel.checkpoint()


def test_a_service_that_shuts_down_is_not_ready(metrics: HttpMetrics) -> None:
    """It lives on until the server ends, but wants no more requests."""
    app = Starlette()
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    pulse.install(app)
    client = TestClient(app)

    with client:
        assert client.get("/health/ready").status_code == 200
    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/live").status_code == 200


def test_credentials_and_checks_are_passed_on(metrics: HttpMetrics) -> None:
    """The endpoints are told what only the gateway knows."""
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
async def test_the_metrics_show_the_limits_the_alerts_and_the_providers(
    metrics: HttpMetrics,
) -> None:
    """What no single exchange tells is looked up by the scrape."""
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


def test_the_scrape_asks_for_the_token(metrics: HttpMetrics) -> None:
    """Without it there is nothing to see."""
    app = Starlette()
    TokenPulse(settings=Settings(metrics_token="s3cret"), metrics=metrics).install(app)
    client = TestClient(app)

    assert client.get("/metrics").status_code == 404
    allowed = client.get("/metrics", headers={"authorization": "Bearer s3cret"})
    assert allowed.status_code == 200


def test_an_empty_token_is_refused(metrics: HttpMetrics) -> None:
    """A variable that is set to nothing must not open the door."""
    with pytest.raises(ValueError, match="token must be"):
        TokenPulse(settings=Settings(metrics_token=""), metrics=metrics)


def test_a_path_that_the_application_serves_is_left_to_it(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own /health answers, and the log says so."""
    app = Starlette(routes=[Route("/health", lambda request: PlainTextResponse("mine"))])
    TokenPulse(settings=Settings(), metrics=metrics).install(app)
    client = TestClient(app)

    assert client.get("/health").text == "mine"
    assert client.get("/health/live").json() == {"status": "ok"}
    assert [record.getMessage() for record in caplog.records] == [
        "the application serves /health itself; its own is kept, and limited"
    ]


def test_an_included_routers_path_is_left_to_it(metrics: HttpMetrics) -> None:
    """Also where the path is put together from prefixes, or is a mount."""
    router = APIRouter(prefix="/health")

    @router.get("/live")
    async def live() -> str:
        return "mine"

    app = FastAPI()
    app.include_router(router)
    app.mount("/metrics", answering(b"mine"))

    @app.post("/health")
    async def post() -> str:
        return "mine"

    TokenPulse(settings=Settings(), metrics=metrics).install(app)
    client = TestClient(app)

    assert client.get("/health/live").json() == "mine"
    assert client.get("/metrics/").text == "mine"
    assert client.get("/health").json()["status"] == "ok"
    assert client.post("/health").json() == "mine"


def test_what_only_looks_like_our_path_is_not_the_applications(metrics: HttpMetrics) -> None:
    """A WebSocket, another host's page or a catch-all does not keep our endpoints out."""
    app = Starlette(
        routes=[
            WebSocketRoute("/health", answering()),
            Host("other.example", Starlette(routes=[Route("/health", answering())])),
            Route("/{path:path}", answering()),
        ]
    )
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    assert TestClient(app).get("/health").json()["status"] == "ok"


def test_below_an_opaque_mount_everything_is_left_to_it(metrics: HttpMetrics) -> None:
    """What is mounted on `/health` may serve any path there."""
    app = Starlette(routes=[Mount("/health", answering(b"mine"))])
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    assert TestClient(app).get("/health/live").text == "mine"


def test_below_a_mount_the_endpoints_are_not_limited(metrics: HttpMetrics) -> None:
    """Where the whole gateway hangs below a prefix, its probes do too."""
    settings = Settings(limit="1/day")
    app = Starlette()
    app.mount("/llm", TokenPulse(settings=settings, metrics=metrics).wrap(answering()))
    client = TestClient(app)

    statuses = [client.get("/llm/health/live").status_code for _ in range(3)]
    assert statuses == [200, 200, 200]
    assert [client.get("/llm/healthy").status_code for _ in range(2)] == [200, 429]


def test_installing_twice_is_refused(metrics: HttpMetrics) -> None:
    """Every request would count twice against its limit."""
    app = Starlette()
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    pulse.install(app)

    with pytest.raises(ValueError, match="installed in the application already"):
        pulse.install(app)


def test_only_starlette_applications_can_be_installed_into(metrics: HttpMetrics) -> None:
    """Any other is told of wrap()."""
    with pytest.raises(ValueError, match=r"got <function .*; use wrap\(\)"):
        TokenPulse(settings=Settings(), metrics=metrics).install(answering())  # type: ignore[arg-type]


def test_providers_can_say_how_they_are_told_apart(metrics: HttpMetrics) -> None:
    """A `Providers` of one's own takes the place of the list."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    providers = Providers(["mine"], resolver=lambda scope: "mine")
    TokenPulse(providers=providers, settings=Settings(), metrics=metrics).install(app)

    TestClient(app).get("/chat")

    assert requests(metrics, method="GET", route="/chat", status="200", provider="mine") == 1


def test_settings_come_from_the_environment(
    metrics: HttpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is on call can change a limit without touching code."""
    monkeypatch.setenv("TOKENPULSE_LIMIT", "7/day")

    assert TokenPulse(metrics=metrics).policies[0].limiter.limit == 7


def test_limits_can_be_several(metrics: HttpMetrics) -> None:
    """Policies take the place of the one limit that the settings make, and are told apart."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    policies = [
        Policy("1/day", name="key", key=keys.header("x-api-key")),
        Policy("9/day", name="ip"),
    ]
    pulse = TokenPulse(policies=policies, settings=Settings(), metrics=metrics)
    pulse.install(app)

    client = TestClient(app)
    answers = [client.get("/chat", headers={"x-api-key": "sk-1"}) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 429]
    assert answers[1].headers["ratelimit-policy"] == '"key";q=1;w=86400,"ip";q=9;w=86400'
    assert pulse.policies[1].limiter.limit == 9
    assert decisions(metrics, policy="key", decision="limited") == 1
    assert decisions(metrics, policy="ip", decision="allowed") == 2


def test_an_operator_can_choose_how_a_limit_shows(metrics: HttpMetrics) -> None:
    """Headers, body, strategy and where the client's address comes from are settings."""
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


def test_policies_without_a_key_know_the_proxies_too(metrics: HttpMetrics) -> None:
    """Else all clients behind a proxy that the settings name would share one limit."""
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


def test_a_shared_limit_is_made_as_the_settings_say(metrics: HttpMetrics) -> None:
    """Its storage, its prefix, and what is done without the storage."""
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


def test_an_operator_can_try_a_limit(metrics: HttpMetrics) -> None:
    """In shadow mode nobody is refused, and the metric says who would have been."""
    app = Starlette(routes=[Route("/chat", lambda request: PlainTextResponse("hi"))])
    settings = Settings(limit="1/day", limit_enforce=False)
    TokenPulse(settings=settings, metrics=metrics).install(app)

    assert [TestClient(app).get("/chat").status_code for _ in range(2)] == [200, 200]
    assert decisions(metrics, policy="default", decision="shadow") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": Settings(limit="often")}, "^limit 'often' is not a rate"),
        ({"limit": "often"}, "^limit 'often' is not a rate"),
        ({"settings": Settings(metrics_token="a b")}, "token"),
        ({"settings": Settings(alert_store="alerts.db")}, "^url must be "),
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
        ({"exempt": "/docs"}, "^exempt must be a list of paths"),
        ({"respond": 3}, "^respond must be a function"),
        ({"on_decision": 3}, "^on_decision must be a function"),
        ({"settings": Settings(limit_storage="redis://x")}, "storage"),
        (
            {"settings": Settings(trusted_proxies=("me",))},
            "trusted network 'me' is invalid",
        ),
        ({"providers": ["Claude!"]}, "provider name 'Claude!' is not usable"),
    ],
)
def test_malformed_arguments_are_refused_at_construction(
    options: dict[str, object], metrics: HttpMetrics, message: str
) -> None:
    """An invalid argument is refused before the server starts."""
    with pytest.raises(ValueError, match=message):
        TokenPulse(**{"settings": Settings(), "metrics": metrics, **options})  # type: ignore[arg-type]


def test_only_applications_can_be_wrapped(metrics: HttpMetrics) -> None:
    """The error comes when it is wrapped, and not with the first request."""
    with pytest.raises(ValueError, match=r"^wrap\(\) needs an ASGI application, got 'app'$"):
        TokenPulse(settings=Settings(), metrics=metrics).wrap("app")  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_what_runs_already_is_not_started_again(metrics: HttpMetrics) -> None:
    """It was put into two applications; when it has ended, it may run once more."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics)

    for _ in range(2):
        async with pulse.lifespan():
            with pytest.raises(
                RuntimeError, match=r"^this TokenPulse runs already: .* more than once"
            ):
                async with pulse.lifespan():
                    pytest.fail("it runs twice")


def test_an_application_whose_lifespan_nobody_runs_is_told_of_once(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The first scrape shows it: no alert would be evaluated, and nothing else says so."""
    app = Starlette()
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    with TestClient(app) as client:
        client.get("/metrics")
    assert not caplog.messages
    for _ in range(2):
        TestClient(app).get("/metrics")

    assert [each[:48] for each in caplog.messages] == [
        "TokenPulse does not run, so alerts are not evalu"
    ]


def test_a_token_that_can_be_guessed_is_warned_of(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Its length is told, and it is not."""
    TokenPulse(settings=Settings(admin_token="hunter2"), metrics=metrics)

    assert caplog.messages == ["admin_token has 7 characters and can be guessed: use at least 16"]


@pytest.mark.parametrize("after", [False, True])
def test_tenants_are_limited_who_are_told_outside_of_it_all(
    after: bool, metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """What is added after `install` stands outside, and is heard; what is within is too late."""

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
async def test_token_limits_are_quotas_that_alert(metrics: HttpMetrics) -> None:
    """Who has used 90 % of its tokens is told of before anything is refused."""
    limiter = Limiter("1000/day")
    tokens = Policy(limiter, name="tokens", tokens=10, key=keys.annotation("tenant"))
    pulse = TokenPulse(settings=Settings(), metrics=metrics, policies=[tokens])
    limiter.hit("acme", 950)

    (event,) = await pulse.engine.evaluate()

    assert event.fingerprint == "quota_exceeded:key:acme"
    assert (event.finding.severity, event.finding.metadata["used"]) == ("warning", 950)


def test_alerts_are_kept_where_the_settings_say(metrics: HttpMetrics, tmp_path: Path) -> None:
    """A restart of the gateway goes on with them, and with the thresholds that were set."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"

    async def run(limited: bool) -> list[str]:
        pulse = TokenPulse(settings=Settings(alert_store=url), metrics=metrics)
        async with pulse.lifespan():
            for _ in range(10 if limited else 0):
                pulse.engine.observe(Exchange("POST", 0.0, provider="claude", status=502))
            await pulse.engine.evaluate()
            return sorted(each.fingerprint for each in pulse.engine.firing)

    first, second = anyio.run(run, True), anyio.run(run, False)

    assert first == ["provider_down:provider:claude"] == second


def test_how_the_engine_fares_is_a_metric(metrics: HttpMetrics) -> None:
    """When it was last asked, what waits for a sink, and tenants there was no room for."""

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


def test_each_request_has_a_line_and_an_id_where_that_is_wanted(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer gives the id back, and the line has it too."""
    caplog.set_level("INFO", logger="tokenpulse_mw.access")
    app = TokenPulse(settings=Settings(access_log=True), metrics=metrics).wrap(answering())

    answer = TestClient(app).get("/claude/chat", headers={"x-request-id": "r-1"})

    assert answer.headers["x-request-id"] == "r-1"
    (line,) = caplog.messages
    assert line.startswith("GET /{path} 200 provider=claude outcome=complete")
    assert line.endswith("request_id=r-1")


def test_a_provider_that_is_down_is_a_warning_of_health(metrics: HttpMetrics) -> None:
    """Readiness says so with 200, and why to those who may know: a vendor is not our health."""
    pulse = TokenPulse(settings=Settings(admin_token=TOKEN), metrics=metrics)
    for _ in range(10):
        pulse.engine.observe(Exchange("POST", 0.0, provider="claude", credential="c1", status=502))
    anyio.run(pulse.engine.evaluate)
    client = TestClient(pulse.wrap(answering()))

    plain = client.get("/health/ready")
    told = client.get(
        "/health/ready",
        headers={"accept": "application/health+json", "authorization": f"Bearer {TOKEN}"},
    )

    assert (plain.status_code, plain.json()) == (200, {"status": "warn"})
    assert told.json()["checks"]["claude:consecutiveFailures"][0]["observedValue"] == 10


@pytest.mark.parametrize("put_in", [install, wrap])
def test_people_on_call_have_their_endpoints(put_in: Installer, metrics: HttpMetrics) -> None:
    """With the token that the settings have, and whatever is limited."""
    settings = Settings(admin_token=TOKEN, limit="1/day")
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])
    pulse = TokenPulse(settings=settings, metrics=metrics)
    served: ASGIApp = app
    if put_in is install:
        pulse.install(app)
    else:
        served = pulse.wrap(app)
    client = TestClient(served, headers={"authorization": f"Bearer {TOKEN}"})

    answers = [
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

    assert answers == [
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


def test_without_a_token_there_is_nothing_to_administer(metrics: HttpMetrics) -> None:
    """The application's own paths are its own."""
    app = Starlette(routes=[Route("/{path:path}", lambda request: PlainTextResponse("proxied"))])
    wrapped = TokenPulse(settings=Settings(), metrics=metrics).wrap(app)

    assert TestClient(wrapped).get("/admin/alerts").text == "proxied"


def test_a_script_that_asks_for_credentials_is_not_limited(metrics: HttpMetrics) -> None:
    """What it took a refusal for would be that all is fine."""
    pulse = TokenPulse(settings=Settings(limit="1/day"), metrics=metrics, credentials={"a": False})
    client = TestClient(pulse.wrap(answering()))

    answers = [client.get("/api/credentials/status") for _ in range(3)]

    assert [answer.json() for answer in answers] == [{"a": False}] * 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LIMIT": "100"}, r"^limit '100' is not a rate.* \(set by TOKENPULSE_LIMIT\)$"),
        ({"MAX_REQUESTS": "9" * 15}, r"is too large.* \(set by TOKENPULSE_MAX_REQUESTS\)$"),
        ({"LIMIT_STORAGE": "redis://x"}, r"\(set by TOKENPULSE_LIMIT_STORAGE\)$"),
        ({"METRICS_TOKEN": "a b"}, r"\(set by TOKENPULSE_METRICS_TOKEN\)$"),
        ({"ADMIN_TOKEN": "a b"}, r"\(set by TOKENPULSE_ADMIN_TOKEN\)$"),
        ({"ALERT_STORE": "alerts.db"}, r"\(set by TOKENPULSE_ALERT_STORE\)$"),
        ({"TRUSTED_PROXIES": "me"}, r"\(set by TOKENPULSE_TRUSTED_PROXIES\)$"),
        ({"ALERT_SLACK_URL": "slack"}, r"\(set by TOKENPULSE_ALERT_SLACK_URL\)$"),
        ({"ALERT_ALERTMANAGER_URL": "a"}, r"\(set by TOKENPULSE_ALERT_ALERTMANAGER_URL\)$"),
        ({"ALERT_WEBHOOK_URL": "a"}, r"\(set by TOKENPULSE_ALERT_WEBHOOK_URL\)$"),
    ],
)
def test_an_invalid_variable_is_refused_at_construction(
    variables: dict[str, str],
    message: str,
    metrics: HttpMetrics,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error ends with the one variable that is at fault."""
    for name, value in variables.items():
        monkeypatch.setenv(f"TOKENPULSE_{name}", value)

    with pytest.raises(ValueError, match=message):
        TokenPulse(metrics=metrics)


@pytest.mark.parametrize(
    ("settings", "options", "name"),
    [
        (Settings(limit_prefix="mine"), {}, "limit_prefix"),
        (Settings(limit_on_error="deny"), {}, "limit_on_error"),
        (Settings(alert_webhook_secret="whsec_c2VjcmV0"), {}, "alert_webhook_secret"),
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
    [{"limit": None}, {"policies": []}, {"settings": Settings(limit=None)}],
    ids=["limit", "policies", "settings"],
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
    paths = {route.path for route in pulse.routes}
    assert "/admin/settings" in paths
    assert not any(path.startswith("/admin/alerts") for path in paths)


@pytest.mark.usefixtures("logging_as_it_was")
def test_logging_can_be_configured_by_the_settings(
    metrics: HttpMetrics, capsys: pytest.CaptureFixture[str]
) -> None:
    """When the application starts, as the operator says it."""
    settings = Settings(log_level="INFO", log_format="json", access_log=True)
    app = Starlette()
    TokenPulse(settings=settings, metrics=metrics).install(app)

    with TestClient(app) as client:
        client.get("/nowhere")

    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["module"], line["route"], line["status"]) == (
        "tokenpulse_mw.access",
        "__unmatched__",
        404,
    )


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_format_alone_configures_logging_at_info(
    metrics: HttpMetrics, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server's own lines are of the same format."""
    app = Starlette()
    TokenPulse(settings=Settings(log_format="json"), metrics=metrics).install(app)

    with TestClient(app):
        logging.getLogger("uvicorn.error").info("started")

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["module"], each["message"]) for each in lines] == [("uvicorn.error", "started")]


@pytest.mark.usefixtures("logging_as_it_was")
def test_an_access_log_that_nobody_would_see_is_warned_of(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain server leaves logging at WARNING."""
    logging.getLogger().setLevel(logging.WARNING)
    app = Starlette()
    TokenPulse(settings=Settings(access_log=True), metrics=metrics).install(app)

    with TestClient(app):
        pass

    assert caplog.messages[0].startswith("access log not written")

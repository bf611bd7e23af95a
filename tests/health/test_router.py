"""Health endpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import Message, Scope

from tokenpulse_mw import Exchange, ExchangeMiddleware, HealthRouter
from tokenpulse_mw.health import AnyCheck, Check, CheckResult, Credentials, ProviderHealth
from tokenpulse_mw.web.auth import Authorize

from ..support.waiting import PATIENCE

pytestmark = pytest.mark.usefixtures("patient")

ENDPOINTS = [
    "/health",
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/api/credentials/status",
]
HEALTH_JSON = {"accept": "application/health+json"}


def test_health_response_equals_that_of_the_seed() -> None:
    """Scripts written for the seed work unchanged."""
    health = HealthRouter(service="oauth2api", providers=["claude", "gemini"])
    response = TestClient(health).get("/health")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.content == (
        b'{"status":"ok","service":"oauth2api","providers":["claude","gemini"]}'
    )


def test_health_without_providers_lists_none() -> None:
    """By default no provider is declared."""
    assert TestClient(HealthRouter()).get("/health").json()["providers"] == []


def test_health_lists_the_providers_that_a_function_returns() -> None:
    """A function is called for each response, so that the list can grow."""
    providers = {"claude": True}
    client = TestClient(HealthRouter(providers=lambda: providers))

    before = client.get("/health").json()
    providers["gemini"] = True

    assert before == {"status": "ok", "service": "tokenpulse", "providers": ["claude"]}
    assert client.get("/health").json()["providers"] == ["claude", "gemini"]


def test_health_has_the_service_and_the_providers() -> None:
    """The default name of the service is tokenpulse."""
    response = TestClient(HealthRouter(providers=iter(["mine", "yours"]))).get("/health")

    assert response.json() == {
        "status": "ok",
        "service": "tokenpulse",
        "providers": ["mine", "yours"],
    }


@pytest.mark.parametrize("path", ENDPOINTS)
def test_head_response_equals_get_without_the_body(path: str) -> None:
    """Load balancers send HEAD, and no response is cached."""
    client = TestClient(HealthRouter(credentials={"claude": True}))

    responses = [client.get(path), client.head(path)]

    assert [response.status_code for response in responses] == [200, 200]
    assert [response.headers["cache-control"] for response in responses] == ["no-store", "no-store"]
    assert responses[0].headers["content-length"] == responses[1].headers["content-length"]
    assert (responses[0].content != b"", responses[1].content) == (True, b"")


def test_service_without_checks_is_live_and_ready() -> None:
    """Both responses are 200."""
    client = TestClient(HealthRouter())

    responses = [client.get(path) for path in ("/health/live", "/health/ready")]

    assert [(response.status_code, response.content) for response in responses] == [
        (200, b'{"status":"ok"}'),
        (200, b'{"status":"ok"}'),
    ]


async def hanging() -> bool:
    """Never return."""
    await anyio.sleep_forever()
    return True


async def passing() -> bool:
    """Pass."""
    return True


async def failing() -> bool:
    """Fail."""
    return False


def raising() -> bool:
    """Raise an error."""
    raise OSError("no disk")


@pytest.mark.parametrize(
    ("check", "status", "body"),
    [
        (lambda: True, 200, b'{"status":"ok"}'),
        (passing, 200, b'{"status":"ok"}'),
        (lambda: passing(), 200, b'{"status":"ok"}'),
        (lambda: False, 503, b'{"status":"error"}'),
        (failing, 503, b'{"status":"error"}'),
        (raising, 503, b'{"status":"error"}'),
        (hanging, 503, b'{"status":"error"}'),
    ],
    ids=["true", "async true", "awaitable", "false", "async false", "raising", "hanging"],
)
def test_service_is_ready_while_all_checks_pass(check: AnyCheck, status: int, body: bytes) -> None:
    """A check that fails, raises or hangs does not affect liveness."""
    checks: dict[str, AnyCheck] = {"fine": lambda: True, "tested": check}
    client = TestClient(HealthRouter(checks=checks, timeout=PATIENCE if status == 200 else 0.01))

    ready, live = client.get("/health/ready"), client.get("/health/live")

    assert (ready.status_code, ready.content) == (status, body)
    assert ready.headers["cache-control"] == "no-store"
    assert (live.status_code, live.content) == (200, b'{"status":"ok"}')


def test_draining_service_is_live_and_not_ready() -> None:
    """A draining service gets no new traffic while it completes its requests."""
    router = HealthRouter(checks={"fine": lambda: True})
    client = TestClient(router)
    assert client.get("/health/ready").status_code == 200

    router.draining = True

    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/ready").json() == {"status": "error"}
    assert client.get("/health/live").status_code == 200


def test_starting_service_is_live_and_not_ready() -> None:
    """The startup probe waits, and the liveness probe does not restart the service."""
    router = HealthRouter()
    client = TestClient(router)
    paths = ["/health/startup", "/health/ready", "/health/live", "/health"]

    router.starting = True
    before = [client.get(path).status_code for path in paths]
    router.starting = False

    assert before == [503, 503, 200, 200]
    assert [client.get(path).status_code for path in paths] == [200] * 4


def test_running_sets_draining_at_its_end() -> None:
    """The router can run again, and is ready again."""
    router = HealthRouter()
    app = Starlette(routes=router.routes, lifespan=lambda app: router.running())
    client = TestClient(app)
    statuses = [client.get("/health/ready").status_code]

    for _ in range(2):
        with client:
            statuses.append(client.get("/health/ready").status_code)
        statuses.append(client.get("/health/ready").status_code)

    assert statuses == [200, 200, 503, 200, 503]


def test_running_does_not_reset_starting() -> None:
    """The application resets it after the warm-up."""
    router = HealthRouter()
    router.starting = True
    app = Starlette(routes=router.routes, lifespan=lambda app: router.running())
    paths = ["/health/startup", "/health/ready", "/health/live"]

    with TestClient(app) as client:
        before = [client.get(path).status_code for path in paths]
        router.starting = False
        after = [client.get(path).status_code for path in paths]

    assert (before, after) == ([503, 503, 200], [200, 200, 200])


@pytest.mark.parametrize(
    ("check", "code", "plain", "status"),
    [
        (lambda: True, 200, "ok", "pass"),
        (Check(lambda: False, critical=False), 200, "warn", "warn"),
        (lambda: False, 503, "error", "fail"),
    ],
)
def test_readiness_has_three_statuses(check: AnyCheck, code: int, plain: str, status: str) -> None:
    """A warning has status 200, in both formats."""
    client = TestClient(HealthRouter(checks={"disk": check}))

    responses = [client.get("/health/ready"), client.get("/health/ready", headers=HEALTH_JSON)]

    assert [response.status_code for response in responses] == [code, code]
    assert [response.json() for response in responses] == [{"status": plain}, {"status": status}]


@pytest.mark.parametrize("path", ENDPOINTS[:-1])
def test_health_json_is_sent_on_request(path: str) -> None:
    """`/health` then has the status of readiness."""
    response = TestClient(HealthRouter()).get(path, headers=HEALTH_JSON)

    assert response.headers["content-type"] == "application/health+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {"status": "pass"}


def test_authorized_request_gets_the_reasons() -> None:
    """An error is shown as its class, and a `CheckResult` with its output."""
    full = CheckResult(status="warn", observed_value=97.5, observed_unit="%", output="nearly full")
    router = HealthRouter(
        service="oauth2api",
        checks={
            "database": Check(raising, component_type="datastore"),
            "disk:usage": lambda: full,
        },
        authorize=lambda request: request.headers.get("authorization") == "Bearer s3cret",
        wall=lambda: 1_769_004_042.661,
    )
    client = TestClient(router)
    allowed = {**HEALTH_JSON, "authorization": "Bearer s3cret"}
    now = "2026-01-21T14:00:42.661Z"

    assert client.get("/health/ready", headers=HEALTH_JSON).json() == {"status": "fail"}
    assert client.get("/health", headers=allowed).json() == {
        "status": "fail",
        "serviceId": "oauth2api",
        "checks": {
            "database": [
                {"componentType": "datastore", "status": "fail", "time": now, "output": "OSError"}
            ],
            "disk:usage": [
                {
                    "observedValue": 97.5,
                    "observedUnit": "%",
                    "status": "warn",
                    "time": now,
                    "output": "nearly full",
                }
            ],
        },
    }
    router.draining = True
    state = client.get("/health/ready", headers=allowed).json()["checks"]
    assert state["service:state"][0]["observedValue"] == "draining"


def test_failing_authorize_hides_the_reasons(caplog: pytest.LogCaptureFixture) -> None:
    """The probe still gets the status."""

    def authorize(request: object) -> bool:
        raise OSError("no directory")

    client = TestClient(HealthRouter(authorize=authorize))

    assert client.get("/health/ready", headers=HEALTH_JSON).json() == {"status": "pass"}
    assert caplog.messages == ["authorize failed: requests are rejected"]


async def accepts(request: Request) -> bool:
    """Authorize every request."""
    return True


async def rejects(request: Request) -> bool:
    """Authorize no request."""
    return False


async def returns_name(request: Request) -> str:
    """Return the name of the client."""
    return "operator"


def raises_403(request: Request) -> bool:
    """Reject the request with an exception."""
    raise HTTPException(403, "not you")


@pytest.mark.parametrize(
    ("authorize", "is_authorized"),
    [
        (accepts, True),
        (returns_name, True),
        (lambda request: True, True),
        (rejects, False),
        (raises_403, False),
        (lambda request: "", False),
        (lambda request: 1, False),
        (lambda request: None, False),
    ],
    ids=["async", "async name", "True", "async False", "HTTPException", "empty", "number", "None"],
)
def test_reasons_require_true_or_a_name(authorize: Authorize, is_authorized: bool) -> None:
    """Other values of `authorize` and exceptions do not authorize."""
    client = TestClient(HealthRouter(authorize=authorize, checks={"disk": lambda: True}))

    response = client.get("/health/ready", headers=HEALTH_JSON)

    assert (response.status_code, "checks" in response.json()) == (200, is_authorized)


def test_unhealthy_provider_is_a_warning() -> None:
    """Otherwise the outage of one vendor would stop the traffic of all others."""
    provider_health = ProviderHealth(["claude"], failures=1)
    router = HealthRouter(provider_health=provider_health, authorize=lambda request: True)
    client = TestClient(router)

    assert client.get("/health/ready").json() == {"status": "ok"}
    provider_health(Exchange(method="POST", started=0.0, provider="claude", status=500))
    response = client.get("/health/ready", headers=HEALTH_JSON)

    assert client.get("/health/ready").json() == {"status": "warn"}
    assert (response.status_code, response.json()["status"]) == (200, "warn")
    claude = response.json()["checks"]["claude:consecutiveFailures"][0]
    assert (claude["observedValue"], claude["status"]) == (1, "warn")


async def async_credentials() -> Mapping[str, bool]:
    """Return the status of the credentials."""
    return {"claude": True, "gemini": False}


@pytest.mark.parametrize(
    "credentials",
    [
        {"claude": True, "gemini": False},
        lambda: {"claude": True, "gemini": False},
        async_credentials,
        lambda: async_credentials(),
    ],
    ids=["mapping", "function", "async function", "awaitable"],
)
def test_credentials_status_has_a_bool_for_each_provider(credentials: Credentials) -> None:
    """The source is a mapping or a function, async or not."""
    client = TestClient(HealthRouter(credentials=credentials))

    response = client.get("/api/credentials/status")

    assert response.status_code == 200
    assert response.content == b'{"claude":true,"gemini":false}'


def test_mapping_is_read_for_each_request() -> None:
    """A credential that has expired is inactive in the next response."""
    status = {"claude": True}
    client = TestClient(HealthRouter(credentials=status))

    status["claude"] = False

    assert client.get("/api/credentials/status").json() == {"claude": False}


def test_active_providers_reads_the_mapping() -> None:
    """Metrics show the present values."""
    status = {"claude": True, "gemini": False}
    health = HealthRouter(credentials=status)

    before = health.active_providers()
    status["claude"] = False

    assert before == {("claude",): 1, ("gemini",): 0}
    assert health.active_providers() == {("claude",): 0, ("gemini",): 0}


def test_active_providers_does_not_call_the_function() -> None:
    """The last result is used, because a call may be slow or cost money."""
    calls: list[bool] = []

    def status() -> dict[str, bool]:
        calls.append(True)
        return {"claude": True}

    health = HealthRouter(credentials=status)

    before = health.active_providers()
    TestClient(health).get("/api/credentials/status")

    assert (before, health.active_providers(), calls) == ({}, {("claude",): 1}, [True])


@pytest.mark.anyio
async def test_running_router_refreshes_the_credentials() -> None:
    """The function is called without any request."""
    health = HealthRouter(credentials=async_credentials)

    async with health.running():
        with anyio.fail_after(PATIENCE):
            while not health.active_providers():
                await anyio.lowlevel.checkpoint()

    assert health.active_providers() == {("claude",): 1, ("gemini",): 0}


def unreachable() -> dict[str, bool]:
    """Raise an error with a secret."""
    raise OSError("password s3cret refused")


@pytest.mark.parametrize(
    "credentials",
    [unreachable, lambda: {"claude": "sk-1"}, lambda: ["claude"], lambda: anyio.sleep_forever()],
    ids=["raising", "not a bool", "not a mapping", "hanging"],
)
def test_unknown_credentials_status_is_503(credentials: Any) -> None:
    """The response has `Retry-After`, and no reason."""
    response = TestClient(HealthRouter(credentials=credentials, timeout=0.2)).get(
        "/api/credentials/status"
    )

    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json() == {
        "error": "the status of the credentials is unknown",
        "available": False,
    }


@pytest.mark.parametrize(("credentials", "status"), [(None, 404), ({}, 200)])
def test_credentials_endpoint_exists_only_with_credentials(
    credentials: Credentials | None, status: int
) -> None:
    """An empty mapping is a valid status."""
    client = TestClient(HealthRouter(credentials=credentials))

    assert client.get("/api/credentials/status").status_code == status


@pytest.mark.parametrize("path", ENDPOINTS)
def test_probe_is_not_observed(path: str) -> None:
    """Metrics and alerts exclude it for any status."""
    exchanges: list[Exchange] = []
    router = HealthRouter(checks={"bad": lambda: False}, credentials={"claude": True})
    client = TestClient(ExchangeMiddleware(router, observers=[exchanges.append]))

    statuses = [client.get(path).status_code, client.head(path).status_code]

    assert statuses == ([503, 503] if path == "/health/ready" else [200, 200])
    assert exchanges == []


@pytest.mark.parametrize("path", ENDPOINTS)
def test_other_method_is_rejected_and_not_observed(path: str) -> None:
    """The response is 405 with the allowed methods."""
    exchanges: list[Exchange] = []
    router = HealthRouter(credentials={"claude": True})
    client = TestClient(ExchangeMiddleware(router, observers=[exchanges.append]))

    response = client.post(path)

    assert (response.status_code, exchanges) == (405, [])
    assert {method.strip() for method in response.headers["allow"].split(",")} == {"GET", "HEAD"}


@pytest.mark.anyio
async def test_cancelled_probe_is_not_observed() -> None:
    """Probes have timeouts."""
    exchanges: list[Exchange] = []
    router = HealthRouter(checks={"slow": hanging}, timeout=PATIENCE, deadline=PATIENCE)
    app = ExchangeMiddleware(router, observers=[exchanges.append])
    scope: Scope = {"type": "http", "method": "GET", "path": "/health/ready", "headers": []}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        """Discard the message."""

    async def probe() -> None:
        await app(scope, receive, send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert exchanges == []


def test_router_can_be_mounted_or_its_routes_added() -> None:
    """The paths are the same below a prefix."""
    router = HealthRouter()
    app = Starlette(routes=[*router.routes, Mount("/internal", app=router)])
    client = TestClient(app)

    paths = ["/health", "/health/live", "/internal/health", "/internal/health/ready"]
    assert [client.get(path).status_code for path in paths] == [200, 200, 200, 200]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_trailing_slash_is_served_without_a_redirect(path: str) -> None:
    """Probes do not follow redirects, or take them for a success."""
    router = HealthRouter(credentials={"claude": True})
    exchanges: list[Exchange] = []

    for app in (router, Starlette(routes=router.routes), FastAPI(routes=router.routes)):
        client = TestClient(
            ExchangeMiddleware(app, observers=[exchanges.append]), follow_redirects=False
        )
        assert client.get(f"{path}/").content == client.get(path).content
        assert client.head(f"{path}/").status_code == 200
    assert exchanges == []


@pytest.mark.parametrize("path", ["/", "/health/other", "/health//"])
def test_other_path_is_not_found(path: str) -> None:
    """There is no redirect."""
    assert TestClient(HealthRouter()).get(path, follow_redirects=False).status_code == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, r"^timeout must be a number of seconds above 0, got 0$"),
        ({"timeout": "2"}, r"^timeout must be a number of seconds above 0, got '2'$"),
        ({"service": None}, r"^service must be a string, the name of the service, got None$"),
        (
            {"providers": "claude"},
            r"^providers must be a list of strings, such as .*, got 'claude'$",
        ),
        ({"timeout": -1.5}, r"^timeout must be a number of seconds above 0, got -1\.5$"),
        ({"timeout": float("nan")}, r"^timeout must be a number of seconds above 0, got nan$"),
        ({"deadline": 0}, r"^deadline must be a number of seconds above 0, got 0$"),
        ({"authorize": "s3cret"}, r"^authorize of HealthRouter must be a function of the request "),
        ({"checks": {1: hanging}}, r"^check name must be a string, got 1$"),
        ({"checks": []}, r"^checks must be a mapping, such as {'database': is_up}, got \[\]$"),
        (
            {"credentials": {"claude": "sk-1"}},
            r"^credentials of 'claude' must be True .* got a str$",
        ),
        (
            {"checks": {"disk": True}},
            r"^check 'disk' must be a function that returns a bool, got True$",
        ),
    ],
)
def test_invalid_argument_is_rejected(settings: dict[str, Any], message: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=message):
        HealthRouter(**settings)

"""HealthRouter: what probes, scripts and people are told."""

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


def test_health_is_the_seeds_byte_for_byte() -> None:
    """A script written for the seed finds what it looks for."""
    health = HealthRouter(service="oauth2api", providers=["claude", "gemini"])
    answer = TestClient(health).get("/health")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == (
        b'{"status":"ok","service":"oauth2api","providers":["claude","gemini"]}'
    )


def test_health_without_providers_lists_none() -> None:
    """A gateway is not said to have providers that it was not given."""
    assert TestClient(HealthRouter()).get("/health").json()["providers"] == []


def test_health_lists_the_providers_that_a_function_returns() -> None:
    """A function is called for each response, so that the list can grow."""
    providers = {"claude": True}
    client = TestClient(HealthRouter(providers=lambda: providers))

    before = client.get("/health").json()
    providers["gemini"] = True

    assert before == {"status": "ok", "service": "tokenpulse", "providers": ["claude"]}
    assert client.get("/health").json()["providers"] == ["claude", "gemini"]


def test_health_gives_the_name_and_the_providers_it_is_told() -> None:
    """The service is called tokenpulse unless it has a name of its own."""
    answer = TestClient(HealthRouter(providers=iter(["mine", "yours"]))).get("/health")

    assert answer.json() == {
        "status": "ok",
        "service": "tokenpulse",
        "providers": ["mine", "yours"],
    }


@pytest.mark.parametrize("path", ENDPOINTS)
def test_head_is_answered_like_get_without_a_body(path: str) -> None:
    """Load balancers ask with HEAD, and nothing is cached on the way."""
    client = TestClient(HealthRouter(credentials={"claude": True}))

    answers = [client.get(path), client.head(path)]

    assert [each.status_code for each in answers] == [200, 200]
    assert [each.headers["cache-control"] for each in answers] == ["no-store", "no-store"]
    assert answers[0].headers["content-length"] == answers[1].headers["content-length"]
    assert (answers[0].content != b"", answers[1].content) == (True, b"")


def test_a_service_without_checks_lives_and_is_ready() -> None:
    """What depends on nothing is ready as soon as it answers."""
    client = TestClient(HealthRouter())

    answers = [client.get(path) for path in ("/health/live", "/health/ready")]

    assert [(each.status_code, each.content) for each in answers] == [
        (200, b'{"status":"ok"}'),
        (200, b'{"status":"ok"}'),
    ]


async def hanging() -> bool:
    """Never says."""
    await anyio.sleep_forever()
    return True


async def holding() -> bool:
    """Says yes, asynchronously."""
    return True


async def failing() -> bool:
    """Says no, asynchronously."""
    return False


def raising() -> bool:
    """Cannot say."""
    raise OSError("no disk")


@pytest.mark.parametrize(
    ("check", "status", "body"),
    [
        (lambda: True, 200, b'{"status":"ok"}'),
        (holding, 200, b'{"status":"ok"}'),
        (lambda: holding(), 200, b'{"status":"ok"}'),
        (lambda: False, 503, b'{"status":"error"}'),
        (failing, 503, b'{"status":"error"}'),
        (raising, 503, b'{"status":"error"}'),
        (hanging, 503, b'{"status":"error"}'),
    ],
    ids=["true", "async true", "awaitable", "false", "async false", "raising", "hanging"],
)
def test_a_service_is_ready_while_every_check_holds_and_lives_anyway(
    check: AnyCheck, status: int, body: bytes
) -> None:
    """A check that fails, raises or hangs takes it out of service, but restarts nothing."""
    checks: dict[str, AnyCheck] = {"fine": lambda: True, "tested": check}
    client = TestClient(HealthRouter(checks=checks, timeout=PATIENCE if status == 200 else 0.01))

    ready, live = client.get("/health/ready"), client.get("/health/live")

    assert (ready.status_code, ready.content) == (status, body)
    assert ready.headers["cache-control"] == "no-store"
    assert (live.status_code, live.content) == (200, b'{"status":"ok"}')


def test_a_service_that_drains_is_not_ready() -> None:
    """It takes no new traffic while it finishes what it has."""
    router = HealthRouter(checks={"fine": lambda: True})
    client = TestClient(router)
    assert client.get("/health/ready").status_code == 200

    router.draining = True

    assert client.get("/health/ready").status_code == 503
    assert client.get("/health/ready").json() == {"status": "error"}
    assert client.get("/health/live").status_code == 200


def test_a_service_that_starts_is_not_ready_and_lives() -> None:
    """A startup probe waits for it, and a liveness probe does not end it meanwhile."""
    router = HealthRouter()
    client = TestClient(router)
    paths = ["/health/startup", "/health/ready", "/health/live", "/health"]

    router.starting = True
    before = [client.get(path).status_code for path in paths]
    router.starting = False

    assert before == [503, 503, 200, 200]
    assert [client.get(path).status_code for path in paths] == [200] * 4


def test_a_router_alone_can_run_in_a_lifespan() -> None:
    """It drains when that ends, and can be started anew."""
    router = HealthRouter()
    app = Starlette(routes=router.routes, lifespan=lambda app: router.running())
    client = TestClient(app)
    found = [client.get("/health/ready").status_code]

    for _ in range(2):
        with client:
            found.append(client.get("/health/ready").status_code)
        found.append(client.get("/health/ready").status_code)

    assert found == [200, 200, 503, 200, 503]


def test_a_service_that_warms_up_has_not_started_with_its_lifespan() -> None:
    """Servers are asked only when that has: what is said to be starting is so until told."""
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
def test_readiness_has_three_levels(check: AnyCheck, code: int, plain: str, status: str) -> None:
    """What is not critical warns with 200, in either form of the answer."""
    client = TestClient(HealthRouter(checks={"disk": check}))

    answers = [client.get("/health/ready"), client.get("/health/ready", headers=HEALTH_JSON)]

    assert [each.status_code for each in answers] == [code, code]
    assert [each.json() for each in answers] == [{"status": plain}, {"status": status}]


@pytest.mark.parametrize("path", ENDPOINTS[:-1])
def test_every_health_endpoint_speaks_health_json(path: str) -> None:
    """To who asks for it; `/health` says then what readiness does."""
    answer = TestClient(HealthRouter()).get(path, headers=HEALTH_JSON)

    assert answer.headers["content-type"] == "application/health+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {"status": "pass"}


def test_the_reasons_are_told_to_who_is_authorized() -> None:
    """By class alone where a check raised, and in its own words where it has some."""
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


def test_an_authorize_that_fails_lets_nobody_see(caplog: pytest.LogCaptureFixture) -> None:
    """And the probe is answered all the same."""

    def authorize(request: object) -> bool:
        raise OSError("no directory")

    client = TestClient(HealthRouter(authorize=authorize))

    assert client.get("/health/ready", headers=HEALTH_JSON).json() == {"status": "pass"}
    assert caplog.messages == ["authorize failed: requests are refused"]


async def lets_in(request: Request) -> bool:
    """Anyone."""
    return True


async def keeps_out(request: Request) -> bool:
    """Everyone."""
    return False


async def knows(request: Request) -> str:
    """Who asks."""
    return "operator"


def refuses(request: Request) -> bool:
    """In its own words."""
    raise HTTPException(403, "not you")


@pytest.mark.parametrize(
    ("authorize", "is_told"),
    [
        (lets_in, True),
        (knows, True),
        (lambda request: True, True),
        (keeps_out, False),
        (refuses, False),
        (lambda request: "", False),
        (lambda request: 1, False),
        (lambda request: None, False),
    ],
    ids=["async", "async name", "true", "async false", "refused", "no name", "a number", "none"],
)
def test_only_who_is_let_in_learns_the_reasons(authorize: Authorize, is_told: bool) -> None:
    """By an authorize that may be async; an answer that is neither True nor a name lets in none."""
    client = TestClient(HealthRouter(authorize=authorize, checks={"disk": lambda: True}))

    answer = client.get("/health/ready", headers=HEALTH_JSON)

    assert (answer.status_code, "checks" in answer.json()) == (200, is_told)


def test_a_provider_in_trouble_warns_and_never_makes_unready() -> None:
    """If it did, an outage of one vendor would end the traffic to all others."""
    watching = ProviderHealth(["claude"], failures=1)
    router = HealthRouter(provider_health=watching, authorize=lambda request: True)
    client = TestClient(router)

    assert client.get("/health/ready").json() == {"status": "ok"}
    watching(Exchange(method="POST", started=0.0, provider="claude", status=500))
    answer = client.get("/health/ready", headers=HEALTH_JSON)

    assert client.get("/health/ready").json() == {"status": "warn"}
    assert (answer.status_code, answer.json()["status"]) == (200, "warn")
    claude = answer.json()["checks"]["claude:consecutiveFailures"][0]
    assert (claude["observedValue"], claude["status"]) == (1, "warn")


async def given_async() -> Mapping[str, bool]:
    """Whether credentials are active, asked asynchronously."""
    return {"claude": True, "gemini": False}


@pytest.mark.parametrize(
    "credentials",
    [
        {"claude": True, "gemini": False},
        lambda: {"claude": True, "gemini": False},
        given_async,
        lambda: given_async(),
    ],
    ids=["mapping", "function", "async function", "awaitable"],
)
def test_the_status_of_credentials_is_a_bool_for_each_provider(credentials: Credentials) -> None:
    """It may be given as a mapping or by a function, and tells no more than yes or no."""
    client = TestClient(HealthRouter(credentials=credentials))

    answer = client.get("/api/credentials/status")

    assert answer.status_code == 200
    assert answer.content == b'{"claude":true,"gemini":false}'


def test_a_mapping_of_credentials_is_read_when_it_is_asked_for() -> None:
    """What has expired since is no longer active."""
    status = {"claude": True}
    client = TestClient(HealthRouter(credentials=status))

    status["claude"] = False

    assert client.get("/api/credentials/status").json() == {"claude": False}


def test_a_mapping_tells_which_providers_are_active() -> None:
    """Whenever that is asked, as metrics do."""
    status = {"claude": True, "gemini": False}
    health = HealthRouter(credentials=status)

    before = health.active_providers()
    status["claude"] = False

    assert before == {("claude",): 1, ("gemini",): 0}
    assert health.active_providers() == {("claude",): 0, ("gemini",): 0}


def test_a_function_is_not_called_to_tell_which_providers_are_active() -> None:
    """What it last gave counts: it may take long, or cost something."""
    asked: list[bool] = []

    def status() -> dict[str, bool]:
        asked.append(True)
        return {"claude": True}

    health = HealthRouter(credentials=status)

    before = health.active_providers()
    TestClient(health).get("/api/credentials/status")

    assert (before, health.active_providers(), asked) == ({}, {("claude",): 1}, [True])


@pytest.mark.anyio
async def test_a_router_that_runs_asks_which_providers_are_active() -> None:
    """Soon after its start, and whether or not anybody asks for the status of credentials."""
    health = HealthRouter(credentials=given_async)

    async with health.running():
        with anyio.fail_after(PATIENCE):
            while not health.active_providers():
                await anyio.lowlevel.checkpoint()

    assert health.active_providers() == {("claude",): 1, ("gemini",): 0}


def unreachable() -> dict[str, bool]:
    """Cannot say."""
    raise OSError("password s3cret refused")


@pytest.mark.parametrize(
    "credentials",
    [unreachable, lambda: {"claude": "sk-1"}, lambda: ["claude"], lambda: anyio.sleep_forever()],
    ids=["raising", "no bool", "no mapping", "hanging"],
)
def test_a_status_that_is_not_known_is_not_called_fine(credentials: Any) -> None:
    """It is told when to ask again, and nothing of why."""
    answer = TestClient(HealthRouter(credentials=credentials, timeout=0.2)).get(
        "/api/credentials/status"
    )

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == {
        "error": "the status of the credentials is unknown",
        "available": False,
    }


@pytest.mark.parametrize(("credentials", "status"), [(None, 404), ({}, 200)])
def test_without_credentials_there_is_no_status_of_them(
    credentials: Credentials | None, status: int
) -> None:
    """Not to know is another answer than to have none."""
    client = TestClient(HealthRouter(credentials=credentials))

    assert client.get("/api/credentials/status").status_code == status


@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_request_of_a_probe_is_counted(path: str) -> None:
    """Neither metrics nor alerts hear of it, however the service fares."""
    seen: list[Exchange] = []
    router = HealthRouter(checks={"bad": lambda: False}, credentials={"claude": True})
    client = TestClient(ExchangeMiddleware(router, observers=[seen.append]))

    statuses = [client.get(path).status_code, client.head(path).status_code]

    assert statuses == ([503, 503] if path == "/health/ready" else [200, 200])
    assert seen == []


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_method_that_a_probe_does_not_have_is_not_counted_either(path: str) -> None:
    """It is refused as anywhere, and says nothing of the service."""
    seen: list[Exchange] = []
    router = HealthRouter(credentials={"claude": True})
    client = TestClient(ExchangeMiddleware(router, observers=[seen.append]))

    answer = client.post(path)

    assert (answer.status_code, seen) == (405, [])
    assert {each.strip() for each in answer.headers["allow"].split(",")} == {"GET", "HEAD"}


@pytest.mark.anyio
async def test_a_probe_that_gives_up_is_not_counted() -> None:
    """Whoever probes has a timeout of its own."""
    seen: list[Exchange] = []
    router = HealthRouter(checks={"slow": hanging}, timeout=PATIENCE, deadline=PATIENCE)
    app = ExchangeMiddleware(router, observers=[seen.append])
    scope: Scope = {"type": "http", "method": "GET", "path": "/health/ready", "headers": []}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        """It hears nothing any more."""

    async def probe() -> None:
        await app(scope, receive, send)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(probe)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert seen == []


def test_the_router_can_be_mounted_and_its_routes_added() -> None:
    """Under a prefix or in the application's own table, its paths are the same."""
    router = HealthRouter()
    app = Starlette(routes=[*router.routes, Mount("/internal", app=router)])
    client = TestClient(app)

    paths = ["/health", "/health/live", "/internal/health", "/internal/health/ready"]
    assert [client.get(path).status_code for path in paths] == [200, 200, 200, 200]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_slash_at_the_end_is_answered_without_a_redirect(path: str) -> None:
    """Also in an application that redirects: probes take that for an answer, or do not follow."""
    router = HealthRouter(credentials={"claude": True})
    seen: list[Exchange] = []

    for app in (router, Starlette(routes=router.routes), FastAPI(routes=router.routes)):
        client = TestClient(
            ExchangeMiddleware(app, observers=[seen.append]), follow_redirects=False
        )
        assert client.get(f"{path}/").content == client.get(path).content
        assert client.head(f"{path}/").status_code == 200
    assert seen == []


@pytest.mark.parametrize("path", ["/", "/health/other", "/health//"])
def test_what_is_no_endpoint_is_not_found(path: str) -> None:
    """Nothing is redirected."""
    assert TestClient(HealthRouter()).get(path, follow_redirects=False).status_code == 404


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timeout": 0}, r"^timeout must be a number of seconds above 0, got 0$"),
        ({"timeout": "2"}, r"^timeout must be a number of seconds above 0, got '2'$"),
        ({"service": None}, r"^service must be a string, the name of the service, got None$"),
        ({"providers": "claude"}, r"^providers must be a list of names, got the string 'claude'$"),
        ({"timeout": -1.5}, r"^timeout must be a number of seconds above 0, got -1\.5$"),
        ({"timeout": float("nan")}, r"^timeout must be a number of seconds above 0, got nan$"),
        ({"deadline": 0}, r"^deadline must be a number of seconds above 0, got 0$"),
        ({"authorize": "s3cret"}, r"^authorize of HealthRouter must be a function of the request "),
        ({"checks": {1: hanging}}, r"^the name of a check must be a string, got 1$"),
        ({"checks": []}, r"^checks must be a mapping, such as {'database': is_up}, got \[\]$"),
        (
            {"credentials": {"claude": "sk-1"}},
            r"^credentials of 'claude' must be True .* got a value of type str$",
        ),
        (
            {"checks": {"disk": True}},
            r"^check 'disk' must be a function that returns a bool, got True$",
        ),
    ],
)
def test_a_router_that_could_not_work_is_not_built(settings: dict[str, Any], message: str) -> None:
    """A mistake shows at start, not at the first probe."""
    with pytest.raises(ValueError, match=message):
        HealthRouter(**settings)

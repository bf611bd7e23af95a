"""The live page of a `TokenPulse`: its routes, its sources, and several processes."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tokenpulse_mw import AlertEngine, HttpMetrics, Rates, Settings, TokenPulse, annotate
from tokenpulse_mw.alerts.store import SQLAlertStore
from tokenpulse_mw.logs import log_level
from tokenpulse_mw.metrics import families
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, WorkerTables
from tokenpulse_mw.stack import dashboard

from .support.clock import FakeClock

TOKEN = "a-token-of-some-length"
HEADERS = {"authorization": f"Bearer {TOKEN}"}
ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
}


async def chat(request: Request) -> Response:
    """Answer as OpenAI does."""
    tenant = request.headers.get("x-tenant", "acme")
    annotate(
        request,
        tenant=tenant,
        tenant_name=tenant.title(),
        credential="k1",
        credential_group="team",
    )
    headers = {
        "x-ratelimit-limit-requests": "100",
        "x-ratelimit-remaining-requests": "40",
        "x-ratelimit-reset-requests": "60s",
        "x-ratelimit-remaining-tokens": "9000",
    }
    return JSONResponse(ANSWER, headers=headers)


async def slow(request: Request) -> Response:
    """Stream without an end."""
    annotate(request, tenant="acme", tenant_name="Acme")

    async def parts() -> Any:
        yield b"data: {}\n\n"
        await anyio.sleep_forever()

    return StreamingResponse(parts(), media_type="text/event-stream")


def application(pulse: TokenPulse) -> Starlette:
    """Return a gateway."""
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/slow", slow, methods=["POST"]),
        ]
    )
    pulse.install(app)
    return app


def gateway(**options: Any) -> TokenPulse:
    """Return a TokenPulse with an admin token."""
    settings = options.pop("settings", {})
    return TokenPulse(
        service="gateway",
        settings=Settings(admin_token=TOKEN, **settings),
        **{"providers": ["openai"], "prices": {"gpt-4o": Rates(input=1, output=2)}, **options},
    )


def control(pulse: TokenPulse, clock: FakeClock) -> Any:
    """Let the clock number the slots, at the beginning of one; return the sampler."""
    clock.advance(-clock.wall() % 15 + 0.1)
    board = pulse._dashboard.dashboard
    cached = (board._merged, board._store, board._checks, board._tenants)
    for part in (board, board.sampler, board._fleet, *cached):
        if part is not None:
            part._clock = clock
    board._wall = board.sampler._wall = clock.wall
    return board.sampler


def test_page_exists_only_with_an_admin_token() -> None:
    """Without a token there is neither a page nor a task."""
    pulse = TokenPulse(limit=None)
    with TestClient(application(pulse)) as client:
        assert [client.get(path).status_code for path in ("/admin/", "/admin/live/state")] == [
            404,
            404,
        ]
    assert pulse._dashboard.dashboard.sampler.totals is None


@pytest.mark.parametrize("setup", ["install", "wrap"])
def test_page_is_neither_limited_nor_counted(setup: str) -> None:
    """The files need no token, and neither they nor the data are in the metrics."""
    pulse = gateway(limit="1/hour")
    app: Any = application(pulse) if setup == "install" else pulse.wrap(Starlette())
    with TestClient(app) as client:
        for _ in range(3):
            assert client.get("/admin").status_code == 200
            assert client.get("/admin/live.js").status_code == 200
            assert client.get("/admin/live/state", headers=HEADERS).status_code == 200
    requests = next(
        rows for family, rows in pulse.metrics.series() if family.name.endswith("requests_total")
    )

    assert not requests


def test_wrong_tokens_are_limited() -> None:
    """Guesses count, as for the other endpoints."""
    pulse = gateway(limit="2/hour")
    with TestClient(application(pulse)) as client:
        wrong = {"authorization": "Bearer guess"}
        statuses = [client.get("/admin/live/state", headers=wrong).status_code for _ in range(3)]

    assert statuses == [401, 401, 429]


def test_copy_of_the_source_has_an_unknown_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The distribution need not be installed."""

    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(dashboard, "version", version)
    with TestClient(application(gateway()), headers=HEADERS) as client:
        assert client.get("/admin/live/state").json()["instance"]["version"] == "unknown"


def test_state_is_filled_from_all_parts(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates, credentials, limits of the vendor, cost, alerts and checks are shown."""
    monkeypatch.setattr(dashboard, "_TENANTS_PER_STEP", 2)
    pulse = gateway(limit=None, credentials={"openai": True}, checks={"database": lambda: False})
    sampler = control(pulse, clock)
    with TestClient(application(pulse), headers=HEADERS) as client:
        assert client.portal is not None
        client.portal.call(sampler.sample)
        for tenant in ("acme", "acme", "beta"):
            client.post("/v1/chat/completions", json={}, headers={"x-tenant": tenant})
        clock.advance(15)
        client.portal.call(sampler.sample)
        client.portal.call(pulse.engine.evaluate)
        state = client.get("/admin/live/state").json()
        tenants = client.get("/admin/live/tenants").json()["tenants"]

    (provider,) = state["providers"]
    assert (provider["name"], provider["requests_per_minute"]) == ("openai", 12)
    assert provider["credential"] == "active"
    (credential,) = provider["credentials"]
    assert (credential["id"], credential["group"]) == ("k1", "team")
    assert (credential["consecutive_failures"], credential["rejected"]) == (0, 0)
    assert provider["upstream"]["requests_remaining"] == 40
    assert provider["upstream"]["tokens_remaining"] == 9000
    assert provider["upstream"]["resets_at"] is not None
    assert state["rates"]["cost_usd_today"] == pytest.approx(3 * (5 + 14) / 1e6)
    assert state["status"] == "error"
    assert state["checks"][0]["name"] == "database"
    assert state["engine"]["leader"] is True
    assert state["engine"]["store"] == "none"
    assert state["engine"]["last_evaluation_at"] is not None
    assert [member["leader"] for member in state["members"]] == [True]
    assert (state["service"], state["log_level"]) == ("gateway", log_level())
    assert [(tenant["id"], tenant["name"], tenant["requests"]) for tenant in tenants] == [
        ("acme", "Acme", 2),
        ("beta", "Beta", 1),
    ]


def test_alerts_and_deliveries_are_marked(clock: FakeClock) -> None:
    """The engine notifies the page of both."""
    pulse = gateway(limit="1/hour")
    with TestClient(application(pulse), headers=HEADERS) as client:
        del client.headers["authorization"]
        for _ in range(3):
            client.post("/v1/chat/completions", json={})
        client.headers.update(HEADERS)
        assert client.portal is not None
        client.portal.call(pulse.engine.evaluate)
        marks = client.get("/admin/live/series").json()["marks"]
        state = client.get("/admin/live/state").json()

    assert [mark["kind"] for mark in marks] == ["started", "fired"]
    assert state["firing"]["warning"] == 1
    assert state["sinks"][0]["name"] == "LogSink"


def test_gateway_without_alerts_shows_the_rest() -> None:
    """Values of the alerts are null or empty."""
    pulse = gateway(limit=None, settings={"alerts": False})
    with TestClient(application(pulse), headers=HEADERS) as client:
        client.post("/v1/chat/completions", json={})
        state = client.get("/admin/live/state").json()
        tenants = client.get("/admin/live/tenants").json()

    assert state["engine"] == {
        "last_evaluation_at": None,
        "interval_seconds": None,
        "store": "none",
        "leader": None,
        "alerts": False,
    }
    assert state["members"] == state["sinks"] == tenants["tenants"] == []
    assert state["rates"]["cost_usd_today"] is None


@pytest.mark.anyio
async def test_requests_in_progress_are_listed() -> None:
    """A stream that hangs is seen with its tenant and its age."""
    pulse = gateway(limit=None)
    app = application(pulse)
    received, bodies = anyio.Event(), [{"type": "http.request", "body": b"{}"}]

    async def receive() -> Any:
        return bodies.pop() if bodies else await anyio.sleep_forever()

    async def send(message: Any) -> None:
        if message.get("body"):
            received.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "method": "POST",
        "path": "/slow",
        "raw_path": b"/slow",
        "query_string": b"",
        "headers": [],
        "client": ("192.0.2.1", 1),
        "server": ("gateway", 80),
        "scheme": "http",
        "http_version": "1.1",
    }
    transport = httpx2.ASGITransport(app=app)
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(app, scope, receive, send)
        await received.wait()
        response = await client.get("/admin/live/inflight", headers=HEADERS)
        tasks.cancel_scope.cancel()

    body = response.json()
    (request,) = body["requests"]
    assert body["count"] == 1
    assert (request["route"], request["tenant"], request["tenant_name"]) == (
        "/slow",
        "acme",
        "Acme",
    )
    assert (request["first_byte"], request["stalled"]) == (True, False)
    assert request["age_seconds"] >= 0


def test_reset_discards_the_history(clock: FakeClock) -> None:
    """As in a new process."""
    pulse = gateway(limit=None)
    sampler = control(pulse, clock)
    with TestClient(application(pulse), headers=HEADERS) as client:
        assert client.portal is not None
        client.portal.call(sampler.sample)
        pulse.reset()
        assert client.get("/admin/live/series").json()["names"] == []
        assert sampler.totals is None


def test_workers_that_share_metrics_only_are_counted_as_a_machine(tmp_path: Path) -> None:
    """Without a shared store, the rows of all workers are read."""
    pulse = gateway(
        limit=None, metrics=HttpMetrics(CollectorRegistry(), folder=tmp_path / "metrics")
    )
    other = WorkerFiles(tmp_path / "metrics")
    clock = FakeClock()
    sampler = control(pulse, clock)
    with TestClient(application(pulse), headers=HEADERS) as client:
        assert client.portal is not None
        client.portal.call(sampler.sample)
        other.new_row(families.IN_PROGRESS, ())
        other.new_row(families.REQUESTS, ("POST", "/chat", "200", "openai"))[0] += 9
        client.post("/v1/chat/completions", json={})
        clock.advance(15)
        client.portal.call(sampler.sample)
        state = client.get("/admin/live/state").json()

    assert state["scope"] == {"kind": "machine", "processes": 2, "missing": 0}
    assert state["providers"][0]["requests_per_minute"] == 40


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_replicas_with_one_store_answer_for_each_other(tmp_path: Path) -> None:
    """Whichever replica answers, the page has the requests of all, each counted once."""
    clock = FakeClock()
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    shared = tmp_path / "metrics"
    async with AsyncExitStack() as exits:
        clients, samplers, pulses = list[Any](), list[Any](), list[TokenPulse]()
        for _ in range(2):
            engine = AlertEngine(sinks=[], store=SQLAlertStore(url, wall=clock.wall))
            metrics = HttpMetrics(CollectorRegistry(), folder=shared)
            metrics._tables = _own_tables(shared)
            pulse = gateway(limit=None, engine=engine, metrics=metrics)
            app = application(pulse)
            await exits.enter_async_context(engine)
            exits.push_async_callback(engine.store.aclose)
            transport = httpx2.ASGITransport(app=app)
            client = httpx2.AsyncClient(transport=transport, base_url="http://gw", headers=HEADERS)
            clients.append(await exits.enter_async_context(client))
            samplers.append(control(pulse, clock))
            pulses.append(pulse)
        for pulse in pulses * 2:
            await pulse.engine.fleet()
        await clients[0].get("/admin/live/state")  # a page is open
        for requests in ((0, 0), (1, 2), (3, 4)):
            for client, number in zip(clients, requests, strict=True):
                for _ in range(number):
                    await client.post("/v1/chat/completions", json={})
            clock.advance(15)
            for pulse in pulses * 2:  # in less than a lease
                await pulse.engine.fleet()
            for pulse, sampler in zip(pulses, samplers, strict=True):
                await sampler.sample()
                await pulse._dashboard.dashboard._fleet.publish()  # type: ignore[union-attr]
        clock.advance(5)
        for pulse in pulses * 2:
            await pulse.engine.fleet()
        answers = [(await client.get("/admin/live/state")).json() for client in clients]
        series = [(await client.get("/admin/live/series?range=900")).json() for client in clients]

    for state, numbers in zip(answers, series, strict=True):
        assert state["scope"] == {"kind": "fleet", "processes": 2, "missing": 0}
        assert state["engine"]["store"] == "ok"
        assert numbers["series"]["requests"][0][-4:] == [None, None, 3, 7]
        assert state["providers"][0]["requests_per_minute"] == 20
    assert answers[0]["instance"]["id"] != answers[1]["instance"]["id"]


def _own_tables(folder: Path) -> Any:
    """Return the tables of another worker of the folder, in this process."""
    return WorkerTables(str(folder), max_series=2000, buckets=families.DURATION_BUCKETS)


def test_store_that_fails_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The page of a process whose database is missing shows what it knows."""
    url = f"sqlite+aiosqlite:///{tmp_path}/missing/alerts.db"
    pulse = gateway(limit=None, settings={"alert_store": url})
    with (
        caplog.at_level(logging.CRITICAL),
        TestClient(application(pulse), headers=HEADERS) as client,
    ):
        state = client.get("/admin/live/state").json()

    assert state["engine"]["store"] == "failing"
    assert state["status"] == "warn"

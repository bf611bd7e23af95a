"""Tests of applications: repeated and nested starts, resets, fake clocks, limits off."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from tokenpulse_mw import HttpMetrics, InFlight, Limiter, Policy, Settings, TokenPulse

from .support.apps import answering, raising
from .support.asgi import drive
from .support.waiting import PATIENCE

Deploy = Callable[[TokenPulse, ASGIApp], ASGIApp]


def install(pulse: TokenPulse, endpoint: ASGIApp) -> ASGIApp:
    """Return an application that mounts `endpoint`, with `pulse` installed."""
    app = Starlette(routes=[Mount("/", endpoint)])
    pulse.install(app)
    return app


def wrap(pulse: TokenPulse, endpoint: ASGIApp) -> ASGIApp:
    """Return `endpoint` wrapped in `pulse`."""
    return pulse.wrap(endpoint)


every_deployment = pytest.mark.parametrize("deploy", [install, wrap])


def total(metrics: HttpMetrics, family: str, **labels: str) -> float:
    """Return the sum of all series of a counter that have these labels."""
    return sum(
        sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == family and labels.items() <= sample.labels.items()
    )


@every_deployment
def test_each_start_of_the_application_begins_empty(deploy: Deploy, metrics: HttpMetrics) -> None:
    """Neither limits nor alerts nor metrics have the traffic of an earlier start."""
    pulse = TokenPulse(settings=Settings(limit="5/minute"), metrics=metrics)
    app = deploy(pulse, raising)

    for _ in range(2):
        with TestClient(app, raise_server_exceptions=False) as client:
            statuses = [client.get("/").status_code for _ in range(6)]
            assert client.portal is not None
            events = client.portal.call(pulse.engine.evaluate)

        assert statuses == [500] * 5 + [429]
        assert [event.finding.type for event in events] == ["rate_limit"]
        assert total(metrics, "tokenpulse_http_requests_total", status="500") == 5


def test_usage_set_before_the_first_start_is_kept(metrics: HttpMetrics) -> None:
    """An application may restore the usage of a budget before it starts."""
    limiter = Limiter("1/day")
    policies = [Policy(limiter, key=lambda scope: "tenant")]
    pulse = TokenPulse(settings=Settings(), policies=policies, metrics=metrics)

    limiter.hit("tenant")

    with TestClient(pulse.wrap(answering())) as client:
        assert client.get("/").status_code == 429


@every_deployment
def test_nested_clients_share_one_running_application(deploy: Deploy, metrics: HttpMetrics) -> None:
    """Each client runs the lifespan in an event loop of its own; the first runs the tasks."""
    pulse = TokenPulse(settings=Settings(limit="2/minute"), metrics=metrics)
    app = deploy(pulse, answering())

    with TestClient(app) as first:
        assert first.get("/").status_code == 200
        with TestClient(app) as second:
            assert second.get("/").status_code == 200
        assert first.get("/").status_code == 429
        assert first.get("/health/ready").status_code == 200
    assert TestClient(app).get("/health/ready").status_code == 503


def test_overlapping_starts_in_many_threads_have_one_set_of_tasks(metrics: HttpMetrics) -> None:
    """However many threads start the application at once, the engine runs once at a time."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    app, barrier = pulse.wrap(answering()), Barrier(8)

    def start() -> int:
        barrier.wait(PATIENCE)
        with TestClient(app) as client:
            return client.get("/health").status_code

    with ThreadPoolExecutor(8) as threads:
        statuses = [thread.result() for thread in [threads.submit(start) for _ in range(8)]]

    assert statuses == [200] * 8


def test_lifespan_runs_in_one_event_loop_after_another(metrics: HttpMetrics) -> None:
    """A TokenPulse of a module can be used by tests on asyncio and on trio."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics)

    async def run() -> int:
        async with pulse.lifespan(), pulse.lifespan():
            await pulse.engine.evaluate()
            return (await drive(pulse.wrap(answering()))).status

    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(run, backend=backend) == 200


def test_alerts_of_a_database_outlive_a_start(metrics: HttpMetrics, tmp_path: Path) -> None:
    """A start loads the alerts of an SQL store, as after a restart of the process."""
    settings = Settings(alert_store=f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    pulse = TokenPulse(settings=settings, metrics=metrics)
    app, firing = pulse.wrap(raising), list[list[str]]()

    for failures in (10, 0):
        with TestClient(app, raise_server_exceptions=False) as client:
            for _ in range(failures):
                client.get("/")
            assert client.portal is not None
            client.portal.call(pulse.engine.evaluate)
            firing.append([finding.type for finding in pulse.engine.firing])

    assert firing == [["error_spike"]] * 2


def test_reset_discards_the_traffic_of_this_process(metrics: HttpMetrics) -> None:
    """Limits of requests, tokens and requests in flight, alerts and metrics are empty."""
    slots = InFlight(1)
    policies = [Policy("1/minute"), Policy(slots, name="slots", when=lambda scope: False)]
    pulse = TokenPulse(settings=Settings(), policies=policies, metrics=metrics)
    slots.hit("left open")
    client = TestClient(pulse.wrap(answering()))

    for _ in range(2):
        assert [client.get("/").status_code for _ in range(2)] == [200, 429]
        anyio.run(pulse.engine.evaluate)
        assert [finding.type for finding in pulse.engine.firing] == ["rate_limit"]
        pulse.reset()
        assert (len(slots), pulse.engine.firing) == (0, [])
        assert total(metrics, "tokenpulse_http_requests_total") == 0


def test_nothing_is_limited_while_limits_are_switched_off(metrics: HttpMetrics) -> None:
    """Requests are measured, but neither limited nor counted; afterwards limits are as before."""
    policies = [Policy("1/minute"), Policy("1/hour", name="tokens", tokens=1)]
    pulse = TokenPulse(settings=Settings(), policies=policies, metrics=metrics)
    client = TestClient(pulse.wrap(answering()))

    with pulse.unlimited():
        with suppress(AssertionError), pulse.unlimited():
            assert client.get("/").status_code == 429
        responses = [client.get("/") for _ in range(3)]
        assert {response.status_code for response in responses} == {200}
        assert "ratelimit" not in responses[0].headers

    assert [client.get("/").status_code for _ in range(2)] == [200, 429]
    assert total(metrics, "tokenpulse_http_requests_total", status="200") == 5

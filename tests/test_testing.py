"""Tests of applications: repeated and nested starts, resets, fake clocks, limits off."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from threading import Barrier

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from tokenpulse_mw import Check, HttpMetrics, InFlight, Limiter, Policy, Settings, TokenPulse
from tokenpulse_mw.alerts.store import Matcher
from tokenpulse_mw.testing import FakeClock, fake_clock

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


def test_start_that_fails_can_be_repeated(metrics: HttpMetrics) -> None:
    """The background tasks end with the start, and run after the next one."""
    failures = [RuntimeError("no database")]

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        if failures:
            raise failures.pop()
        yield

    app = Starlette(lifespan=lifespan)
    TokenPulse(settings=Settings(), metrics=metrics).install(app)

    with pytest.raises(RuntimeError, match="no database"), TestClient(app):
        pytest.fail("started")
    with TestClient(app) as client:
        assert client.get("/health/ready").status_code == 200


def test_gateway_that_counts_requests_twice_logs_a_warning(
    metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that has it installed and is wrapped in it starts, and reports the mistake."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics)
    app = pulse.wrap(install(pulse, answering()))

    with TestClient(app) as client:
        client.get("/")

    assert [message for message in caplog.messages if "counts the same request twice" in message]


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


def test_reset_discards_results_of_health_checks(metrics: HttpMetrics) -> None:
    """A test finds the state of its own dependencies, not the cached one of the previous test."""
    is_up = False
    pulse = TokenPulse(
        settings=Settings(),
        checks={"database": Check(lambda: is_up, ttl=3600, failure_ttl=3600)},
        credentials=lambda: {"claude": is_up},
        metrics=metrics,
    )
    client, found = TestClient(pulse.wrap(answering())), list[tuple[int, object]]()

    for is_up in (False, True):  # noqa: B007 - the functions read it
        pulse.reset()
        credentials = client.get("/api/credentials/status").json()
        found.append((client.get("/health/ready").status_code, credentials))

    assert found == [(503, {"claude": False}), (200, {"claude": True})]


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


@pytest.fixture
def tokenpulse(metrics: HttpMetrics) -> TokenPulse:
    """Return the TokenPulse of these tests, as each project defines it."""
    slots = Policy(InFlight(5), name="slots")
    policies = [Policy("1/minute"), Policy("50/hour", name="tokens", tokens=10), slots]
    return TokenPulse(settings=Settings(), policies=policies, metrics=metrics)


def test_limits_follow_the_fake_clock(tokenpulse: TokenPulse, tokenpulse_clock: FakeClock) -> None:
    """A window ends when the clock has reached its end, and not before."""
    client = TestClient(tokenpulse.wrap(answering()))
    statuses: list[int] = []

    for seconds in (0, 59.9, 0.1):
        tokenpulse_clock.advance(seconds)
        statuses.append(client.get("/").status_code)

    assert statuses == [200, 429, 200]


@pytest.mark.anyio
async def test_alerts_follow_the_fake_clock(
    tokenpulse: TokenPulse, tokenpulse_clock: FakeClock
) -> None:
    """Windows, cooldowns, silences and the times of alerts are those of the clock."""
    engine, app = tokenpulse.engine, tokenpulse.wrap(raising)
    transitions: list[list[str]] = []
    now = tokenpulse_clock.wall()
    ends_at = now + 3600
    await engine.controls.silence(Matcher("alertname", "other"), ends_at=ends_at, by="ada")

    with tokenpulse.unlimited():
        for minutes, failures in ((0, 10), (1, 0), (4, 10), (30, 0), (60, 0)):
            tokenpulse_clock.advance(60 * minutes)
            for _ in range(failures):
                await drive(app)
            events = await engine.evaluate()
            transitions.append(
                [event.transition for event in events if event.finding.type == "error_spike"]
            )

    assert transitions[:3] == [["fired"], [], ["reminded"]]
    assert transitions[3] + transitions[4] == ["resolved"]
    (record,) = (await engine.store.alerts(type="error_spike")).items
    assert (record.started_at, engine.controls.silences) == (now, [])


def test_clocks_are_real_again_after_a_test(tokenpulse: TokenPulse) -> None:
    """The TokenPulse is reset, even if the test fails, since the times of two clocks differ."""
    limiter, engine = tokenpulse.policies[0].limiter, tokenpulse.engine
    assert isinstance(limiter, Limiter)
    client = TestClient(tokenpulse.wrap(answering()))
    client.get("/")

    for _ in range(2):
        with suppress(ZeroDivisionError), fake_clock(tokenpulse) as clock:
            assert limiter.clock is engine.clock is clock
            assert [client.get("/").status_code for _ in range(2)] == [200, 429]
            raise ZeroDivisionError

    assert (limiter.clock, engine.clock, engine.wall) == (time.monotonic, time.monotonic, time.time)
    assert client.get("/").status_code == 200


@pytest.mark.usefixtures("tokenpulse_unlimited")
def test_fixture_switches_off_all_limits(tokenpulse: TokenPulse) -> None:
    """No request is limited during the test."""
    client = TestClient(tokenpulse.wrap(answering()))

    assert {client.post("/").status_code for _ in range(20)} == {200}


@pytest.mark.parametrize("seconds", [-1, math.inf, "1", True])
def test_fake_clock_never_goes_back(seconds: float) -> None:
    """A monotonic clock advances by a finite number of seconds."""
    clock = FakeClock(now=10)

    with pytest.raises(ValueError, match=f"^seconds must be a number .*, got {seconds!r}$"):
        clock.advance(seconds)

    clock.advance(0.5)
    assert clock() == clock.now == 10.5

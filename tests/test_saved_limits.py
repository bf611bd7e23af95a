"""Limits that the alert store keeps over a restart."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from starlette.types import Scope

from tokenpulse_mw import AlertEngine, HttpMetrics, Policy, Settings, TokenPulse
from tokenpulse_mw.alerts import MemoryAlertStore, StoreError
from tokenpulse_mw.alerts.store import LimitWindow, LimitWindows, SQLAlertStore
from tokenpulse_mw.ratelimit import InFlight, Limiter, PlanLimiter
from tokenpulse_mw.stack.saved_limits import SavedLimits

from .support.apps import answering

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

ROOT = Path(__file__).parents[1]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a store in a file."""
    return f"sqlite+aiosqlite:///{tmp_path}/alerts.db"


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of SQLAlchemy."""
    return "asyncio"


def gateway(
    *policies: Policy, engine: AlertEngine | None = None, **settings: Any
) -> tuple[TokenPulse, TestClient]:
    """Return a gateway whose responses cost 7 dollars each, and a client for its lifespan."""
    pulse = TokenPulse(
        settings=Settings(price_list="off", **settings),
        metrics=HttpMetrics(CollectorRegistry()),
        policies=policies,
        engine=engine,
    )
    body = b'{"model":"gpt-5","usage":{"prompt_tokens":9,"completion_tokens":9,"cost":7}}'
    return pulse, TestClient(pulse.wrap(answering(body)))


def tenant_of(scope: Scope) -> str:
    """Return the tenant in the headers of a request."""
    return Headers(scope=scope)["x-tenant"]


def budget(limit: str = "20 USD per calendar month", **options: Any) -> Policy:
    """Return a budget of each tenant."""
    return Policy(limit, **{"name": "budget", "key": tenant_of, **options})


def spend(client: TestClient, tenant: str = "acme") -> int:
    """Return the status of a request that costs 7 dollars."""
    return client.post("/chat", headers={"x-tenant": tenant}).status_code


@contextmanager
def running(*policies: Policy, **settings: Any) -> Iterator[TestClient]:
    """Run a gateway, as in a process of its own."""
    with gateway(*policies, **settings)[1] as client:
        yield client


def test_budget_of_a_month_outlives_the_gateway(url: str) -> None:
    """A new process rejects a tenant that has spent its budget, at its first request."""
    with running(budget(), alert_store=url) as client:
        assert [spend(client) for _ in range(4)] == [200, 200, 200, 429]

    with running(budget(), alert_store=url) as client:
        assert spend(client) == 429
        assert spend(client, "zeta") == 200


def test_usage_is_restored_once_for_each_start(url: str) -> None:
    """A second lifespan of the same gateway, and further restarts, add nothing."""
    limiter = Limiter("20 USD per calendar month")
    policy = Policy(limiter, name="budget", key=tenant_of)
    _, client = gateway(policy, alert_store=url)
    with client:
        assert spend(client) == 200
    for _ in range(3):
        with client:
            assert limiter.peek("acme").remaining == 13_000_000


def test_windows_of_other_units_and_short_ones_are_not_restored(url: str) -> None:
    """A policy that keeps its name and counts something else begins with no usage."""
    with running(
        Policy("2/day", name="a"), Policy("2/minute", name="b"), alert_store=url
    ) as client:
        assert [spend(client), spend(client), spend(client)] == [200, 200, 429]

    with running(Policy("2/minute", name="b"), alert_store=url) as client:
        assert spend(client) == 200
    with running(Policy("8000/day", name="a", tokens=10), alert_store=url) as client:
        assert spend(client) == 200
    with running(Policy("2/day", name="a"), alert_store=url) as client:
        assert spend(client) == 429


def test_plans_and_limits_at_routes_outlive_the_gateway(url: str) -> None:
    """A limit that is created after the start is restored at the first save."""
    plans = {"acme": "1/calendar day"}
    for allowed in (200, 429):
        policy = Policy(PlanLimiter(plans), name="plan", key=tenant_of)
        with running(policy, alert_store=url) as client:
            assert spend(client) == allowed

    for remaining in (4, 3):
        pulse, client = gateway(alert_store=url)
        with client:
            limit = pulse.limit("5/day", name="late")
            limit.policy.limiter.hit("acme")
        assert limit.policy.limiter.peek("acme").remaining == remaining  # type: ignore[union-attr]


def test_memory_store_keeps_no_limits() -> None:
    """Without a database each start begins with unused limits, also in the same process."""
    store = MemoryAlertStore()
    for _ in range(2):
        with running(budget("8 USD/day"), engine=AlertEngine(store=store)) as client:
            assert [spend(client), spend(client), spend(client)] == [200, 200, 429]


def test_alerts_that_are_off_keep_no_limits(url: str) -> None:
    """The store is that of the alerts."""
    for _ in range(2):
        with running(budget("8 USD/day"), alert_store=url, alerts=False) as client:
            assert [spend(client), spend(client), spend(client)] == [200, 200, 429]


@asynccontextmanager
async def process(url: str) -> AsyncIterator[tuple[Limiter, SavedLimits]]:
    """Run a limiter of 100 requests a day and its saved limits, as in a process of its own."""
    store, limiter = SQLAlertStore(url), Limiter("100/day")
    saved = SavedLimits(store, [Policy(limiter, name="tenant")])
    async with saved.running():
        yield limiter, saved
    await store.aclose()


def used(limiter: Limiter, key: object = "acme") -> int:
    """Return what a key has used."""
    return limiter.limit - limiter.peek(key).remaining


@pytest.mark.anyio
async def test_processes_that_count_alone_are_not_added_up(url: str) -> None:
    """After a restart each of them has the most that one had: no second budget, no double count."""
    async with process(url) as (first, _), process(url) as (second, _):
        first.hit("acme", 7)
        second.hit("acme", 5)
        assert (used(first), used(second)) == (7, 5)

    async with process(url) as (third, _), process(url) as (fourth, _):
        assert (used(third), used(fourth)) == (7, 7)
        third.hit("acme", 1)
    async with process(url) as (fifth, _):
        assert used(fifth) == 8


@pytest.mark.anyio
async def test_rolling_restart_neither_loses_nor_doubles_what_was_saved(url: str) -> None:
    """A new process takes over the windows of one that still runs and saves again."""
    async with process(url) as (old, saved_old):
        old.hit("acme", 7)
        await saved_old.save()
        async with process(url) as (new, saved_new):
            assert used(new) == 7
            old.hit("acme", 2)
            await saved_old.save()
            await saved_new.save()
    async with process(url) as (last, _):
        assert used(last) == 9


@pytest.mark.anyio
async def test_new_process_has_the_windows_of_an_idle_one_that_is_killed(url: str) -> None:
    """Both have the usage at any time, although only one of them saves it."""
    async with process(url) as (old, saved_old):
        old.hit("acme", 7)
        await saved_old.save()
        async with process(url), process(url) as (last, _):
            await saved_old.save()
            assert used(last) == 7


@pytest.mark.anyio
async def test_reset_and_refund_of_restored_usage_last(url: str) -> None:
    """A key that an operator resets stays reset after the next restart."""
    async with process(url) as (first, _):
        first.hit("acme", 7)
        first.hit("zeta", 3)
    async with process(url) as (second, _):
        second.reset("acme")
        second.charge("zeta", -1)
    async with process(url) as (third, _):
        assert (used(third), used(third, "zeta")) == (0, 2)


@pytest.mark.anyio
async def test_keys_that_no_store_can_have_are_left_out(url: str) -> None:
    """They are those of this process alone, and those of more than 1,024 bytes."""
    keys_used: list[Any] = [object(), "x" * 2000, b"\xff\0", ("a", 1, None)]
    async with process(url) as (first, _):
        for key in keys_used:
            first.hit(key, 2)
    async with process(url) as (second, _):
        assert [used(second, key) for key in keys_used] == [0, 0, 2, 2]


class CountedStore(MemoryAlertStore):
    """Store that counts saves, and fails while `error` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.saves = 0
        self.error: str | None = None

    async def save_windows(self, *arguments: Any, **options: Any) -> None:
        """Count the save."""
        self._check()
        self.saves += 1
        await super().save_windows(*arguments, **options)

    async def load_windows(self, policy: str, /) -> LimitWindows:
        """Return the windows, if the store works."""
        self._check()
        return await super().load_windows(policy)

    def _check(self) -> None:
        if self.error is not None:
            raise StoreError(self.error)


@pytest.mark.anyio
async def test_unchanged_windows_are_not_saved_again() -> None:
    """An idle gateway writes nothing; the same usage of the next window is a change."""
    now, store = 1_000_000.0, CountedStore()
    limiter = Limiter("5/day", clock=lambda: now, wall_clock=lambda: now)
    saved = SavedLimits(store, [Policy(limiter)])
    async with saved.running():
        await saved.save()
        assert store.saves == 1
        for _ in range(2):
            limiter.hit("acme")
            for _ in range(3):
                await saved.save()
            now += 86_400
        assert store.saves == 3


@pytest.mark.anyio
async def test_failing_store_is_logged_once_and_restored_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests are counted meanwhile; the stored usage is added when the store works."""
    store = CountedStore()
    key = b"s4:acme"
    await store.save_windows("tenant requests window", "p1", [LimitWindow(key, 3, 2.0**40)])
    limiter = Limiter("100/day")
    saved = SavedLimits(store, [Policy(limiter, name="tenant")])
    store.error = "the disk is full"
    async with saved.running():
        limiter.hit("acme")
        await saved.save()
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 1
        assert "policy=tenant error=the disk is full" in errors[0]
        assert used(limiter) == 1

        store.error = None
        await saved.save()
        assert used(limiter) == 4
        await saved.save()
    assert used(limiter) == 4


@pytest.mark.anyio
async def test_malformed_row_is_logged_and_nothing_is_added_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The gateway starts, and counts what it could read once."""
    store = CountedStore()
    rows = [LimitWindow(b"s4:acme", 3, 2.0**39), LimitWindow(b"?", 3, 2.0**40)]
    await store.save_windows("default requests window", "p1", rows)
    limiter = Limiter("100/day")
    saved = SavedLimits(store, [Policy(limiter)])
    async with saved.running():
        await saved.save()

    assert used(limiter) == 3
    assert "encoded key must begin with" in caplog.text


@pytest.mark.anyio
async def test_windows_are_saved_while_the_gateway_runs() -> None:
    """A killed process has saved what it counted more than an interval before."""
    store = CountedStore()
    limiter = Limiter("100/day")
    policies = [Policy(limiter), Policy(InFlight(4), name="slots")]
    async with SavedLimits(store, policies, interval=0).running():
        limiter.hit("acme", 7)
        saves = store.saves
        while store.saves == saves:
            await anyio.lowlevel.checkpoint()
        [window] = (await store.load_windows("default requests window")).windows
        assert (window.key, window.used) == (b"s4:acme", 7)


@pytest.mark.slow
def test_killed_process_loses_only_what_was_not_saved(url: str) -> None:
    """The next process has all that was reported as saved, and counts nothing twice."""
    chance, saved, counted = random.Random(), 0, 0
    for _ in range(4):
        command = [sys.executable, "-m", "tests.saved_limits_worker", url]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            lines = [worker.stdout.readline() for _ in range(chance.randint(1, 150))]
            worker.kill()
            lines += worker.stdout.read().splitlines(keepends=True)
        assert worker.returncode == -9
        reports = [line.split() for line in lines if line.endswith("\n")]
        [(word, restored), *_] = reports
        assert word == "restored"
        assert saved <= int(restored) <= counted
        saved = max([int(restored), *(int(value) for word, value in reports if word == "saved")])
        counted = max([saved, *(int(value) for word, value in reports if word == "counting")])
    assert counted

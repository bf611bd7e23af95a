"""Processes that are killed while they write to a store."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

from tokenpulse_mw.alerts.store import AlertStore, SQLAlertStore
from tokenpulse_mw.alerts.store.usage import UsageQuery

from .leadership import beat, taken_over
from .postgres import create_database

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
Reports = dict[str, set[str]]


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of SQLAlchemy."""
    return "asyncio"


def lines_until_killed(url: str, prefix: str, number: int) -> list[str]:
    """Return the lines of a worker that is killed some time after so many lines."""
    command = [sys.executable, "-m", "tests.alerts.store.killed_worker", url, prefix]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        lines = [worker.stdout.readline() for _ in range(number)]
        worker.kill()
        rest = worker.stdout.read()
    assert worker.returncode == -9
    lines += rest.splitlines(keepends=True)
    return [line.strip() for line in lines if line.endswith("\n")]


def by_word(lines: Iterable[str]) -> Reports:
    """Return the values that were reported with each word."""
    reports: Reports = defaultdict(set)
    for line in lines:
        word, value = line.split()
        reports[word].add(value)
    return reports


async def check_traffic(store: AlertStore, prefix: str, reports: Reports) -> None:
    """Assert that the store has every reported batch of a process once: it is counted or waits.

    The usage of each batch was counted once.
    """
    members = (await beat(store)).members
    (pushed,) = [member.pushed for member in members if member.process.name == prefix]
    state = await taken_over(store)
    totals = [int(window.payload) for window in state.windows if window.kind == prefix]
    stored = [batch.number for batch in state.batches if batch.process == prefix]
    assert stored == list(range(sum(totals) + 1, pushed + 1))
    assert {int(number) for number in reports["pushed"]} <= set(range(1, pushed + 1))
    usage = await store.usage(UsageQuery(0, 1, tenant=prefix))
    assert sum(row.requests for row in usage) == pushed  # without a batch, there is no row


async def check(store: AlertStore, reports: Reports) -> None:
    """Assert that the store has every reported change, once and completely."""
    state = await taken_over(store)
    alerts = {alert.id: alert for alert in state.state.alerts}
    waiting = [notification.id for notification in state.notifications]
    assert len(alerts) == len(state.state.alerts)
    assert len(waiting) == len(set(waiting))
    assert reports["stored"] <= alerts.keys()
    assert all(alerts[identity].ack is not None for identity in reports["acknowledged"])
    assert reports["stored"] - reports["delivering"] <= set(waiting), "undelivered ones wait"
    assert not reports["delivered"] & set(waiting), "delivered ones do not wait"
    for identity in alerts:
        assert len(await store.transitions(identity)) == 1
        assert identity in waiting or identity in reports["delivering"], "commits are atomic"
    versions = [version.version for version in reversed(await store.history(1000))]
    assert versions == list(range(1, len(versions) + 1))
    assert {int(version) for version in reports["version"]} <= set(versions)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
async def test_killed_process_loses_and_doubles_no_reported_change(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The next process finds each change that a killed process has reported exactly once."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    if kind == "postgresql":
        server = request.getfixturevalue("postgres")
        url = await asyncio.to_thread(create_database, server, "alerts")
    chance = random.Random()
    lines: list[str] = []
    for prefix in ("first", "second", "third"):
        new = lines_until_killed(url, prefix, chance.randint(1, 150))
        lines += new

        store = SQLAlertStore(url)
        await check_traffic(store, prefix, by_word(new))
        await check(store, by_word(lines))
        await store.aclose()

"""Whose a store is: of two engines on one, each says so; of two after each other, none."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

from tests.alerts.findings import Planned, finding
from tokenpulse_mw.alerts import AlertEngine, AlertStore, MemoryAlertStore, SQLAlertStore
from tokenpulse_mw.alerts.store import Changes


def engine(store: AlertStore, rule: Planned | None = None) -> AlertEngine:
    """An engine that tells nobody."""
    return AlertEngine([rule or Planned()], [], store=store)


@pytest.mark.anyio
async def test_two_engines_on_one_store_say_so_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """Whether there is anything to keep or not, and with the other's process."""
    store = MemoryAlertStore()
    one, other = engine(store), engine(store)

    for each in (one, other, one, other, one, other):
        await each.evaluate()

    lines = [each for each in caplog.records if "another engine" in each.getMessage()]
    assert [each.levelno for each in lines] == [logging.ERROR] * 2
    assert "give each engine a store of its own" in lines[0].getMessage()
    assert len({each.args for each in lines}) == 2


def test_workers_that_share_a_database_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has a store of its own on it, as `uvicorn --workers` makes them."""

    async def run() -> None:
        stores = [SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db") for _ in range(2)]
        one, other = map(engine, stores)
        for each in (one, other, one):
            await each.evaluate()
        for store in stores:
            await store.aclose()

    anyio.run(run)

    assert [each.name for each in caplog.records] == ["tokenpulse_mw.alerts"]
    assert "alerts.db') as well" in caplog.text


@pytest.mark.anyio
async def test_an_engine_that_follows_another_one_is_its_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However the one before has ended, it writes no more."""
    store, rule = MemoryAlertStore(), Planned(finding())

    for _ in range(3):
        following = engine(store, rule)
        for _ in range(3):
            await following.evaluate()
            rule.found = [] if rule.found else [finding()]

    assert caplog.records == []


@pytest.mark.anyio
async def test_a_store_of_ones_own_need_not_know_engines(caplog: pytest.LogCaptureFixture) -> None:
    """Where it does not say whose round was kept, there is nothing to tell."""

    class Mine(MemoryAlertStore):
        async def commit(self, changes: Changes) -> None:
            await super().commit(changes)

    store = Mine()
    one, other = engine(store), engine(store)
    for each in (one, other, one, other):
        await each.evaluate()

    assert caplog.records == []

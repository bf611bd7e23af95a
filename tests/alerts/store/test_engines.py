"""Name of the engine that stored the previous evaluation, in every store."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from tokenpulse_mw.alerts.store import Changes, SQLAlertStore

from .conftest import Open
from .samples import alert, alerts


@pytest.mark.anyio
async def test_commit_returns_the_engine_of_the_previous_evaluation(opened: Open) -> None:
    """Neither a commit without an engine nor a restart changes the name."""
    async with opened() as store:
        engines = [
            await store.commit(Changes(engine="a")),
            await store.commit(Changes(engine="a")),
            await store.commit(alerts(alert())),
            await store.commit(Changes((alert("a2"),), engine="b")),
        ]
    async with opened() as store:
        engines.append(await store.commit(Changes(engine="a")))

        assert engines == [None, "a", "a", "a", "b"]
        assert len((await store.load()).alerts) == 2


def test_database_without_the_table_of_engines_gets_it(tmp_path: Path) -> None:
    """A database from before that table existed gets it when it is opened."""
    path = tmp_path / "alerts.db"

    async def commit(engine: str) -> str | None:
        store = SQLAlertStore(f"sqlite+aiosqlite:///{path}")
        previous = await store.commit(Changes((alert(engine),), engine=engine))
        await store.aclose()
        return previous

    assert anyio.run(commit, "a") is None
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE tokenpulse_alert_engines")
    assert [anyio.run(commit, engine) for engine in "bc"] == [None, "b"]

"""Whose round was kept last: how one engine learns of another on its store."""

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
async def test_whose_round_was_kept_before_is_told(opened: Open) -> None:
    """What belongs to no round changes nothing of it, nor does a restart."""
    async with opened() as store:
        told = [
            await store.commit(Changes(engine="a")),
            await store.commit(Changes(engine="a")),
            await store.commit(alerts(alert())),
            await store.commit(Changes((alert("a2"),), engine="b")),
        ]
    async with opened() as store:
        told.append(await store.commit(Changes(engine="a")))

        assert told == [None, "a", "a", "a", "b"]
        assert len((await store.load()).alerts) == 2


def test_a_database_of_before_goes_on(tmp_path: Path) -> None:
    """It has all but the table that came later, which is made when it is opened."""
    path = tmp_path / "alerts.db"

    async def keep(engine: str) -> str | None:
        store = SQLAlertStore(f"sqlite+aiosqlite:///{path}")
        last = await store.commit(Changes((alert(engine),), engine=engine))
        await store.aclose()
        return last

    assert anyio.run(keep, "a") is None
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE tokenpulse_alert_engines")
    assert [anyio.run(keep, engine) for engine in "bc"] == [None, "b"]

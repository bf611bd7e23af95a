"""Indexes of the SQL stores: pages of alerts read no more rows than they return."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from tokenpulse_mw.alerts.store import SQLAlertStore

from ...support.servers import Server
from ...support.waiting import PATIENCE
from .leadership import commit
from .postgres import create_database
from .samples import alert, alerts, resolved


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of SQLAlchemy."""
    return "asyncio"


@contextmanager
def recorded() -> Iterator[list[tuple[str, Any]]]:
    """Record the queries of alerts and their parameters."""
    queries: list[tuple[str, Any]] = []

    def record(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "FROM tokenpulse_alerts" in statement:
            queries.append((statement, parameters))

    event.listen(Engine, "before_cursor_execute", record)
    try:
        yield queries
    finally:
        event.remove(Engine, "before_cursor_execute", record)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"state": "resolved"},
        {"state": "firing"},
        {"severity": "critical"},
        {"type": "trouble"},
        {"subject": "key:k1"},
    ],
)
async def test_page_of_sqlite_is_a_range_of_one_index(
    tmp_path: Path, filters: dict[str, Any]
) -> None:
    """With any filter, pages are read in their order from an index, and nothing is sorted."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path / 'alerts.db'}")
    with recorded() as queries:
        await commit(store, alerts(*(resolved(f"a{number}") for number in range(3))))
        queries.clear()
        first = await store.alerts(**filters, limit=1)
        await store.alerts(**filters, limit=1, cursor=first.next or None)
    await store.aclose()

    with closing(sqlite3.connect(tmp_path / "alerts.db")) as connection:
        for query, parameters in queries:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", parameters)]
            (step,) = plan
            name = next(iter(filters), "newest")
            assert f"USING INDEX tokenpulse_alerts_{name}" in step
            assert all(f"{column}=?" in step for column in filters)


@pytest.fixture
def url(postgres: Server) -> str:
    """Return the URL of an empty database."""
    return create_database(postgres, "alerts")


@pytest.mark.anyio
async def test_subject_is_found_in_postgresql_by_its_hash(url: str) -> None:
    """The alerts of a subject are found without reading all alerts."""
    store = SQLAlertStore(url, timeout=PATIENCE)
    with recorded() as queries:
        subjects = ({"subject": {"kind": "key", "id": f"k{number}"}} for number in range(2000))
        records = (alert(f"a{n}", finding=finding) for n, finding in enumerate(subjects))
        await commit(store, alerts(*records))
        queries.clear()
        page = await store.alerts(subject="key:k7")
    await store.aclose()
    ((query, parameters),) = queries

    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.execute(text("ANALYZE tokenpulse_alerts"))
        plan = await connection.exec_driver_sql(f"EXPLAIN {query}", parameters)
        steps = "\n".join(row[0] for row in plan)
    await engine.dispose()

    assert [found.id for found in page.items] == ["a7"]
    assert "tokenpulse_alerts_subject_hash" in steps

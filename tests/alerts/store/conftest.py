"""Fixtures that run a test with every kind of store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw.alerts.store import AlertStore, MemoryAlertStore, SQLAlertStore

from ...support.servers import Server
from .postgres import create_database, postgres_server

Open = Callable[..., AbstractAsyncContextManager[AlertStore]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Yield a running PostgreSQL server."""
    with postgres_server() as server:
        yield server


@pytest.fixture(
    params=[
        "memory-asyncio",
        "memory-trio",
        "sqlite-asyncio",
        pytest.param("postgresql-asyncio", marks=pytest.mark.server),
    ]
)
def kind(request: pytest.FixtureRequest) -> str:
    """Return a kind of store and its event loop."""
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """Return the event loop of the kind of store."""
    return kind.partition("-")[2]


@pytest.fixture
def opened(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Open:
    """Return a context manager that opens and closes the store; it is empty the first time.

    Opening the store again is a restart. A store in memory stays the same object.
    """
    memory: list[MemoryAlertStore] = []
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    if kind.startswith("postgresql"):
        url = create_database(request.getfixturevalue("postgres"), "alerts")

    def create(options: dict[str, Any]) -> AlertStore:
        if not kind.startswith("memory"):
            return SQLAlertStore(url, **options)
        if not memory:
            memory.append(MemoryAlertStore(**options))
        return memory[0]

    @asynccontextmanager
    async def open_store(**options: Any) -> AsyncIterator[AlertStore]:
        store = create(options)
        try:
            yield store
        finally:
            await store.aclose()

    return open_store

"""Every kind of store, for tests of what all of them promise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw.alerts.store import AlertStore, MemoryAlertStore, SQLAlertStore

from ...support.servers import Server
from .postgres import new_database, postgres_server

Open = Callable[..., AbstractAsyncContextManager[AlertStore]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL, started."""
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
    """A store, and the event loop that it runs on."""
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """The event loop of this kind of store."""
    return kind.partition("-")[2]


@pytest.fixture
def opened(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Open:
    """Opens a store, which is empty when it is first opened, and closes it.

    Opening it again is a restart; a store in memory stays the same object instead.
    """
    known: list[MemoryAlertStore] = []
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    if kind.startswith("postgresql"):
        url = new_database(request.getfixturevalue("postgres"), "alerts")

    def new(options: dict[str, Any]) -> AlertStore:
        if not kind.startswith("memory"):
            return SQLAlertStore(url, **options)
        if not known:
            known.append(MemoryAlertStore(**options))
        return known[0]

    @asynccontextmanager
    async def open_store(**options: Any) -> AsyncIterator[AlertStore]:
        store = new(options)
        try:
            yield store
        finally:
            await store.aclose()

    return open_store

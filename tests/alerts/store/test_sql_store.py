"""Arguments and event loops of the SQL store."""

from __future__ import annotations

import asyncio
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trio

from tokenpulse_mw.alerts.store import MemoryAlertStore, SQLAlertStore

from .leadership import commit, loaded
from .samples import alert, alerts

_PACKAGE = "tokenpulse_mw.alerts.store.sql"


def test_default_store_is_a_file_in_the_working_directory() -> None:
    """The constructor does not create the file."""
    assert repr(SQLAlertStore()) == "SQLAlertStore('sqlite+aiosqlite:///alerts.db')"
    assert not Path("alerts.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "url must be the URL of a database, such as 'sqlite"),
        ("alerts.db", "url must be the URL of a database, .* got a value that cannot be parsed"),
        (None, "url must be the URL of a database"),
        ("postgresql+asyncpg://u:hunter2@host:port/name", "url must be the URL of a database"),
        ("mysql+aiomysql://u:hunter2@host/name", "SQLite or PostgreSQL .* got one of 'mysql'"),
        ("nonsense://u:hunter2@host/name", "got one of 'nonsense'"),
        (
            "sqlite://alerts.db",
            "three slashes before the file, .* got 'sqlite://alerts.db",
        ),
        ("sqlite://data/alerts.db", "must have three slashes before the file"),
        (
            "sqlite:///alerts.db?timeout=x",
            "url must have valid .* options, got 'sqlite:///alerts.db'",
        ),
        ("postgresql://u:hunter2@/d?host=a&host=b", "hosts, ports and options, .*: All ports are"),
        (
            "postgresql://u:hunter2@h/d?port=x",
            "valid hosts, ports and options, .* non-integer port",
        ),
        ("sqlite+aiosqlite://", "for a store in memory use MemoryAlertStore"),
        ("sqlite+aiosqlite:///:memory:", "for a store in memory use MemoryAlertStore"),
        ("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true", "MemoryAlertStore"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "MemoryAlertStore"),
        ("sqlite+pysqlite:///a.db", "must name an asynchronous driver, .* got 'sqlite.*///a.db'"),
        ("sqlite+nonsense:///alerts.db", "must name an asynchronous driver"),
        ("postgresql+psycopg2://u:hunter2@h/d", r"asynchronous driver, .*psycopg2://u:\*\*\*@h/d'"),
    ],
)
def test_unusable_url_is_rejected(url: str, message: str) -> None:
    """The message shows a valid URL and never a password."""
    with pytest.raises(ValueError, match=message) as caught:
        SQLAlertStore(url)

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", None])
def test_timeout_that_is_not_above_0_is_rejected(timeout: Any) -> None:
    """A timeout must be a number of seconds above 0."""
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds above 0, got "):
        SQLAlertStore(timeout=timeout)


@pytest.mark.parametrize("max_history", [0, -1, True, 1.5])
def test_max_history_that_is_not_a_positive_integer_is_rejected(max_history: int) -> None:
    """`max_history` must be an integer of at least 1 in every store."""
    for store in (SQLAlertStore, MemoryAlertStore):
        with pytest.raises(
            ValueError,
            match=f"^max_history must be an integer of at least 1, got {max_history!r}$",
        ):
            store(max_history=max_history)


def test_missing_extra_is_named_by_the_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SQLAlchemy the class can be imported, and its constructor names the extra."""
    for name in [name for name in sys.modules if name.startswith(_PACKAGE)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    module = import_module(f"{_PACKAGE}.store")

    with pytest.raises(ValueError, match=r"package sqlalchemy: pip install 'tokenpulse-mw\[sql\]'"):
        module.SQLAlertStore()


def test_missing_driver_is_named_by_the_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor names the missing driver of a URL, without the password."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(
        ValueError, match="needs the package asyncpg: pip install asyncpg"
    ) as caught:
        SQLAlertStore("postgresql+asyncpg://u:hunter2@host/name")

    assert "hunter2" not in str(caught.value)


def test_call_on_trio_is_rejected(tmp_path: Path) -> None:
    """A call on trio names the store to use there; closing an unused store is allowed."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")

    with pytest.raises(RuntimeError, match="on trio use MemoryAlertStore"):
        trio.run(store.load)
    trio.run(store.aclose)


def test_closed_store_works_in_another_event_loop(tmp_path: Path) -> None:
    """After it was closed, a store can be used in a new event loop."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")

    async def stored(identity: str) -> int:
        await asyncio.gather(*(commit(store, alerts(alert(identity))) for _ in range(3)))
        state = await loaded(store)
        await store.aclose()
        return len(state.alerts)

    assert [asyncio.run(stored("a1")), asyncio.run(stored("a2"))] == [1, 2]


def test_call_that_runs_when_its_event_loop_ends_logs_nothing() -> None:
    """A call that was abandoned ends with the event loop, without a log line of asyncio."""
    pytest.importorskip("asyncpg", reason="pip install asyncpg")
    logged: list[object] = []

    async def abandon(url: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(SQLAlertStore(url).load(), 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(abandon(f"postgresql+asyncpg://u:p@127.0.0.1:{silent.getsockname()[1]}/name"))

    assert logged == []

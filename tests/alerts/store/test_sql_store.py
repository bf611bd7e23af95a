"""What a store in a database asks for before it opens one."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from tokenpulse_mw.alerts.store import MemoryAlertStore, SQLAlertStore

from .samples import alert, alerts

_OURS = "tokenpulse_mw.alerts.store.sql"


def test_a_store_is_a_file_of_the_working_folder() -> None:
    """Nothing need be said, and nothing is made before it is asked."""
    assert repr(SQLAlertStore()) == "SQLAlertStore('sqlite+aiosqlite:///alerts.db')"
    assert not Path("alerts.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "url must be that of a database, such as 'sqlite"),
        ("alerts.db", "url must be that of a database"),
        (None, "url must be that of a database"),
        ("postgresql+asyncpg://u:hunter2@host:port/name", "url must be that of a database"),
        ("mysql+aiomysql://u:hunter2@host/name", "got one of 'mysql'"),
        ("nonsense://u:hunter2@host/name", "got one of 'nonsense'"),
        ("sqlite+aiosqlite://", "for a store in memory use MemoryAlertStore"),
        ("sqlite+aiosqlite:///:memory:", "for a store in memory use MemoryAlertStore"),
        ("sqlite+aiosqlite:///file::memory:?cache=shared&uri=true", "MemoryAlertStore"),
        ("sqlite+aiosqlite:///file:x?mode=memory&uri=true", "MemoryAlertStore"),
        ("sqlite:///alerts.db", "must name an asynchronous driver, .* got 'sqlite:///alerts.db'"),
        ("sqlite+nonsense:///alerts.db", "must name an asynchronous driver"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str, message: str) -> None:
    """The message says what to write instead, and never a password."""
    with pytest.raises(ValueError, match=message) as error:
        SQLAlertStore(url)

    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", None])
def test_a_timeout_is_above_0(timeout: Any) -> None:
    """No call ends before it begins."""
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds above 0, got "):
        SQLAlertStore(timeout=timeout)


@pytest.mark.parametrize("most", [0, -1, True, 1.5])
def test_a_history_keeps_something(most: int) -> None:
    """A bound is a whole number from 1 on."""
    for store in (SQLAlertStore, MemoryAlertStore):
        with pytest.raises(ValueError, match="max_history must be at least 1"):
            store(max_history=most)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without SQLAlchemy the import still works, and who makes a store is told what to install."""
    for name in [name for name in sys.modules if name.startswith(_OURS)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)

    with pytest.raises(ValueError, match=r"package sqlalchemy: pip install 'tokenpulse-mw\[sql\]'"):
        SQLAlertStore()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever names a database is told what its driver is called."""
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    with pytest.raises(ValueError, match="needs the package asyncpg: pip install asyncpg") as e:
        SQLAlertStore("postgresql+asyncpg://u:hunter2@host/name")

    assert "hunter2" not in str(e.value)


def test_trio_is_told_what_to_use(tmp_path: Path) -> None:
    """SQLAlchemy runs on asyncio only; to close a store that was never opened is fine."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")

    with pytest.raises(RuntimeError, match="on trio use MemoryAlertStore"):
        trio.run(store.load)
    trio.run(store.aclose)


def test_a_closed_store_may_move_to_another_event_loop(tmp_path: Path) -> None:
    """A test client has a loop of its own each time."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")

    async def use(identity: str) -> int:
        await asyncio.gather(*(store.commit(alerts(alert(identity))) for _ in range(3)))
        kept = await store.load()
        await store.aclose()
        return len(kept.alerts)

    assert [asyncio.run(use("a1")), asyncio.run(use("a2"))] == [1, 2]


def test_a_call_may_be_under_way_when_its_event_loop_ends() -> None:
    """It ends too, and asyncio has nothing to say of it."""
    pytest.importorskip("asyncpg", reason="pip install asyncpg")
    logged: list[object] = []

    async def give_up(url: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(SQLAlertStore(url).load(), 0.05)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(give_up(f"postgresql+asyncpg://u:p@127.0.0.1:{silent.getsockname()[1]}/name"))

    assert logged == []

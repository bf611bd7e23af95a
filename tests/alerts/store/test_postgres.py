"""PostgreSQL in trouble, where the system has one."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.support.servers import Server
from tokenpulse_mw.alerts.store import Conflict, SQLAlertStore, StoreError

from .postgres import PASSWORD, new_database, postgres_server, url_of
from .samples import alert, alerts


@pytest.fixture
def anyio_backend() -> str:
    """What SQLAlchemy runs on."""
    return "asyncio"


@pytest.fixture
def url(postgres: Server) -> str:
    """A new database."""
    return new_database(postgres, "alerts")


@pytest.mark.anyio
async def test_a_password_is_never_told(postgres: Server) -> None:
    """Neither by a server that refuses it, nor by one that is not there."""
    right, wrong = url_of(postgres, "nowhere"), url_of(postgres, "alerts").replace("hunt", "hurt")
    away = wrong.replace(str(postgres.port), "1")

    for url in (right, wrong, away):
        store = SQLAlertStore(url)
        with pytest.raises(StoreError, match=r"postgresql\+asyncpg://gateway:\*\*\*@127") as error:
            await store.load()
        await store.aclose()

        told = f"{store!r} {error.value} {error.value.__cause__}"
        assert PASSWORD not in told
        assert "hunter" not in told
        assert "hurter" not in told


@pytest.mark.anyio
async def test_a_lost_connection_is_made_anew(url: str) -> None:
    """A server that was restarted costs no call."""
    store = SQLAlertStore(url)
    await store.commit(alerts(alert()))
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'alerts' AND pid <> pg_backend_pid()"
            )
        )
    await engine.dispose()

    assert await store.alert("a1") == alert()
    await store.aclose()


@pytest.mark.anyio
async def test_two_processes_may_use_one_database(url: str) -> None:
    """Tables are made once, and of one version both make only one is made."""
    stores = [SQLAlertStore(url), SQLAlertStore(url)]
    await asyncio.gather(*(store.commit(alerts(alert())) for store in stores for _ in range(5)))
    made = await asyncio.gather(
        *(store.set_thresholds({}, expected=None, by="", at=1) for store in stores),
        return_exceptions=True,
    )

    assert sorted(type(each) is Conflict for each in made) == [False, True]
    assert (await stores[0].load()).alerts == (alert(),)
    for store in stores:
        await store.aclose()


def test_a_server_that_hangs_is_given_up() -> None:
    """No call waits for it longer than it may."""

    async def ask(url: str) -> None:
        store = SQLAlertStore(url, timeout=0.3)
        with pytest.raises(StoreError, match=r"gave no answer for 0.3 seconds"):
            await store.load()
        await store.aclose()

    with postgres_server() as server:
        url = new_database(server, "alerts")
        server.stop()
        asyncio.run(ask(url))
        server.go_on()

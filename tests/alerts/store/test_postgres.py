"""PostgreSQL in trouble, where the system has one."""

from __future__ import annotations

import asyncio
import base64
import random

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tokenpulse_mw.alerts.store import Changes, Conflict, SQLAlertStore, StoreError
from tokenpulse_mw.alerts.store_writer import StoreWriter
from tokenpulse_mw.alerts.tracker import AlertChanges

from ...support.servers import Server
from ...support.waiting import PATIENCE
from .patiently import patiently
from .postgres import PASSWORD, new_database, postgres_server, url_of
from .proxy import Proxy
from .samples import alert, alerts, notification, transition

# More than an index can hold, also when it is compressed.
LONG = base64.b64encode(random.Random(1).randbytes(6000)).decode()


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
        store = SQLAlertStore(url, timeout=PATIENCE)
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
    store = SQLAlertStore(url, timeout=PATIENCE)
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
async def test_a_connection_that_falls_silent_costs_no_more_than_its_call(
    postgres: Server, url: str
) -> None:
    """Also where whoever asked has gone before the call's deadline, as an engine does."""
    async with Proxy(postgres.port) as proxy:
        store = SQLAlertStore(url.replace(f":{postgres.port}/", f":{proxy.port}/"), timeout=0.5)
        await patiently(lambda: store.commit(alerts(alert())))
        proxy.lose()
        for _ in range(2):
            # Where the machine stands still, the call may have ended by itself.
            with pytest.raises((asyncio.TimeoutError, StoreError)):
                await asyncio.wait_for(store.commit(alerts(alert("a2"))), 0.1)

        await patiently(lambda: store.commit(alerts(alert("a3"))))
        kept = await patiently(store.load)

        assert {each.id for each in kept.alerts} >= {"a1", "a3"}
        await store.aclose()


@pytest.mark.anyio
async def test_an_id_of_any_length_is_kept(url: str) -> None:
    """A client may send one as long as a header; it is not in an index."""
    store = SQLAlertStore(url, timeout=PATIENCE)
    long = alert(fingerprint=LONG, rule=LONG, type=LONG, resolve_reason=LONG)
    happened = transition(fingerprint=LONG)

    for _ in range(2):
        await store.commit(Changes((long,), (happened,), (notification(fingerprint=LONG),)))

    assert (await store.load()).alerts == (long,)
    assert await store.transitions("a1") == (happened,)
    await store.aclose()


@pytest.mark.anyio
async def test_what_an_index_cannot_hold_costs_only_itself(url: str) -> None:
    """A sink of which the name is too long has its notifications in memory alone."""
    store, reported = SQLAlertStore(url, timeout=PATIENCE), list[str]()
    journal = StoreWriter(
        store, deadline=PATIENCE, report=lambda _, error: reported.append(type(error).__name__)
    )
    told = [notification("n1"), notification(LONG), notification("n2")]

    journal.add([AlertChanges(alerts=[alert()], transitions=[transition()])], told)
    await journal.write()

    assert reported == ["BadRecord"]
    assert await store.transitions("a1") == (transition(),)
    assert [each.id for each in (await store.load()).notifications] == ["n1", "n2"]
    await store.aclose()


@pytest.mark.anyio
async def test_two_processes_may_use_one_database(url: str) -> None:
    """Tables are made once, and of one version both make only one is made."""
    stores = [SQLAlertStore(url, timeout=PATIENCE), SQLAlertStore(url, timeout=PATIENCE)]
    await asyncio.gather(*(store.commit(alerts(alert())) for store in stores for _ in range(5)))
    made = await asyncio.gather(
        *(store.set_thresholds({}, expected=None, by="", at=1) for store in stores),
        return_exceptions=True,
    )

    assert sorted(type(each) is Conflict for each in made) == [False, True]
    assert (await stores[0].load()).alerts == (alert(),)
    for store in stores:
        await store.aclose()


@pytest.mark.server
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

"""Failures of PostgreSQL, if the system has it."""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tokenpulse_mw.alerts.store import (
    Ack,
    BadRecord,
    Changes,
    Conflict,
    Fenced,
    Leader,
    LeaseRequest,
    SQLAlertStore,
    StoreError,
    WindowRecord,
)

from ...support.servers import Server
from ...support.waiting import PATIENCE
from .leadership import batch, beat, commit, loaded, take, waiting
from .pgbouncer import pgbouncer
from .postgres import PASSWORD, create_database, postgres_server, url_of
from .proxy import Proxy
from .retry import retry
from .samples import alert, alerts, notification, resolved, silence, transition

# Too long for an index entry, also compressed.
LONG = base64.b64encode(random.Random(1).randbytes(6000)).decode()


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of SQLAlchemy."""
    return "asyncio"


@pytest.fixture
def url(postgres: Server) -> str:
    """Return the URL of an empty database."""
    return create_database(postgres, "alerts")


@pytest.mark.anyio
async def test_error_does_not_contain_the_password(postgres: Server) -> None:
    """Neither a server that rejects the password nor a closed port reveals it."""
    right, wrong = url_of(postgres, "nowhere"), url_of(postgres, "alerts").replace("hunt", "hurt")
    away = wrong.replace(str(postgres.port), "1")

    for url in (right, wrong, away):
        store = SQLAlertStore(url, timeout=PATIENCE)
        with pytest.raises(StoreError, match=r"postgresql\+asyncpg://gateway:\*\*\*@127") as caught:
            await loaded(store)
        await store.aclose()

        shown = f"{store!r} {caught.value} {caught.value.__cause__}"
        assert PASSWORD not in shown
        assert "hunter" not in shown
        assert "hurter" not in shown


@pytest.mark.anyio
async def test_closed_connection_is_replaced(url: str) -> None:
    """No call fails after the server has closed the connections."""
    store = SQLAlertStore(url, timeout=PATIENCE)
    await commit(store, alerts(alert()))
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
async def test_silent_connection_fails_only_its_calls(postgres: Server, url: str) -> None:
    """Calls on a silent connection end at the timeout, even if the caller was cancelled before."""
    async with Proxy(postgres.port) as proxy:
        store = SQLAlertStore(url.replace(f":{postgres.port}/", f":{proxy.port}/"), timeout=0.5)
        await retry(lambda: commit(store, alerts(alert())))
        proxy.lose()
        for _ in range(2):
            # On a slow machine the call may end by itself.
            with pytest.raises((asyncio.TimeoutError, StoreError)):
                await asyncio.wait_for(commit(store, alerts(alert("a2"))), 0.1)

        await retry(lambda: commit(store, alerts(alert("a3"))))
        state = await retry(lambda: loaded(store))

        assert {alert.id for alert in state.alerts} >= {"a1", "a3"}
        await store.aclose()


@pytest.mark.anyio
async def test_process_that_is_stopped_in_a_transaction_blocks_no_other(
    postgres: Server, url: str
) -> None:
    """The server ends the transaction of a silent client, which holds the lock of the fleet."""
    async with Proxy(postgres.port) as proxy:
        through = url.replace(f":{postgres.port}/", f":{proxy.port}/")
        stopped, other = SQLAlertStore(through, timeout=2), SQLAlertStore(url, timeout=2)
        await retry(lambda: take(stopped, "p1"))
        proxy.lost_before = b"INSERT INTO tokenpulse_alert_members"
        with pytest.raises(StoreError, match="did not respond"):
            await beat(stopped, "p1", lease=LeaseRequest("renew", 1))

        leader = await retry(lambda: take(other, "p2"))

        assert leader.process == "p2"
        for store in (stopped, other):
            await store.aclose()


@pytest.mark.anyio
async def test_write_fails_while_another_process_holds_the_lock(url: str) -> None:
    """Reads continue while another process holds the lock; writes continue after it."""
    store, engine = SQLAlertStore(url, timeout=1), create_async_engine(url)
    await retry(lambda: beat(store))

    async def error_of_write() -> str:
        with pytest.raises(StoreError) as caught:
            await store.set_setting("name", 1, by="ada", at=1)
        return str(caught.value)

    async with engine.connect() as connection:
        await connection.execute(text("UPDATE tokenpulse_alert_fleet SET beat = beat"))
        async with asyncio.timeout(PATIENCE):
            # On a slow machine our timeout may come before the one of PostgreSQL.
            while "did not respond" in (message := await error_of_write()):
                pass
        assert "lock timeout (another process holds the lock: if it is stopped" in message
        assert (await retry(lambda: loaded(store))).settings == {}
        await connection.rollback()
    await retry(lambda: store.set_setting("name", 1, by="ada", at=1))

    assert (await retry(lambda: loaded(store))).settings == {"name": 1}
    await engine.dispose()
    await store.aclose()


@pytest.mark.anyio
async def test_time_of_the_fleet_is_the_clock_of_the_server(url: str) -> None:
    """The time passes within a transaction, and decides which silences have ended."""
    store, engine = SQLAlertStore(url, timeout=PATIENCE), create_async_engine(url)
    await store.add_silence(silence("ended", 100, 200))
    await store.add_silence(silence("lasts", 100, 1e11))
    async with engine.connect() as connection:
        clock = text("SELECT extract(epoch FROM clock_timestamp())::float8")
        before = await connection.scalar(clock)
        state = await beat(store)
        after = await connection.scalar(clock)
    await engine.dispose()

    assert state.is_reference
    assert before < state.members[0].seen_at < state.now < after
    assert [silence.id for silence in (await loaded(store)).silences] == ["lasts"]
    await store.aclose()


@pytest.mark.anyio
async def test_process_has_at_most_two_connections(url: str) -> None:
    """32 processes have at most 64 connections, of the 100 that PostgreSQL allows."""
    store, engine = SQLAlertStore(url, timeout=PATIENCE), create_async_engine(url)
    calls: list[Callable[[], Awaitable[object]]] = [store.load, lambda: beat(store)] * 10
    await asyncio.gather(*(call() for call in calls))
    async with engine.connect() as connection:
        query = text(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = 'alerts' AND pid <> pg_backend_pid()"
        )
        assert await connection.scalar(query) <= 2
    await engine.dispose()
    await store.aclose()


@pytest.mark.anyio
async def test_tables_of_another_program_are_an_error(url: str) -> None:
    """Tables with our names but other columns are neither read nor changed."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE tokenpulse_alert_members (name text)"))
    await engine.dispose()
    store = SQLAlertStore(url, timeout=PATIENCE)

    with pytest.raises(StoreError, match=r"without 'host': drop .* another database or schema"):
        await store.load()
    await store.aclose()


async def hurry(store: SQLAlertStore, name: str, rounds: int) -> int:
    """Make all calls that lock rows, as fast as possible; return the number of commits."""
    commits = 0

    async def evaluate() -> None:
        nonlocal commits
        for number in range(rounds):
            identity = f"{name}-{number}"
            seen = await beat(store, name)
            await beat(store, name, lease=LeaseRequest("take", seen.epoch, seen.beat))
            with suppress(Fenced):
                leader = Leader(seen.epoch + 1, name)
                changes = Changes(
                    (alert("both"), resolved(identity), alert(f"open {identity}")),
                    (transition("both", number),),
                    (notification(identity), notification("both")),
                    consumed=tuple((f"p{index}", number) for index in range(3)),
                    windows=(WindowRecord("minute", 1, 1, b"counts"),),
                )
                await store.commit(changes, leader=leader)
                commits += 1
                await store.claim(identity, leader=leader)
            await store.dead(identity, number, "410 Gone")

    async def send_heartbeats() -> None:
        for number in range(1, rounds + 1):
            await beat(store, name, batch(number, name))
            await store.acknowledge("both", Ack(name, number))

    async def prune() -> None:
        for number in range(rounds):
            await store.prune(1e6)
            await store.set_setting("level", number, by=name, at=1)
            await store.add_silence(silence("both"))

    await asyncio.gather(evaluate(), send_heartbeats(), prune())
    return commits


@pytest.mark.anyio
@pytest.mark.parametrize("is_pooled", [False, True])
async def test_concurrent_transactions_do_not_deadlock(
    postgres: Server, url: str, is_pooled: bool
) -> None:
    """No call of three processes fails, directly or through a pooler, and no batch is lost."""
    rounds = 15
    with pgbouncer(postgres) if is_pooled else nullcontext(postgres) as server:
        place = url.replace(f":{postgres.port}/", f":{server.port}/")
        stores = [SQLAlertStore(place, timeout=PATIENCE, max_history=3) for _ in range(3)]
        commits = await asyncio.gather(
            *(hurry(store, f"p{index}", rounds) for index, store in enumerate(stores))
        )
        members = (await beat(stores[0], "p0")).members

        assert all(commits)
        assert [member.pushed for member in members] == [rounds] * 3
        for store in stores:
            await store.aclose()


@pytest.mark.anyio
async def test_long_names_are_stored(url: str) -> None:
    """Names from traffic may be longer than an index entry, because no index contains them."""
    store = SQLAlertStore(url, timeout=PATIENCE)
    finding = {"subject": {"kind": "key", "id": LONG}}
    long = alert(fingerprint=LONG, rule=LONG, type=LONG, resolve_reason=LONG, finding=finding)
    fired = transition(fingerprint=LONG)

    for _ in range(2):
        await commit(store, Changes((long,), (fired,), (notification(fingerprint=LONG),)))

    assert (await loaded(store)).alerts == (long,)
    assert await store.transitions("a1") == (fired,)
    await store.aclose()


@pytest.mark.anyio
async def test_id_that_is_too_long_rejects_the_commit(url: str) -> None:
    """A commit with an id that no index can hold stores nothing, and succeeds without it."""
    store = SQLAlertStore(url, timeout=PATIENCE)
    long = Changes((alert(),), (transition(),), (notification("n1"), notification(LONG)))

    with pytest.raises(BadRecord):
        await commit(store, long)
    assert (await loaded(store)).alerts == ()
    await commit(store, replace(long, notifications=(notification("n1"),)))

    assert await waiting(store) == (notification("n1"),)
    await store.aclose()


@pytest.mark.anyio
async def test_two_stores_may_share_a_database(url: str) -> None:
    """Two stores create the tables once, and only one of them sets the first thresholds."""
    stores = [SQLAlertStore(url, timeout=PATIENCE), SQLAlertStore(url, timeout=PATIENCE)]
    await asyncio.gather(*(commit(store, alerts(alert())) for store in stores for _ in range(5)))
    results = await asyncio.gather(
        *(store.set_thresholds({}, expected=None, by="", at=1) for store in stores),
        return_exceptions=True,
    )

    assert sorted(type(result) is Conflict for result in results) == [False, True]
    assert (await loaded(stores[0])).alerts == (alert(),)
    for store in stores:
        await store.aclose()


@pytest.mark.anyio
async def test_missing_root_certificate_names_the_option(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike libpq's message, ours names the option for the certificates of the system."""
    monkeypatch.setenv("HOME", str(tmp_path))
    store = SQLAlertStore(f"{url}?sslmode=verify-full", timeout=PATIENCE)

    with pytest.raises(StoreError, match=r"root certificate .*add sslrootcert=system to the URL"):
        await loaded(store)
    await store.aclose()


@pytest.mark.server
def test_certificate_of_the_server_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sslrootcert` names the file of the authority; `system` uses those of the system."""
    authority, root = trustme.CA(), tmp_path / "root.pem"
    authority.cert_pem.write_to_path(root)
    options = {
        "require": "sslmode=require",
        "file": f"sslmode=verify-full&sslrootcert={root}",
        "system": "sslmode=verify-full&sslrootcert=system",
    }

    async def connected(url: str) -> list[str]:
        accepted = []
        for name, query in options.items():
            store = SQLAlertStore(f"{url}?{query}", timeout=PATIENCE)
            with suppress(StoreError):
                await loaded(store)
                accepted.append(name)
            await store.aclose()
        return accepted

    with postgres_server(authority.issue_cert("127.0.0.1")) as server:
        url = create_database(server, "alerts")
        assert asyncio.run(connected(url)) == ["require", "file"]
        monkeypatch.setenv("SSL_CERT_FILE", str(root))
        assert asyncio.run(connected(url)) == ["require", "file", "system"]
        trustme.CA().cert_pem.write_to_path(root)
        assert asyncio.run(connected(url)) == ["require"]


@pytest.mark.server
def test_server_that_hangs_fails_the_call_at_its_timeout() -> None:
    """A call of a server that does not respond raises StoreError at the timeout."""

    async def load(url: str) -> None:
        store = SQLAlertStore(url, timeout=0.3)
        with pytest.raises(StoreError, match=r"did not respond within 0.3 seconds"):
            await loaded(store)
        await store.aclose()

    with postgres_server() as server:
        url = create_database(server, "alerts")
        server.stop()
        asyncio.run(load(url))
        server.resume()


@pytest.mark.anyio
async def test_pooled_connections_of_pgbouncer_are_supported(postgres: Server, url: str) -> None:
    """In transaction mode each transaction may run on another connection of the server."""
    with pgbouncer(postgres) as server:
        pooled = url.replace(f":{postgres.port}/", f":{server.port}/")
        stores = [SQLAlertStore(f"{pooled}?pgbouncer=true", timeout=PATIENCE) for _ in range(3)]

        await asyncio.gather(
            *(
                commit(store, alerts(alert(f"a{number}-{index}")))
                for index, store in enumerate(stores)
                for number in range(20)
            ),
            *(store.alerts(limit=number + 1) for store in stores for number in range(20)),
        )

        assert len((await loaded(stores[0])).alerts) == 60
        for store in stores:
            await store.aclose()


@pytest.mark.anyio
async def test_url_of_a_cloud_vendor_is_accepted(
    postgres: Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The scheme without a driver and the options of other clients are translated."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    plain = url.replace("postgresql+asyncpg:", "postgres:")
    options = "sslmode=prefer&channel_binding=prefer&connect_timeout=60&application_name=gateway"
    store = SQLAlertStore(f"{plain}?{options}&target_session_attrs=read-write", timeout=PATIENCE)

    await commit(store, alerts(alert()))
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        names = await connection.scalars(text("SELECT application_name FROM pg_stat_activity"))
        assert "gateway" in set(names)
    await engine.dispose()
    await store.aclose()

    assert caplog.messages == ["option of the database URL has no effect: name=channel_binding"]


@pytest.mark.anyio
async def test_required_encryption_is_required(url: str) -> None:
    """A server without TLS is not sent the password."""
    for options in ("sslmode=require", "ssl=true", "sslmode=verify-full&sslrootcert=system"):
        store = SQLAlertStore(f"{url}?{options}", timeout=PATIENCE)
        with pytest.raises(StoreError, match="rejected SSL upgrade"):
            await loaded(store)
        await store.aclose()

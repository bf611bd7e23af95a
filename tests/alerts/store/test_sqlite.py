"""Failures of SQLite."""

from __future__ import annotations

import asyncio
import gc
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tokenpulse_mw import filesystem
from tokenpulse_mw.alerts.store import (
    BadRecord,
    Changes,
    Conflict,
    EngineState,
    Page,
    SQLAlertStore,
    StoreError,
    WindowRecord,
)

from ...support.waiting import PATIENCE
from .leadership import batch, beat, commit, leader_of, loaded, taken_over
from .retry import retry
from .samples import alert, alerts, notifications, transition


@pytest.fixture
def anyio_backend() -> str:
    """Return the event loop of SQLAlchemy."""
    return "asyncio"


@asynccontextmanager
async def opened(
    path: Path, options: str = "", *, timeout: float = PATIENCE
) -> AsyncIterator[SQLAlertStore]:
    """Open the store in a file and close it."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{path}{options}", timeout=timeout)
    try:
        yield store
    finally:
        await store.aclose()


async def fill(path: Path, number: int = 1) -> None:
    """Create a file with some alerts and thresholds."""
    async with opened(path) as store:
        await commit(store, alerts(*(alert(f"a{index}") for index in range(number))))
        await store.set_thresholds({"error_rate": 0.5}, expected=None, by="ada", at=1)


def execute(path: Path, *statements: str) -> None:
    """Execute statements on the file without the store."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.mark.anyio
async def test_missing_folder_fails_until_it_is_created(tmp_path: Path) -> None:
    """The error names the file and the fix; after the fix the same store works."""
    folder = tmp_path / "late"
    async with opened(folder / "alerts.db") as store:
        for call in (store.load(), commit(store, alerts(alert()))):
            with pytest.raises(StoreError, match=r"late/alerts.db: .*create its folder"):
                await call
        folder.mkdir()
        await commit(store, alerts(alert()))

        assert await store.alert("a1") == alert()


@pytest.mark.anyio
async def test_file_that_is_not_a_database_is_not_overwritten(tmp_path: Path) -> None:
    """A file that is not a database is neither changed nor read as an empty store."""
    path = tmp_path / "alerts.db"
    path.write_text("notes that are not a database: " * 100)
    before = path.read_bytes()

    async with opened(path) as store:
        for call in (store.load(), commit(store, alerts(alert()))):
            with pytest.raises(StoreError, match=r"file is not a database .*move it away"):
                await call

    assert path.read_bytes() == before


@pytest.mark.anyio
async def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    """A file that cannot be read raises an error instead of returning an empty state."""
    path = tmp_path / "alerts.db"
    await fill(path, 500)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    async with opened(path) as store:
        with pytest.raises(StoreError, match=r"malformed .*restore it"):
            await loaded(store)


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["{", "[]", "7", '{"by": 1}'])
async def test_damaged_row_is_an_error(tmp_path: Path, text: str) -> None:
    """A row with an invalid value raises an error instead of being skipped."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(path, f"UPDATE tokenpulse_alerts SET ack = '{text}'")

    async with opened(path) as store:
        with pytest.raises(StoreError, match=r"alerts.db"):
            await loaded(store)


@pytest.mark.anyio
async def test_unreadable_thresholds_are_an_error(tmp_path: Path) -> None:
    """Thresholds that cannot be read raise an error instead of becoming the defaults."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(path, "DROP TABLE tokenpulse_alert_thresholds")

    async with opened(path) as store:
        for call in (store.load(), store.history(1)):
            with pytest.raises(StoreError, match="no such table"):
                await call


@pytest.mark.anyio
async def test_read_only_file_is_an_error_of_writes(tmp_path: Path) -> None:
    """The error names the permission that the process needs."""
    path = tmp_path / "alerts.db"
    await fill(path)

    async with opened(Path(f"file:{path}"), "?mode=ro&uri=true") as store:
        with pytest.raises(StoreError, match=r"readonly database .*allow this process to write"):
            await commit(store, alerts(alert()))


@pytest.mark.anyio
async def test_tables_of_another_version_are_an_error(tmp_path: Path) -> None:
    """Tables of a newer release are used only if this release can read them."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(path, "UPDATE tokenpulse_alert_schema SET version = 4, readable_from = 4")

    async with opened(path) as store:
        for call in (store.load(), commit(store, alerts(alert("new")))):
            with pytest.raises(
                StoreError,
                match=r"by version 3, got version 4, .* 4: install",
            ):
                await call

    execute(path, "UPDATE tokenpulse_alert_schema SET readable_from = 1")
    async with opened(path) as store:
        assert [alert.id for alert in (await loaded(store)).alerts] == ["a0"]


@pytest.mark.anyio
async def test_tables_of_a_newer_release_may_be_readable(tmp_path: Path) -> None:
    """During a deployment this release uses tables with the new columns of the next one."""
    path = tmp_path / "alerts.db"
    await fill(path)
    tables = ("alerts", "alert_fleet", "alert_members", "alert_batches", "alert_windows")
    execute(
        path,
        "UPDATE tokenpulse_alert_schema SET version = 3",
        *(f"ALTER TABLE tokenpulse_{table} ADD COLUMN more INTEGER DEFAULT 7" for table in tables),
    )

    async with opened(path) as store:
        await beat(store, "p2", batch(1, "p2"))
        await commit(store, Changes((alert("new"),), windows=(WindowRecord("day", 1, 1, b""),)))
        state = await taken_over(store)

    assert [alert.id for alert in state.state.alerts] == ["a0", "new"]
    assert state.batches == (batch(1, "p2"),)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("table", "columns", "missing"),
    [
        ("tokenpulse_alert_schema", "version INTEGER PRIMARY KEY", "readable_from"),
        ("tokenpulse_alert_fleet", "id INTEGER PRIMARY KEY, epoch INTEGER", "beat"),
        ("tokenpulse_alerts", "id TEXT", "ack"),
    ],
)
async def test_tables_of_another_program_are_an_error(
    tmp_path: Path, table: str, columns: str, missing: str
) -> None:
    """Tables with our names but other columns are neither read nor changed."""
    path = tmp_path / "alerts.db"
    execute(path, f"CREATE TABLE {table} ({columns})")

    async with opened(path) as store:
        for call in (store.load(), commit(store, alerts(alert("new")))):
            with pytest.raises(StoreError, match=f"'{table}' .* without '{missing}': .*another"):
                await call

    with closing(sqlite3.connect(path)) as connection:
        assert list(connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")) == [
            (table,)
        ]


@pytest.mark.anyio
async def test_write_fails_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    """Reads continue while another process holds the lock; writes continue after it."""
    path = tmp_path / "alerts.db"
    await fill(path)

    async def error_of_write() -> str:
        with pytest.raises(StoreError) as caught:
            await store.delivered("n1")
        return str(caught.value)

    async with opened(path, timeout=1) as store:
        await retry(store.load)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with asyncio.timeout(PATIENCE):
                # On a slow machine our timeout may come before the one of SQLite.
                while "did not respond" in (message := await error_of_write()):
                    pass
            assert re.search(r"database is locked .*another process holds the lock", message)
            assert await retry(lambda: store.alert("a0")) == alert("a0")
            other.execute("COMMIT")
        await retry(lambda: commit(store, alerts(alert("a2"))))

        assert await store.alert("a2") == alert("a2")


@pytest.mark.anyio
async def test_calls_behind_a_blocked_one_fail_at_their_timeout(tmp_path: Path) -> None:
    """All waiting calls raise StoreError at the timeout, and later calls succeed."""
    path = tmp_path / "alerts.db"
    await fill(path)

    async with opened(path, timeout=0.3) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = [commit(store, alerts(alert(f"b{number}"))) for number in range(4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            other.execute("COMMIT")
        assert all(isinstance(result, StoreError) for result in results)
        assert "did not respond within 0.3 seconds" in str(results[-1])
        await retry(lambda: commit(store, alerts(alert("c"))))

        assert await retry(lambda: store.alert("c")) == alert("c")


@pytest.mark.anyio
async def test_new_file_that_is_locked_is_retried_until_the_timeout(tmp_path: Path) -> None:
    """The store waits for a process that creates the file at the same time."""
    path = tmp_path / "alerts.db"

    async with opened(path, timeout=0.4) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match=r"did not respond within 0.4 seconds"):
                await loaded(store)
            other.execute("COMMIT")

        assert await retry(store.load) == EngineState()


_FILLS_THE_DISK = """
import asyncio, resource, sys
from tests.alerts.store.leadership import commit, loaded
from tests.alerts.store.samples import alert, alerts
from tokenpulse_mw.alerts.store import SQLAlertStore, StoreError

async def main():
    store = SQLAlertStore(sys.argv[1])
    await commit(store, alerts(alert("before")))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    for number in range(1000):
        try:
            await commit(store, alerts(alert(f"a{number}", finding={"x": "x" * 10_000})))
        except StoreError as error:
            print(error)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    await commit(store, alerts(alert("after")))
    stored = {alert.id for alert in (await loaded(store)).alerts}
    assert stored == {"before", "after", *(f"a{index}" for index in range(number))}, stored
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.slow
def test_full_disk_fails_only_the_commits_that_do_not_fit(tmp_path: Path) -> None:
    """Earlier commits stay stored, and later ones succeed when there is space again."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    command = [sys.executable, "-c", _FILLS_THE_DISK, url]
    root = Path(__file__).parents[3]

    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "alerts.db: OperationalError: " in result.stdout
    assert "disk" in result.stdout


@pytest.mark.anyio
async def test_commit_of_a_cancelled_caller_is_completed(tmp_path: Path) -> None:
    """A commit that has begun is completed, and closing the store waits for it."""
    path = tmp_path / "alerts.db"
    async with opened(path) as store:
        leader = await leader_of(store)
        caller = asyncio.ensure_future(store.commit(alerts(alert()), leader=leader))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    async with opened(path) as store:
        assert await store.alert("a1") == alert()


@pytest.mark.anyio
async def test_error_does_not_contain_secrets_of_the_url(tmp_path: Path) -> None:
    """A secret in an error of the database is redacted."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(
        path,
        "CREATE TRIGGER reveal BEFORE INSERT ON tokenpulse_alert_notifications "
        "BEGIN SELECT RAISE(ABORT, 'no: hunter2+x'); END",
    )

    async with opened(Path(f"file:{path}"), "?uri=true&password=hunter2%2Bx") as store:
        with pytest.raises(StoreError, match=r"no: \*\*\*") as caught:
            await commit(store, notifications("n1"))

        assert caught.value.__cause__ is None
        assert "hunter2" not in f"{store!r} {caught.value}"


@pytest.mark.anyio
async def test_bad_record_is_distinguished_from_a_database_failure(tmp_path: Path) -> None:
    """A record that can never be stored raises BadRecord; a missing table does not."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(
        path,
        "CREATE TRIGGER short BEFORE INSERT ON tokenpulse_alert_notifications "
        "WHEN length(NEW.id) > 9 BEGIN SELECT RAISE(ABORT, 'too long'); END",
    )

    async with opened(path) as store:
        for changes in (notifications("n" * 10), alerts(alert(type=7))):
            with pytest.raises(BadRecord, match=r"alerts.db: "):
                await commit(store, changes)
        await commit(store, notifications("n1"))
        execute(path, "DROP TABLE tokenpulse_alert_notifications")
        with pytest.raises(StoreError) as caught:
            await commit(store, notifications("n2"))

        assert not isinstance(caught.value, BadRecord)


@pytest.mark.slow
@pytest.mark.anyio
async def test_abandoned_calls_end_without_a_log_line(tmp_path: Path) -> None:
    """Calls whose caller has timed out end at the store's timeout; asyncio logs nothing."""
    path = tmp_path / "alerts.db"
    await fill(path)
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))

    async with opened(path, timeout=0.3) as store:
        await retry(store.load)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                # On a slow machine the call may end by itself.
                with pytest.raises((asyncio.TimeoutError, StoreError)):
                    await asyncio.wait_for(commit(store, alerts(alert("b"))), 0.05)
            await asyncio.gather(store.delivered("n"), return_exceptions=True)
            other.execute("COMMIT")
        await retry(lambda: commit(store, alerts(alert("c"))))
    gc.collect()

    assert logged == []


@pytest.mark.anyio
async def test_error_does_not_contain_records(tmp_path: Path) -> None:
    """Neither the error nor its cause contains values of a record."""
    path = tmp_path / "alerts.db"
    await fill(path)
    execute(path, "DROP TABLE tokenpulse_alert_transitions")

    async with opened(path) as store:
        with pytest.raises(StoreError) as caught:
            await commit(store, Changes((alert(),), (transition(fingerprint="a private subject"),)))

        assert "a private subject" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.anyio
async def test_two_stores_may_share_a_file(tmp_path: Path) -> None:
    """All concurrent commits are stored, and only one store sets the first thresholds."""
    path = tmp_path / "alerts.db"
    async with opened(path) as one, opened(path) as two:
        stores = (one, two)
        await asyncio.gather(
            *(
                commit(store, Changes((alert(f"a{number}"),), (transition(f"a{number}"),)))
                for number in range(20)
                for store in stores
            )
        )
        results = await asyncio.gather(
            *(store.set_thresholds({}, expected=None, by="", at=1) for store in stores),
            return_exceptions=True,
        )

        assert len((await loaded(one)).alerts) == 20
        assert len(await two.transitions("a7")) == 1
        assert sorted(type(result) is Conflict for result in results) == [False, True]
        assert len(await one.history(10)) == 1


@pytest.mark.anyio
async def test_concurrent_first_calls_succeed(tmp_path: Path) -> None:
    """Concurrent first calls of a new store create the tables once and all succeed."""
    async with opened(tmp_path / "alerts.db") as store:
        calls: list[Callable[[], Awaitable[object]]] = [store.load, store.alerts] * 3
        results = await asyncio.gather(*(call() for call in calls))

        assert results == [EngineState(), Page((), None)] * 3


@pytest.mark.anyio
async def test_closed_store_opens_again(tmp_path: Path) -> None:
    """A closed store can be used and closed again."""
    async with opened(tmp_path / "alerts.db") as store:
        await commit(store, alerts(alert()))
        await store.aclose()
        await store.aclose()

        assert await store.alert("a1") == alert()


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["//srv/alerts.db", "/file:/srv/alerts.db?uri=true"])
async def test_file_on_a_network_file_system_is_rejected(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call of the store fails with the fix, and creates no file."""
    (tmp_path / "mounts").write_text("41 22 0:45 / /srv rw - nfs4 10.0.0.2:/srv rw,vers=4.2\n")
    monkeypatch.setattr(filesystem, "_MOUNTS", tmp_path / "mounts")
    store = SQLAlertStore(f"sqlite://{path}")

    with pytest.raises(StoreError, match=r"must be on a local disk, .* or PostgreSQL if"):
        await store.load()
    await store.aclose()

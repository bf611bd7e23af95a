"""A database in trouble: every error is told, with what to do, and nothing is made up."""

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

from tokenpulse_mw.alerts.store import (
    BadRecord,
    Changes,
    Conflict,
    EngineState,
    Page,
    SQLAlertStore,
    StoreError,
)

from ...support.waiting import PATIENCE
from .patiently import patiently
from .samples import alert, alerts, notifications, transition


@pytest.fixture
def anyio_backend() -> str:
    """What SQLAlchemy runs on."""
    return "asyncio"


@asynccontextmanager
async def opened(
    path: Path, options: str = "", *, timeout: float = PATIENCE
) -> AsyncIterator[SQLAlertStore]:
    """The store in a file, closed afterwards."""
    store = SQLAlertStore(f"sqlite+aiosqlite:///{path}{options}", timeout=timeout)
    try:
        yield store
    finally:
        await store.aclose()


async def filled(path: Path, many: int = 1) -> None:
    """Make a file with some alerts in it."""
    async with opened(path) as store:
        await store.commit(alerts(*(alert(f"a{number}") for number in range(many))))
        await store.set_thresholds({"error_rate": 0.5}, expected=None, by="ada", at=1)


def said(path: Path, *statements: str) -> None:
    """Do something to the file behind the store's back."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.mark.anyio
async def test_a_folder_that_is_missing_is_told_and_can_be_made(tmp_path: Path) -> None:
    """The message names the file and what it needs; the same store works when it is there."""
    folder = tmp_path / "late"
    async with opened(folder / "alerts.db") as store:
        for call in (store.load(), store.commit(alerts(alert()))):
            with pytest.raises(StoreError, match=r"late/alerts.db: .*its folder must exist"):
                await call
        folder.mkdir()
        await store.commit(alerts(alert()))

        assert await store.alert("a1") == alert()


@pytest.mark.anyio
async def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    """It is neither overwritten nor taken for an empty store."""
    path = tmp_path / "alerts.db"
    path.write_text("somebody's notes, and quite long ones: " * 100)
    before = path.read_bytes()

    async with opened(path) as store:
        for call in (store.load(), store.commit(alerts(alert()))):
            with pytest.raises(StoreError, match=r"file is not a database .*move it away"):
                await call

    assert path.read_bytes() == before


@pytest.mark.anyio
async def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """What cannot be read is an error, and not an empty answer or a default."""
    path = tmp_path / "alerts.db"
    await filled(path, many=500)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    async with opened(path) as store:
        with pytest.raises(StoreError, match=r"malformed .*restore it"):
            await store.load()


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["{", "[]", "7", '{"by": 1}'])
async def test_a_damaged_row_is_told(tmp_path: Path, text: str) -> None:
    """A row that does not hold what it should is an error, and no alert is left out."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(path, f"UPDATE tokenpulse_alerts SET ack = '{text}'")

    async with opened(path) as store:
        with pytest.raises(StoreError, match=r"alerts.db"):
            await store.load()


@pytest.mark.anyio
async def test_thresholds_that_cannot_be_read_are_no_defaults(tmp_path: Path) -> None:
    """A sick database changes nobody's thresholds."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(path, "DROP TABLE tokenpulse_alert_thresholds")

    async with opened(path) as store:
        for call in (store.load(), store.history(1)):
            with pytest.raises(StoreError, match="no such table"):
                await call


@pytest.mark.anyio
async def test_a_file_that_is_read_only_is_told(tmp_path: Path) -> None:
    """The message says what this process must be able to do."""
    path = tmp_path / "alerts.db"
    await filled(path)

    async with opened(Path(f"file:{path}"), "?mode=ro&uri=true") as store:
        with pytest.raises(StoreError, match=r"readonly database .*must be able to write"):
            await store.commit(alerts(alert()))


@pytest.mark.anyio
async def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """An older tokenpulse-mw does not write into what it does not understand."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(path, "UPDATE tokenpulse_alert_schema SET version = 2")

    async with opened(path) as store:
        for call in (store.load(), store.commit(alerts(alert("new")))):
            with pytest.raises(StoreError, match=r"version 2, .* knows version 1: install"):
                await call

    said(path, "UPDATE tokenpulse_alert_schema SET version = 1")
    async with opened(path) as store:
        assert [each.id for each in (await store.load()).alerts] == ["a0"]


@pytest.mark.anyio
async def test_another_writer_is_waited_for_and_then_told(tmp_path: Path) -> None:
    """While somebody holds the file, reading goes on; writing does so when they let go."""
    path = tmp_path / "alerts.db"
    await filled(path)

    async def refusal() -> str:
        with pytest.raises(StoreError) as refused:
            await store.delivered("n1")
        return str(refused.value)

    async with opened(path, timeout=1) as store:
        await patiently(store.load)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            async with asyncio.timeout(PATIENCE):
                # On a slow machine its time may be over before that is known.
                while "gave no answer" in (told := await refusal()):
                    pass
            assert re.search(r"database is locked .*another process holds it", told)
            assert await patiently(lambda: store.alert("a0")) == alert("a0")
            other.execute("COMMIT")
        await patiently(lambda: store.commit(alerts(alert("a2"))))

        assert await store.alert("a2") == alert("a2")


@pytest.mark.anyio
async def test_a_call_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    """Those who wait behind one that is stuck do not wait for ever, and it all goes on after."""
    path = tmp_path / "alerts.db"
    await filled(path)

    async with opened(path, timeout=0.3) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            calls = [store.commit(alerts(alert(f"b{number}"))) for number in range(4)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            other.execute("COMMIT")
        assert all(isinstance(each, StoreError) for each in results)
        assert "gave no answer for 0.3 seconds" in str(results[-1])
        await patiently(lambda: store.commit(alerts(alert("c"))))

        assert await patiently(lambda: store.alert("c")) == alert("c")


@pytest.mark.anyio
async def test_a_new_file_that_somebody_holds_is_waited_for(tmp_path: Path) -> None:
    """Whoever is just making the file is not disturbed, and is waited for as long as may be."""
    path = tmp_path / "alerts.db"

    async with opened(path, timeout=0.4) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError, match=r"gave no answer for 0.4 seconds"):
                await store.load()
            other.execute("COMMIT")

        assert await patiently(store.load) == EngineState()


_FILLS_THE_DISK = """
import asyncio, resource, sys
from tests.alerts.store.samples import alert, alerts
from tokenpulse_mw.alerts.store import SQLAlertStore, StoreError

async def main():
    store = SQLAlertStore(sys.argv[1])
    await store.commit(alerts(alert("before")))
    was = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, was[1]))
    for number in range(1000):
        try:
            await store.commit(alerts(alert(f"a{number}", finding={"x": "x" * 10_000})))
        except StoreError as error:
            print(error)
            break
    resource.setrlimit(resource.RLIMIT_FSIZE, was)
    await store.commit(alerts(alert("after")))
    kept = {each.id for each in (await store.load()).alerts}
    assert kept == {"before", "after", *(f"a{each}" for each in range(number))}, kept
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    """What did not fit is an error, all before it is kept, and it goes on when there is room."""
    url = f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    command = [sys.executable, "-c", _FILLS_THE_DISK, url]
    root = Path(__file__).parents[3]

    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert "alerts.db: OperationalError: " in done.stdout
    assert "disk" in done.stdout


@pytest.mark.anyio
async def test_a_caller_that_is_cancelled_leaves_nothing_by_half(tmp_path: Path) -> None:
    """What has begun happens wholly, and closing the store waits for it."""
    path = tmp_path / "alerts.db"
    async with opened(path) as store:
        await store.load()
        caller = asyncio.ensure_future(store.commit(alerts(alert())))
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller

    async with opened(path) as store:
        assert await store.alert("a1") == alert()


@pytest.mark.anyio
async def test_a_secret_of_the_url_is_never_told(tmp_path: Path) -> None:
    """Neither the store's name nor an error holds it, also where the database says it."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(
        path,
        "CREATE TRIGGER told BEFORE INSERT ON tokenpulse_alert_notifications "
        "BEGIN SELECT RAISE(ABORT, 'no: hunter2+x'); END",
    )

    async with opened(Path(f"file:{path}"), "?uri=true&password=hunter2%2Bx") as store:
        with pytest.raises(StoreError, match=r"no: \*\*\*") as error:
            await store.commit(notifications("n1"))

        assert error.value.__cause__ is None
        assert "hunter2" not in f"{store!r} {error.value}"


@pytest.mark.anyio
async def test_what_can_never_be_kept_is_told_from_a_database_in_trouble(tmp_path: Path) -> None:
    """Whoever gave it may leave it out, and give the rest again; a database is only asked later."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(
        path,
        "CREATE TRIGGER short BEFORE INSERT ON tokenpulse_alert_notifications "
        "WHEN length(NEW.id) > 9 BEGIN SELECT RAISE(ABORT, 'too long'); END",
    )

    async with opened(path) as store:
        for changes in (notifications("n" * 10), alerts(alert(type=7))):
            with pytest.raises(BadRecord, match=r"alerts.db: "):
                await store.commit(changes)
        await store.commit(notifications("n1"))
        said(path, "DROP TABLE tokenpulse_alert_notifications")
        with pytest.raises(StoreError) as error:
            await store.commit(notifications("n2"))

        assert not isinstance(error.value, BadRecord)


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_call_that_nobody_waits_for_ends_as_well(tmp_path: Path) -> None:
    """An engine that gives it up sooner leaves nothing behind, and no log of asyncio either."""
    path = tmp_path / "alerts.db"
    await filled(path)
    logged: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))

    async with opened(path, timeout=0.3) as store:
        await patiently(store.load)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                # Where the machine stands still, the call may have ended by itself.
                with pytest.raises((asyncio.TimeoutError, StoreError)):
                    await asyncio.wait_for(store.commit(alerts(alert("b"))), 0.05)
            await asyncio.gather(store.delivered("n"), return_exceptions=True)
            other.execute("COMMIT")
        await patiently(lambda: store.commit(alerts(alert("c"))))
    gc.collect()

    assert logged == []


@pytest.mark.anyio
async def test_an_error_tells_no_contents(tmp_path: Path) -> None:
    """The text of an error holds no alert, and its cause can be looked into."""
    path = tmp_path / "alerts.db"
    await filled(path)
    said(path, "DROP TABLE tokenpulse_alert_transitions")

    async with opened(path) as store:
        with pytest.raises(StoreError) as error:
            await store.commit(changes_of("a private subject"))

        assert "a private subject" not in f"{error.value} {error.value.__cause__}"


def changes_of(subject: str) -> Changes:
    """A round on one subject."""
    return Changes((alert("a1"),), (transition("a1", fingerprint=subject),))


@pytest.mark.anyio
async def test_two_processes_may_use_one_file(tmp_path: Path) -> None:
    """All of what both commit at once is there, and of one version both make only one is made."""
    path = tmp_path / "alerts.db"
    async with opened(path) as one, opened(path) as two:
        stores = (one, two)
        await asyncio.gather(
            *(
                store.commit(Changes((alert(f"a{number}"),), (transition(f"a{number}"),)))
                for number in range(20)
                for store in stores
            )
        )
        made = await asyncio.gather(
            *(store.set_thresholds({}, expected=None, by="", at=1) for store in stores),
            return_exceptions=True,
        )

        assert len((await one.load()).alerts) == 20
        assert len(await two.transitions("a7")) == 1
        assert sorted(type(each) is Conflict for each in made) == [False, True]
        assert len(await one.history(10)) == 1


@pytest.mark.anyio
async def test_a_store_begins_once_whoever_asks_first(tmp_path: Path) -> None:
    """Many that ask a new store at once all get their answer."""
    async with opened(tmp_path / "alerts.db") as store:
        calls: list[Callable[[], Awaitable[object]]] = [store.load, store.alerts] * 3
        answers = await asyncio.gather(*(call() for call in calls))

        assert answers == [EngineState(), Page((), None)] * 3


@pytest.mark.anyio
async def test_a_closed_store_opens_again(tmp_path: Path) -> None:
    """A gateway that is started twice in one process needs no new store; to close twice is fine."""
    async with opened(tmp_path / "alerts.db") as store:
        await store.commit(alerts(alert()))
        await store.aclose()
        await store.aclose()

        assert await store.alert("a1") == alert()

"""Leader that is stopped or ends, in a fleet of real processes."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ...support.receiver import Receiver, respond_with
from ...support.waiting import PATIENCE
from ..store.postgres import create_database
from .gateway_process import Plan
from .processes import FailingKeys, GatewayProcess, LeaseWatch, wait_for, watched

pytestmark = pytest.mark.slow

PROCESSES = 3
SLACK_SECONDS = 5.0  # of a busy machine


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/alerts.db"
    return create_database(request.getfixturevalue("postgres"), "failover")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Yield the receiver of all events."""
    with Receiver() as receiver:
        yield receiver


class Processes:
    """Running processes of a fleet, its lease, and the keys that fail."""

    def __init__(
        self, processes: list[GatewayProcess], watch: LeaseWatch, failing: FailingKeys
    ) -> None:
        self.processes = processes
        self.watch = watch
        self.failing = failing

    @property
    def epoch(self) -> int:
        """Return the number of the newest leadership."""
        return self.watch.leases[-1].epoch

    def leader(self) -> GatewayProcess:
        """Return the leader."""
        assert self.watch.lease is not None
        pid = self.watch.lease.pid
        (leader,) = (process for process in self.processes if process.pid == pid)
        return leader

    async def wait_for_leader(self, epoch: int) -> None:
        """Wait for the leader of at least this epoch."""
        await wait_for(
            lambda: self.watch.lease is not None and self.epoch >= epoch, "no process leads"
        )

    async def wait_for_batches(self, number: int = 3) -> None:
        """Wait until each process has stored so many more batches."""
        last = {process: process.record.stored + number for process in self.processes}
        await wait_for(
            lambda: all(process.record.stored >= last[process] for process in last),
            "not all processes store their traffic",
        )


@asynccontextmanager
async def running(
    url: str, folder: Path, receiver: Receiver, *, lease: float
) -> AsyncIterator[Processes]:
    """Run processes, of which one leads, and all know each other."""
    deadline, keys = time.time() + 5 * PATIENCE, FailingKeys(folder / "failing.json")
    async with watched(url) as watch:
        processes = [
            GatewayProcess(
                Plan(
                    url=url,
                    webhook=receiver.url,
                    record=str(folder / f"gateway-{number}.jsonl"),
                    tenant=f"gateway-{number}",
                    failing=str(keys.path),
                    deadline=deadline,
                    lease=lease,
                ),
                folder,
            )
            for number in range(PROCESSES)
        ]
        try:
            fleet = Processes(processes, watch, keys)
            await fleet.wait_for_leader(1)
            await fleet.wait_for_batches()
            yield fleet
        finally:
            for process in processes:
                process.kill()


def stop_outside_of_transactions(process: GatewayProcess, url: str) -> None:
    """Stop a process that does not hold the lock of a SQLite file, which the others need."""
    while True:
        process.stop()
        if not url.startswith("sqlite"):
            return
        connection = sqlite3.connect(url.partition("///")[2], timeout=0.2, isolation_level=None)
        try:
            connection.executescript("BEGIN IMMEDIATE; ROLLBACK")
        except sqlite3.OperationalError:
            process.resume()
        else:
            return
        finally:
            connection.close()


def test_leader_that_was_stopped_for_longer_than_its_lease_sends_and_writes_nothing(
    url: str, receiver: Receiver, tmp_path: Path
) -> None:
    """The next leader delivers its waiting event, and the old one, resumed, only counts again."""

    async def run() -> None:
        receiver.respond = respond_with(503, retry_after="5")
        async with running(url, tmp_path, receiver, lease=3) as fleet:
            fleet.failing.add("failing")
            await wait_for(lambda: receiver.received != [], "no event was sent")
            old, epoch = fleet.leader(), fleet.epoch
            stop_outside_of_transactions(old, url)
            attempts = len(receiver.received)
            receiver.respond = respond_with(200)

            await fleet.wait_for_leader(epoch + 1)
            await wait_for(lambda: len(receiver.received) > attempts, "the event was not delivered")
            old.resume()
            await fleet.wait_for_batches()

            (delivered,) = receiver.received[attempts:]
            assert delivered.json["data"]["transition"] == "fired"
            assert delivered.headers["x-tenant"] == fleet.leader().plan.tenant
            assert fleet.leader() is not old
            assert fleet.epoch == epoch + 1
            transitions = await fleet.watch.rows("SELECT * FROM tokenpulse_alert_transitions")
            assert len(transitions) == 1

    asyncio.run(run())


def test_leader_that_ends_hands_over_within_a_heartbeat(
    url: str, receiver: Receiver, tmp_path: Path
) -> None:
    """The next leader does not wait for the end of the lease."""

    async def run() -> None:
        async with running(url, tmp_path, receiver, lease=30) as fleet:
            old, epoch = fleet.leader(), fleet.epoch
            await old.end()
            await fleet.wait_for_leader(epoch + 1)

            released, taken = fleet.watch.leases[-2:]
            heartbeat = old.plan.heartbeat
            assert released.holder is None
            assert taken.seen_at - released.seen_at <= heartbeat + SLACK_SECONDS

    asyncio.run(run())

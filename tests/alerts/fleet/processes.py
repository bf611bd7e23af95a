"""Processes of a fleet that tests kill and stop, and the lease as the database has it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ...support.waiting import PATIENCE
from .gateway_process import Plan

ROOT = Path(__file__).parents[3]
POLL_SECONDS = 0.1
OPEN_ALERTS = "SELECT fingerprint, state FROM tokenpulse_alerts WHERE state <> 'resolved'"


class Record(NamedTuple):
    """Traffic of a process as it has recorded it.

    Attributes:
        process: Name of the process in the store; empty before its first heartbeat with traffic.
        observed: Times of all observed exchanges, the oldest first.
        sent: Requests of each batch, by its number.
        stored: Number of the last batch that the store has confirmed.
        ended: True if the process has ended by itself.
    """

    process: str
    observed: list[float]
    sent: dict[int, int]
    stored: int
    ended: bool


def read_record(path: Path) -> Record:
    """Return what a process has recorded."""
    process, observed, sent, stored, ended = "", list[float](), dict[int, int](), 0, False
    # A process that was killed soon after its start has recorded nothing.
    for line in path.read_text().splitlines() if path.exists() else ():
        kind, *values = json.loads(line)
        if kind == "observed":
            observed += [values[1]] * (values[0] - len(observed))
        elif kind == "sent":
            process, number, requests = values
            assert sent.setdefault(number, requests) == requests, "a batch has changed"
        elif kind == "stored":
            process, stored = values
        else:
            ended = True
    return Record(process, observed, sent, stored, ended)


class GatewayProcess:
    """Running process.

    Args:
        plan: Its options; the record is in the folder, with the name of its tenant.
        folder: Folder of its log.

    Attributes:
        plan: The argument.
        killed_at: Time at which it was killed, in seconds since the epoch.
        is_stopped: It is suspended.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.killed_at: float | None = None
        self.is_stopped = False
        module = f"{__package__}.gateway_process"
        command = [sys.executable, "-m", module, msgspec.json.encode(plan).decode()]
        with (folder / f"{plan.tenant}.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Return True if it runs and is not stopped."""
        return self._process.poll() is None and not self.is_stopped

    @property
    def record(self) -> Record:
        """Return its traffic."""
        return read_record(Path(self.plan.record))

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process.poll() is None:
            self.killed_at = time.time()
            self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Suspend it."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)
        self.is_stopped = True

    def resume(self) -> None:
        """Resume it after `stop`."""
        self.is_stopped = False
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Let it end by itself."""
        self._process.terminate()
        await wait_for(
            lambda: self._process.poll() is not None, f"{self.plan.tenant} has not ended"
        )
        assert self._process.returncode == 0, self.plan.tenant


class Lease(NamedTuple):
    """Leadership of a fleet in the database.

    Attributes:
        seen_at: Time of `time.time()` at which it was first seen.
        epoch: Number of the leadership.
        holder: Name of the leader.
    """

    seen_at: float
    epoch: int
    holder: str | None

    @property
    def pid(self) -> int | None:
        """Return the process id of the leader."""
        return None if self.holder is None else int(self.holder.split(":")[1])


class LeaseWatch:
    """Reads the lease and the open alerts regularly, and other values on demand.

    Attributes:
        leases: All changes of the lease.
        open: State of each open alert, by fingerprint.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.leases: list[Lease] = []
        self.open: dict[str, str] = {}
        self._engine = engine

    @property
    def lease(self) -> Lease | None:
        """Return the current lease; None if it is free."""
        newest = self.leases[-1] if self.leases else None
        return None if newest is None or newest.holder is None else newest

    async def rows(self, query: str) -> list[Any]:
        """Return the rows of a query; the database must be available."""
        async with self._engine.connect() as connection:
            return list((await connection.execute(text(query))).all())

    async def number(self, query: str) -> int:
        """Return the number that a query returns."""
        return int((await self.rows(query))[0][0])

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            # The database may not be available, or have no tables.
            with suppress(SQLAlchemyError, OSError, ValueError):
                rows = await self.rows("SELECT epoch, holder FROM tokenpulse_alert_fleet")
                newest = self.leases[-1] if self.leases else None
                for epoch, holder in rows:
                    if newest is None or (epoch, holder) != newest[1:]:
                        self.leases.append(Lease(time.time(), epoch, holder))
                self.open = dict(map(tuple, await self.rows(OPEN_ALERTS)))
            await asyncio.sleep(POLL_SECONDS)


@asynccontextmanager
async def watched(url: str) -> AsyncIterator[LeaseWatch]:
    """Run a `LeaseWatch` of a database."""
    engine = create_async_engine(url, pool_pre_ping=True)
    watch = LeaseWatch(engine)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await engine.dispose()


class FailingKeys:
    """Keys whose requests fail in all processes, in a file that they read.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: set[str] = set()
        self._write()

    def add(self, key: str) -> None:
        """Let the requests of a key fail."""
        self._keys.add(key)
        self._write()

    def remove(self, key: str) -> None:
        """End the failures of a key."""
        self._keys.remove(key)
        self._write()

    def _write(self) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(sorted(self._keys)))
        new.replace(self.path)


async def wait_for(holds: Callable[[], bool], failure: str) -> None:
    """Wait until `holds` returns True; after `PATIENCE` seconds fail with the message `failure`."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, failure
        await asyncio.sleep(POLL_SECONDS / 5)

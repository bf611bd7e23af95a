"""Cost of a fleet: a heartbeat, the leader's reading and evaluation, and a takeover."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import median

import anyio
import pytest

from tokenpulse_mw import AlertEngine
from tokenpulse_mw.alerts.fleet import Fleet
from tokenpulse_mw.alerts.store import SQLAlertStore

from ..alerts.store.postgres import create_database, postgres_server
from ..support.clock import FakeClock
from .alerts import THRESHOLDS, exchange
from .measure import ROUNDS
from .report import Cell, Summary, table

HEARTBEAT, LEASE = 5, 15
SUBJECTS = 5000
HOUR = 3600

Rows = list[list[Cell]]


class Processes:
    """Engines of one fleet, with a clock that only the benchmark advances.

    Args:
        url: URL of the database.
        members: Number of processes that never lead.
    """

    def __init__(self, url: str, members: int) -> None:
        self.clock = FakeClock(time.time())
        self.leader = self._engine(url, leads=True)
        self.successor = self._engine(url, leads=True)
        self.members = [self._engine(url, leads=False) for _ in range(members)]
        self.engines = [*self.members, self.leader, self.successor]

    def _engine(self, url: str, *, leads: bool) -> AlertEngine:
        return AlertEngine(
            sinks=[],
            thresholds=THRESHOLDS,
            store=SQLAlertStore(url, wall=self.clock),
            clock=self.clock,
            wall=self.clock,
            fleet=Fleet(heartbeat=HEARTBEAT, lease=LEASE, leads=leads),
        )

    async def lead(self) -> None:
        """Let the leader take the lease."""
        for _ in range(2):
            await self.leader.fleet()

    async def push(self, subjects: int) -> None:
        """Let each member count requests of so many of all subjects, and send them."""
        for member in self.members:
            for number in random.sample(range(SUBJECTS), subjects):
                member.observe(exchange(number))
        self.clock.advance(HEARTBEAT)
        for member in self.members:
            await member.fleet()

    async def aclose(self) -> None:
        """Close the stores."""
        for engine in self.engines:
            await engine.store.aclose()


async def timed(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Return the milliseconds of CPU time of this process and of elapsed time."""
    began, cpu = time.perf_counter(), time.process_time()
    await call()
    return (time.process_time() - cpu) * 1000, (time.perf_counter() - began) * 1000


def row(name: str, times: list[tuple[float, float]]) -> list[Cell]:
    """Return a row of the table, with the medians."""
    return [name, *(median(column) for column in zip(*times, strict=True))]


async def measure_heartbeats(url: str) -> Rows:
    """Return the time of a heartbeat of one process, by the number of its subjects."""
    processes = Processes(url, 1)
    (member,) = processes.members
    rows: Rows = []
    for subjects in (0, 1000, SUBJECTS):
        times = []
        for _ in range(ROUNDS):
            for number in range(subjects):
                member.observe(exchange(number))
            processes.clock.advance(HEARTBEAT)
            times.append(await timed(member.fleet))
        rows.append(row(f"heartbeat with {subjects:,} subjects", times))
    await processes.aclose()
    return rows


async def measure_leader(url: str) -> Rows:
    """Return the time in which the leader reads the traffic of a heartbeat, and evaluates."""
    rows: Rows = []
    for members, subjects in ((4, 1000), (8, SUBJECTS)):
        processes = Processes(url, members)
        processes.clock.advance(2 * LEASE)
        await processes.lead()
        processes.clock.advance(2 * LEASE)
        await processes.lead()
        reads, evaluations = [], []
        for _ in range(ROUNDS):
            await processes.push(subjects)
            reads.append(await timed(processes.leader.fleet))
            evaluations.append(await timed(processes.leader.evaluate))
        assert processes.leader.leads
        name = f"{members} x {subjects:,} subjects of {SUBJECTS:,}"
        rows.append(row(f"leader: read {name}", reads))
        rows.append(row(f"leader: evaluate {name}, and store the windows", evaluations))
        await processes.aclose()
    return rows


async def measure_takeover(url: str) -> Rows:
    """Return the time in which a process takes over full windows of 24 hours."""
    processes = Processes(url, 1)
    processes.clock.advance(2 * LEASE)
    await processes.lead()
    processes.clock.advance(2 * LEASE)
    await processes.lead()
    for seconds in (*24 * [HOUR], *10 * [30]):
        processes.clock.advance(seconds - HEARTBEAT)
        for engine in (processes.leader, processes.successor):
            await engine.fleet()
        await processes.push(SUBJECTS)
        await processes.leader.evaluate()
    times = []
    for _ in range(ROUNDS):
        await processes.successor.fleet()
        processes.clock.advance(LEASE + 1)
        times.append(await timed(processes.successor.fleet))
        assert processes.successor.leads
        processes.leader, processes.successor = processes.successor, processes.leader
    await processes.aclose()
    return [row(f"takeover of the windows of {SUBJECTS:,} subjects", times)]


def measure_database(name: str, url: Callable[[str], str]) -> None:
    """Print the table of a kind of database."""
    rows: Rows = []
    for measure in (measure_heartbeats, measure_leader, measure_takeover):
        rows += anyio.run(measure, url(measure.__name__))
    table(f"fleet on {name}", ("case", "CPU of the process in ms", "elapsed in ms"), rows)


def measure_fleet() -> Summary:
    """Print the tables of SQLite, and of PostgreSQL if it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        measure_database("SQLite", lambda name: f"sqlite+aiosqlite:///{folder}/{name}.db")
    with suppress(pytest.skip.Exception), postgres_server() as server:
        measure_database("PostgreSQL", lambda name: create_database(server, name))
    return []

"""Real processes of a fleet under random faults.

    python -m tests.alerts.fleet.chaos --seconds 600 --seed 7 --store postgresql

Four processes count their traffic, in which keys fail from time to time. They are killed and
stopped; their connections to PostgreSQL are cut, held, and lose answers of commits; and PostgreSQL
is killed. After a quiet time, the database and the receiver of the alerts have every exchange and
every event exactly once.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from io import BufferedIOBase
from pathlib import Path

import anyio

from tokenpulse_mw import AlertEngine, Finding, Thresholds
from tokenpulse_mw.alerts import Traffic
from tokenpulse_mw.alerts.fleet import Fleet
from tokenpulse_mw.alerts.rules import error_spike
from tokenpulse_mw.alerts.store import SQLAlertStore

from ...support.receiver import Received, Receiver
from ...support.servers import Server
from ...support.waiting import PATIENCE
from ..store.postgres import create_database, postgres_server
from ..store.proxy import Proxy
from .gateway_process import THRESHOLDS, Plan
from .processes import FailingKeys, GatewayProcess, LeaseWatch, wait_for, watched
from .verdict import BEFORE_SECONDS, Breach, Delivery, Evidence, Fault, Figures, Transition, judge

PROCESSES = 4
HEARTBEAT, LEASE = 1, 3
MAX_DOWN = 2  # processes that are killed or stopped at a time
SLACK_SECONDS = 5.0  # of a busy machine
KEYS = 8  # whose requests fail from time to time
FAULTS_SECONDS = 30.0  # between two kills without other faults


class RecordingReceiver(Receiver):
    """Receiver that records each event and its time."""

    def __init__(self) -> None:
        super().__init__()
        self.deliveries: list[Delivery] = []

    def handle(self, request: Received, out: BufferedIOBase) -> bool:
        """Record an event and accept it."""
        data = request.json["data"]
        event = data["alert_id"], data["fingerprint"], data["transition"]
        self.deliveries.append(Delivery(time.time(), request.headers["webhook-id"], *event))
        return super().handle(request, out)


class Database:
    """Database of a fleet, and how a process reaches it.

    Args:
        url: URL of the database.
        server: The server of PostgreSQL; None for SQLite.
    """

    def __init__(self, url: str, server: Server | None = None) -> None:
        self.url = url
        self.server = server

    def through(self, proxy: Proxy) -> str:
        """Return its URL through a proxy."""
        if self.server is None:
            return self.url
        return self.url.replace(f":{self.server.port}/", f":{proxy.port}/")

    def start(self) -> None:
        """Start the killed server, as soon as its last processes have ended."""
        assert self.server is not None
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.server.start()
            except AssertionError:
                assert time.monotonic() < deadline, self.server.output
                time.sleep(0.1)


class Chaos:
    """Fleet of processes, and the faults that they meet.

    Args:
        database: The database.
        folder: Folder of the records and logs.
        seconds: Duration of the faults.
        seed: Seed of the faults and breaches.
    """

    def __init__(self, database: Database, folder: Path, *, seconds: float, seed: int) -> None:
        self._database = database
        self._folder = folder
        self._seed, self._random = seed, random.Random(seed)
        self._began = time.time()
        self._seconds = seconds
        self._failing = FailingKeys(folder / "failing.json")
        self._breaches: list[Breach] = []
        self._processes: list[GatewayProcess] = []  # all that have run
        self._current: list[GatewayProcess] = []
        self._proxies: list[Proxy] = []
        self._faults: list[Fault] = []
        self._receiver = RecordingReceiver()

    async def run(self) -> Evidence:
        """Run the processes, inject faults, wait for the end of all alerts, and return it all."""
        async with AsyncExitStack() as exits:
            exits.enter_context(self._receiver)
            watch = await exits.enter_async_context(watched(self._database.url))
            server_port = 1 if self._database.server is None else self._database.server.port
            for _ in range(PROCESSES):
                self._proxies.append(await exits.enter_async_context(Proxy(server_port)))
            exits.callback(self._kill_all)
            self._current = [self._start(number) for number in range(PROCESSES)]
            async with asyncio.TaskGroup() as breaches:
                for number in range(KEYS):
                    breaches.create_task(self._breach(f"failing-{number}", watch))
                while time.time() < self._began + self._seconds:
                    await self._kill_leader(watch)
                    await self._inject_faults(watch)
            await self._settle(watch)
            for process in self._current:
                await process.end()
            return await self._collect(watch)

    async def _breach(self, key: str, watch: LeaseWatch) -> None:
        """Let the requests of a key fail until it fires, and succeed until it is resolved."""
        fingerprint, chance = f"error_spike:key:{key}", random.Random(f"{self._seed} {key}")
        while time.time() < self._began + self._seconds:
            await asyncio.sleep(chance.uniform(0, 5))
            began = time.time()
            self._failing.add(key)
            await asyncio.sleep(chance.uniform(4, 8))
            await wait_for(
                lambda: watch.open.get(fingerprint) == "firing", f"{fingerprint} has not fired"
            )
            self._failing.remove(key)
            self._breaches.append(Breach(key, began, time.time()))
            await wait_for(lambda: fingerprint not in watch.open, f"{fingerprint} is not resolved")

    def _start(self, number: int) -> GatewayProcess:
        """Start a process with the proxy of this number."""
        tenant = f"gateway-{len(self._processes) + 1}"
        plan = Plan(
            url=self._database.through(self._proxies[number]),
            webhook=self._receiver.url,
            record=str(self._folder / f"{tenant}.jsonl"),
            tenant=tenant,
            failing=str(self._failing.path),
            deadline=self._began + self._seconds + 4 * PATIENCE,
            heartbeat=HEARTBEAT,
            lease=LEASE,
        )
        process = GatewayProcess(plan, self._folder)
        self._processes.append(process)
        return process

    async def _kill_leader(self, watch: LeaseWatch) -> None:
        """Kill the leader without any other fault, and wait for the next one."""
        leader = None
        while leader is None:
            await wait_for(lambda: self._leader(watch) is not None, "no process leads")
            await asyncio.sleep(BEFORE_SECONDS + LEASE)  # the effects of earlier faults are over
            leader = self._leader(watch)
        epoch = watch.leases[-1].epoch
        await self._kill(leader, restart=False)
        await wait_for(lambda: watch.leases[-1].epoch > epoch, "no process leads")
        self._current[leader] = self._start(leader)

    async def _inject_faults(self, watch: LeaseWatch) -> None:
        """Inject random faults for some time, and wait for their end."""
        end = min(time.time() + FAULTS_SECONDS, self._began + self._seconds)
        async with asyncio.TaskGroup() as faults:
            while time.time() < end:
                await asyncio.sleep(self._random.uniform(0.5, 2))
                faults.create_task(self._inject(watch))

    async def _inject(self, watch: LeaseWatch) -> None:
        """Inject a random fault; half of them hit the leader."""
        faults: list[Callable[[int], Awaitable[None]]] = [self._kill, self._stop]
        if self._database.server is not None:
            faults *= 3
            faults += [
                self._cut,
                self._hold,
                self._partition,
                *3 * [self._lose_answer],
                self._crash,
            ]
        fault, number = self._random.choice(faults), self._random.randrange(PROCESSES)
        leader = self._leader(watch)
        await fault(leader if leader is not None and self._random.random() < 0.5 else number)

    def _leader(self, watch: LeaseWatch) -> int | None:
        """Return the number of the leader, if it runs."""
        pid = None if watch.lease is None else watch.lease.pid
        numbers = range(PROCESSES)
        leaders = (n for n in numbers if self._current[n].pid == pid and self._current[n].runs)
        return next(leaders, None)

    def _may_fail(self, number: int) -> bool:
        """Return True if a process runs, and so do enough of the others."""
        down = sum(not process.runs for process in self._current)
        return self._current[number].runs and down < MAX_DOWN

    async def _kill(self, number: int, *, restart: bool = True) -> None:
        if self._may_fail(number):
            self._current[number].kill()
            self._note("kill", time.time())
            if restart:
                await asyncio.sleep(self._random.uniform(0.2, 3))
                self._current[number] = self._start(number)

    async def _stop(self, number: int) -> None:
        if self._may_fail(number):
            process, began = self._current[number], time.time()
            process.stop()
            await asyncio.sleep(self._random.uniform(2, 8))
            process.resume()
            self._note("stop", began)

    async def _cut(self, number: int) -> None:
        for proxy in self._random.choice([self._proxies, [self._proxies[number]]]):
            proxy.cut()
        self._note("cut", time.time())

    async def _hold(self, number: int) -> None:
        self._proxies[number].lose()
        self._note("hold", time.time(), self._current[number].plan.lease)

    async def _partition(self, number: int) -> None:
        """Let a process reach the database by no connection for some time."""
        proxy, began = self._proxies[number], time.time()
        proxy.holds = True
        proxy.lose()
        await asyncio.sleep(self._random.uniform(2, 8))
        proxy.holds = False
        proxy.cut()
        self._note("network partition", began)

    async def _lose_answer(self, number: int) -> None:
        proxy, began = self._proxies[number], time.time()
        proxy.loses_answer = True
        await asyncio.sleep(2 * HEARTBEAT)
        if not proxy.loses_answer:
            self._note("lost answer", began)
        proxy.loses_answer = False

    async def _crash(self, number: int) -> None:
        """Kill PostgreSQL, and start it again."""
        server = self._database.server
        if server is None or not server.runs:
            return
        began = time.time()
        if self._random.random() < 0.5:
            server.kill()
        else:
            server.kill(signal.SIGQUIT)  # an immediate shutdown
        await asyncio.sleep(self._random.uniform(0.2, 2))
        await asyncio.to_thread(self._database.start)
        self._note("crash of PostgreSQL", began)

    def _note(self, kind: str, began: float, seconds: float = 0) -> None:
        self._faults.append(Fault(kind, began, time.time() + seconds))

    async def _settle(self, watch: LeaseWatch) -> None:
        """Wait until no notification waits."""
        deadline = time.monotonic() + PATIENCE
        while await watch.number("SELECT count(*) FROM tokenpulse_alert_notifications"):
            assert time.monotonic() < deadline, "notifications wait"
            await asyncio.sleep(0.2)

    def _kill_all(self) -> None:
        for process in self._processes:
            process.kill()

    async def _collect(self, watch: LeaseWatch) -> Evidence:
        """Return all records; the counts are those of the next leader."""
        counted = dict[str, int]()

        def count(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
            counted.update((tenant, requests) for tenant, requests, _ in traffic.counts.day.items())
            return []

        engine = AlertEngine(
            [error_spike, count],
            [],
            store=SQLAlertStore(self._database.url),
            thresholds=THRESHOLDS,
            fleet=Fleet(heartbeat=HEARTBEAT, lease=LEASE),
        )
        async with engine:
            with anyio.fail_after(PATIENCE):
                while not counted:
                    await engine.evaluate()
            members = (await engine.fleet()).members
        transitions = await watch.rows(
            "SELECT alert_id, fingerprint, transition, at FROM tokenpulse_alert_transitions "
            "ORDER BY seq"
        )
        return Evidence(
            tuple(self._breaches),
            tuple(self._processes),
            tuple(self._faults),
            tuple(watch.leases),
            tuple(self._receiver.deliveries),
            tuple(Transition(*row) for row in transitions),
            {member.process.name: member.pushed for member in members},
            counted,
        )


def run_chaos(store: str, folder: Path, *, seconds: float, seed: int) -> Figures:
    """Run a fleet under faults on "sqlite" or "postgresql", and return its figures."""

    def run(database: Database) -> Figures:
        chaos = Chaos(database, folder, seconds=seconds, seed=seed)
        return judge(
            asyncio.run(chaos.run()),
            max_failover=LEASE + 2 * HEARTBEAT + SLACK_SECONDS,
            max_lost=2 * HEARTBEAT + SLACK_SECONDS,
        )

    if store == "sqlite":
        return run(Database(f"sqlite+aiosqlite:///{folder}/alerts.db"))
    with postgres_server() as server:
        return run(Database(create_database(server, "chaos"), server))


def main() -> None:
    """Run a fleet under faults, and print its figures; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.alerts.fleet.chaos")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--folder", type=Path, help="folder of the records, which are kept")
    options = parser.parse_args()
    logging.disable()  # the engine that counts has other rules than the processes
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        figures = run_chaos(options.store, folder, seconds=options.seconds, seed=options.seed)
    print(f"store: {options.store}, seed: {options.seed}\n{figures}")  # noqa: T201
    sys.exit(bool(figures.faulty))


if __name__ == "__main__":
    main()

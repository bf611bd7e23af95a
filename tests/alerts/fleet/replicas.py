"""Engines on one store, with clocks that a test advances and connections that it cuts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    MemoryAlertStore,
    SQLAlertStore,
)
from tokenpulse_mw.alerts.store import AlertStore, StoreError

from ...support.clock import FakeClock
from ..findings import FixedRule, RecordingSink

START = 1_700_000_001.0  # one second after the beginning of a slot
HEARTBEAT = 5
LEASE = 15


class Connection:
    """A store as one process reaches it.

    Attributes:
        store: The store that all processes share.
        is_down: Fail each call before it reaches the store.
        loses: Names of calls that take effect, but whose response is lost.
        delays: By name of a call, what happens before it reaches the store.
    """

    def __init__(self, store: AlertStore) -> None:
        self.store = store
        self.is_down = False
        self.loses: Iterable[str] = ()
        self.delays = dict[str, Callable[[], Awaitable[object]]]()

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.store, name)

        async def call(*values: Any, **options: Any) -> Any:
            if self.is_down:
                raise StoreError("no connection")
            if name in self.delays:
                await self.delays.pop(name)()
            result = await method(*values, **options)
            if name in self.loses:
                raise StoreError("connection lost")
            return result

        return call


class Replica(AlertEngine):
    """An engine of a process with a monotonic clock of its own.

    Attributes:
        connection: Its store.
        sink: Records the events that it delivers.
    """

    def __init__(self, store: AlertStore, time: FakeClock, shift: float, **options: Any) -> None:
        self.connection = Connection(store)
        self.sink = RecordingSink()
        super().__init__(
            **{
                "sinks": [self.sink],
                "store": self.connection,
                "clock": lambda: time() - shift,
                "wall": time,
                **options,
            }
        )

    async def beat(self) -> None:
        """Send a heartbeat, which may fail."""
        with suppress(StoreError):
            await self.fleet()


class Replicas:
    """Processes that share a store, and send a heartbeat every 5 seconds.

    Args:
        url: URL of a database; None for a store in memory.

    Attributes:
        wall: The wall clock of all processes.
        rule: Default rule of the processes.
        running: Processes that send heartbeats, in their order.
    """

    def __init__(self, url: str | None = None) -> None:
        self.wall = FakeClock(START)
        self.rule = FixedRule()
        self.store: AlertStore = (
            MemoryAlertStore(wall=self.wall) if url is None else SQLAlertStore(url, wall=self.wall)
        )
        self.running = list[Replica]()
        self._started = 0

    def replica(self, **options: Any) -> Replica:
        """Return a process that sends heartbeats from now on."""
        self._started += 1
        shift = 1000.0 * self._started
        options = {"rules": [self.rule], "cooldown": 86_400.0} | options
        replica = Replica(self.store, self.wall, shift, **options)
        self.running.append(replica)
        return replica

    def replicas(self, number: int, **options: Any) -> list[Replica]:
        """Return processes, of which the first one leads after the next heartbeat."""
        return [self.replica(**options) for _ in range(number)]

    async def beat(self) -> None:
        """Send a heartbeat of each process."""
        for replica in self.running:
            await replica.beat()

    async def run(self, seconds: int) -> None:
        """Send the heartbeats of some time."""
        for _ in range(seconds // HEARTBEAT):
            self.wall.advance(HEARTBEAT)
            await self.beat()

    async def evaluate(self) -> list[AlertEvent]:
        """Send two rounds of heartbeats, evaluate in each process, and return all events."""
        await self.run(2 * HEARTBEAT)
        return [event for replica in self.running for event in await replica.evaluate()]

    @property
    def leaders(self) -> list[Replica]:
        """The processes that lead."""
        return [replica for replica in self.running if replica.leads]

    def kill(self, replica: Replica) -> None:
        """End a process without a last heartbeat."""
        self.running.remove(replica)

    def cut(self, *replicas: Replica) -> None:
        """Cut the connections of some processes, or of all."""
        for replica in replicas or self.running:
            replica.connection.is_down = True

    def connect(self, *replicas: Replica) -> None:
        """Restore the connections of some processes, or of all."""
        for replica in replicas or self.running:
            replica.connection.is_down = False

    def delivered(self) -> list[str]:
        """Return the delivered transitions, over all processes that still run."""
        return [name for replica in self.running for name in replica.sink.transitions]

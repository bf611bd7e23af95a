"""Random histories of a fleet: traffic, faults, kills and takeovers."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from random import Random

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, Fleet, MemoryAlertStore, Thresholds, Traffic

from ..exchanges import exchange
from ..findings import RecordingSink, finding
from .replicas import Replica, Replicas

CALLS = ["heartbeat", "commit", "claim", "delivered", "take_over", "batches", "load"]
KEYS = ["k1", "k2"]

STEPS = 150
# How often each action happens, in relation to the others.
WEIGHTS = {
    "observe": 8,
    "pass_seconds": 10,
    "evaluate": 6,
    "breach": 3,
    "kill": 1,
    "start": 2,
    "stop": 1,
    "resume": 1,
    "cut": 1,
    "lose": 2,
    "stall": 2,
    "connect": 3,
}


class History:
    """A fleet whose processes never continue alone, and what a test expects of it.

    Attributes:
        sent: Number of exchanges that the store has, at least.
        unknown: Number of exchanges that the store may have: their process was killed.
    """

    def __init__(self, chance: Random) -> None:
        self.replicas = Replicas()
        self.rule = _CountingRule()
        self._chance = chance
        self.sink = RecordingSink()
        self.sent = self.unknown = 0
        self._unsent = Counter[int]()
        self._stopped = list[Replica]()
        for _ in range(2):
            self.start()

    def start(self) -> None:
        """Start a process, unless there are three."""
        if len(self.replicas.running) + len(self._stopped) < 3:
            self.replicas.replica(
                rules=[self.rule], sinks=[self.sink], fleet=Fleet(alone_after=None)
            )

    def _any(self) -> list[Replica]:
        """Return a process that runs, if there is one."""
        running = self.replicas.running
        return [self._chance.choice(running)] if running else []

    def observe(self) -> None:
        """Let exchanges end in a process."""
        for replica in self._any():
            for _ in range(self._chance.randint(1, 5)):
                replica.observe(exchange(tenant="acme"))
                self._unsent[id(replica)] += 1

    async def pass_seconds(self, seconds: int | None = None) -> None:
        """Send the heartbeats of some seconds."""
        seconds = seconds or self._chance.choice([5, 5, 5, 10, 40])
        for _ in range(seconds // 5):
            await self.replicas.run(5)
            self._check_leaders()
            for replica in self.replicas.running:
                if not replica.fleet_behind()[()]:  # the store has all of its traffic
                    self.sent += self._unsent.pop(id(replica), 0)

    async def evaluate(self) -> None:
        """Evaluate in every process that runs."""
        self._check_leaders()
        self.replicas.wall.advance(0.001)  # no two evaluations have the same time
        for replica in list(self.replicas.running):
            await replica.evaluate()
        self._check_leaders()

    def breach(self) -> None:
        """Begin or end the breach of a key."""
        self.rule.breaching ^= {self._chance.choice(KEYS)}

    def kill(self) -> None:
        """Kill a process."""
        for replica in self._any():
            self.replicas.kill(replica)
            self.unknown += self._unsent.pop(id(replica), 0)

    def stop(self) -> None:
        """Stop a process, as by SIGSTOP."""
        for replica in self._any():
            self.replicas.kill(replica)
            self._stopped.append(replica)

    def resume(self) -> None:
        """Let all stopped processes continue."""
        self.replicas.running += self._stopped
        self._stopped = []

    def stall(self) -> None:
        """Stop a process within its next evaluation, before a call reaches the store."""
        for replica in self._any():
            call = self._chance.choice(["commit", "claim", "take_over"])
            replica.connection.delays[call] = partial(self._stalled, replica)

    async def _stalled(self, replica: Replica) -> None:
        if replica in self.replicas.running:
            self.replicas.kill(replica)
            await self.pass_seconds(self._chance.choice([5, 40]))
            await self.evaluate()
            self.replicas.running.append(replica)

    def cut(self) -> None:
        """Cut the connection of a process."""
        for replica in self._any():
            replica.connection.is_down = True

    def lose(self) -> None:
        """Lose the responses of a call of a process."""
        for replica in self._any():
            replica.connection.loses = [self._chance.choice(CALLS)]

    def connect(self) -> None:
        """Repair all connections."""
        for replica in self.replicas.running:
            replica.connection.loses, replica.connection.is_down = [], False
            replica.connection.delays.clear()

    async def end(self) -> None:
        """End all faults and breaches."""
        self.resume()
        self.connect()
        self.start()
        self.rule.breaching = set()
        for _ in range(5):
            await self.pass_seconds(20)
            await self.evaluate()
            await self.replicas.running[0]._outbox.attempt()

    def _check_leaders(self) -> None:
        """At most one process may evaluate at any time."""
        assert len(self.replicas.leaders) <= 1

    def delivered(self) -> dict[str, list[AlertEvent]]:
        """Return the delivered events of each alert in their order, without repetitions."""
        by_alert = defaultdict[str, list[AlertEvent]](list)
        for event in {event.id: event for event in self.sink.events}.values():
            by_alert[event.fingerprint].append(event)
        return by_alert


class _CountingRule:
    """A rule that finds the keys in `breaching`, and records the requests of a day."""

    name = "counting"

    def __init__(self) -> None:
        self.breaching = set[str]()
        self.requests = 0

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        self.requests = sum(requests for _, requests, _ in traffic.counts.day.items())
        return [finding(subject=key) for key in sorted(self.breaching)]


async def run_history(chance: Random) -> None:
    """Run a random history, and check what a fleet guarantees."""
    fleet = History(chance)
    for action in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS):
        outcome = getattr(fleet, action)()
        if outcome is not None:
            await outcome
    await fleet.end()

    # Every exchange counts once, even if its process was killed before the response.
    assert fleet.sent <= fleet.rule.requests <= fleet.sent + fleet.unknown
    # Every episode in the store has fired and was resolved once, and nothing else was delivered.
    store = fleet.replicas.store
    assert isinstance(store, MemoryAlertStore)
    episodes = defaultdict[str, list[str]](list)
    for record in (await store.alerts(limit=1000)).items[::-1]:
        assert record.state == "resolved"
        episodes[record.fingerprint].append(record.id)
    expected = {
        fingerprint: [(name, alert_id) for alert_id in ids for name in ("fired", "resolved")]
        for fingerprint, ids in episodes.items()
    }
    assert {
        fingerprint: [(event.transition, event.alert_id) for event in events]
        for fingerprint, events in fleet.delivered().items()
    } == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_fleet_under_faults_is_one_engine(seed: int) -> None:
    """Exchanges are counted once, and alerts decided once and delivered in order."""
    anyio.run(run_history, Random(seed))

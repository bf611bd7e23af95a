"""Random histories of a fleet: traffic, faults, kills and takeovers."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent, Finding, Fleet, MemoryAlertStore, Thresholds, Traffic

from ..exchanges import exchange
from ..findings import finding
from .replicas import Replica, Replicas

CALLS = ["heartbeat", "commit", "claim", "delivered", "take_over", "batches", "load"]
KEYS = ["k1", "k2"]

numbers = st.integers(0, 2)
actions = st.one_of(
    st.tuples(st.just("observe"), numbers, st.integers(1, 5)),
    st.tuples(st.just("pass_seconds"), st.sampled_from([5, 10, 20, 40])),
    st.tuples(st.just("evaluate")),
    st.tuples(st.just("breach"), st.sampled_from(KEYS)),
    st.tuples(st.just("kill"), numbers),
    st.tuples(st.just("start")),
    st.tuples(st.just("stop"), numbers),
    st.tuples(st.just("resume")),
    st.tuples(st.just("cut"), numbers),
    st.tuples(st.just("lose"), numbers, st.sampled_from(CALLS)),
    st.tuples(st.just("connect")),
)


class History:
    """A fleet whose processes never continue alone, and what a test expects of it.

    Attributes:
        sent: Number of exchanges that the store has, at least.
        unknown: Number of exchanges that the store may have: their process was killed.
    """

    def __init__(self) -> None:
        self.replicas = Replicas()
        self.rule = _CountingRule()
        self.started = list[Replica]()
        self.sent = self.unknown = 0
        self._unsent = Counter[int]()
        self._stopped = list[Replica]()
        for _ in range(2):
            self.start()

    def start(self) -> None:
        """Start a process, unless there are three."""
        if len(self.replicas.running) + len(self._stopped) < 3:
            replica = self.replicas.replica(rules=[self.rule], fleet=Fleet(alone_after=None))
            self.started.append(replica)

    def observe(self, number: int, requests: int) -> None:
        """Let exchanges end in a process."""
        for replica in self.replicas.running[number : number + 1]:
            for _ in range(requests):
                replica.observe(exchange(tenant="acme"))
            self._unsent[id(replica)] += requests

    async def pass_seconds(self, seconds: int) -> None:
        """Send the heartbeats of some seconds."""
        for _ in range(seconds // 5):
            await self.replicas.run(5)
            self._check_leaders()
            for replica in self.replicas.running:
                if replica._member.is_connected:
                    self.sent += self._unsent.pop(id(replica), 0)

    async def evaluate(self) -> None:
        """Evaluate in every process that runs."""
        self._check_leaders()
        for replica in list(self.replicas.running):
            await replica.evaluate()
        self._check_leaders()

    def breach(self, key: str) -> None:
        """Begin or end the breach of a key."""
        self.rule.breaching ^= {key}

    def kill(self, number: int) -> None:
        """Kill a process."""
        for replica in self.replicas.running[number : number + 1]:
            self.replicas.kill(replica)
            self.unknown += self._unsent.pop(id(replica), 0)

    def stop(self, number: int) -> None:
        """Stop a process, as by SIGSTOP."""
        for replica in self.replicas.running[number : number + 1]:
            self.replicas.kill(replica)
            self._stopped.append(replica)

    def resume(self) -> None:
        """Let all stopped processes continue."""
        self.replicas.running += self._stopped
        self._stopped = []

    def cut(self, number: int) -> None:
        """Cut the connection of a process."""
        for replica in self.replicas.running[number : number + 1]:
            self.replicas.cut(replica)

    def lose(self, number: int, call: str) -> None:
        """Lose the responses of a call of a process."""
        for replica in self.replicas.running[number : number + 1]:
            replica.connection.loses = [call]

    def connect(self) -> None:
        """Repair all connections."""
        for replica in self.replicas.running:
            replica.connection.loses = []
            replica.connection.is_down = False

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
        """Return the delivered events of each alert by time, without repetitions."""
        events = {event.id: event for replica in self.started for event in replica.sink.events}
        by_alert = defaultdict[str, list[AlertEvent]](list)
        for event in sorted(events.values(), key=lambda event: event.at):
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


async def run_history(history: list[tuple[Any, ...]]) -> None:
    """Run a history, and check what a fleet guarantees."""
    fleet = History()
    for action, *arguments in history:
        outcome = getattr(fleet, action)(*arguments)
        if outcome is not None:
            await outcome
    await fleet.end()

    # Every exchange counts once, also if its process was killed before the response.
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
@given(st.lists(actions, max_size=40))
@settings(max_examples=300)
def test_fleet_under_faults_is_one_engine(history: list[tuple[Any, ...]]) -> None:
    """Exchanges are counted once, and alerts decided once and delivered in order."""
    anyio.run(run_history, history)

"""Simulation of a fleet, in which each call is sent, done and answered in separate steps.

A call may take effect long after its process has given it up or has crashed, and its answer may
be lost. The clocks of the processes have different rates. Each step is chosen at random among
those that are possible, by weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from random import Random
from typing import Any

from tokenpulse_mw.alerts.fleet.backlog import Backlog
from tokenpulse_mw.alerts.fleet.clock import FleetClock
from tokenpulse_mw.alerts.fleet.inbox import Inbox, watermark
from tokenpulse_mw.alerts.fleet.lease import Lease
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.protocol import Fenced, FleetState, Leader
from tokenpulse_mw.alerts.store.records import Batch

from .model import Snapshot, Store, Window, bucket, decode, encode, process

BUCKET_SECONDS = 5
DURATION = 15.0
FAILOVER = DURATION + 5  # a candidate sends a heartbeat every 5 seconds
_DRIFT = 1e-4
_MAX_BUCKETS = 3  # in the backlog
_TIMEOUT = 4.0  # of heartbeats; a slower one gives no time
# Of steps; each run varies them, because runs that differ find more than runs that are alike.
_WEIGHTS = {
    "wait": 8,
    "late": 0.3,
    "restart": 0.05,
    "do": 6,
    "answer": 5,
    "give_up": 0.5,
    "pace": 0.3,
    "close": 0.1,
    "reopen": 1,
    "seal": 1,
    "heartbeat": 4,
    "lead": 3,
}


class Violation(AssertionError):  # noqa: N818 - reads better
    """A guarantee of the protocol does not hold."""


@dataclass
class Call:
    """Call of the store.

    Attributes:
        process: Name of the process.
        kind: "heartbeat", "read", "load" or "commit".
        run: Applies it to the store and returns its result.
        answer: Receives the result, or the exception.
        fail: Called instead if the answer is lost.
        number: Order of the calls.
    """

    process: str
    kind: str
    run: Callable[[], Any]
    answer: Callable[[Any], None]
    fail: Callable[[], None]
    number: int
    is_done: bool = False
    outcome: Any = None


class Memory:
    """Memory of a leader: windows and batches."""

    def __init__(self, leader: Leader, protocol: int) -> None:
        self.leader, self.protocol = leader, protocol
        self.inbox = Inbox(protocol=protocol)
        self.windows = dict[int, Window]()
        self.changed = set[int]()
        self.is_loaded = False

    def load(self, snapshot: Snapshot) -> None:
        """Continue from the state in the store."""
        self.windows = snapshot.windows
        self.add(snapshot.batches)
        self.is_loaded = True

    def add(self, batches: tuple[Batch, ...]) -> None:
        """Receive batches."""
        finish(self.inbox.add(batches, decode))

    def evaluate(self, through: int) -> None:
        """Count the traffic up to a slot in the windows."""
        for counted in self.inbox.take(through):
            self.windows.setdefault(counted.slot, Counter()).update(counted.tenants)
            self.changed.add(counted.slot)

    def requests(self) -> Window:
        """Return all requests that the leader has."""
        waiting = (Counter(waiting.tenants) for waiting, _ in self.inbox._waiting.values())
        return add_up(*self.windows.values(), *waiting)


class Node:
    """Process of the fleet that uses the classes as an engine does."""

    lease_type = Lease
    backlog_type = Backlog

    def __init__(self, fleet: Simulation, name: str, *, protocol: int, leads: bool) -> None:
        self.fleet, self.name, self.protocol = fleet, name, protocol
        self.rate = 1 + fleet.random.uniform(-_DRIFT, _DRIFT)
        self.phase = fleet.random.uniform(0, 1000)
        self.jitter = fleet.random.random()
        self.lease = self.lease_type(
            process=name, protocol=protocol, duration=DURATION, leads=leads
        )
        self.backlog = self.backlog_type(bucket_seconds=BUCKET_SECONDS, max_buckets=_MAX_BUCKETS)
        self.clock = FleetClock(-self.phase)
        self.memory: Memory | None = None
        self.state: FleetState | None = None
        self.calls = dict[str, Call]()
        self.pace = 1.0
        self.sealed = 0
        self.next_at = 0.0

    @property
    def now(self) -> float:
        """Time of the process's monotonic clock."""
        return self.phase + self.fleet.now * self.rate

    @property
    def slot(self) -> int:
        """Slot of the traffic that the process receives now."""
        return int((self.now + self.clock.offset) // BUCKET_SECONDS)

    @property
    def believes(self) -> bool:
        """True if the process believes that it leads."""
        return self.lease.holds(self.now)

    @property
    def must_load(self) -> bool:
        """True if its memory is not that of the current leadership."""
        return self.memory is None or self.memory.leader != self.lease.leader

    @property
    def leads(self) -> bool:
        """True if it believes that it leads and has loaded its memory."""
        return self.believes and not self.must_load and "load" not in self.calls

    def seal(self) -> None:
        """Seal a bucket with one request."""
        self.sealed += 1
        self.backlog.add(bucket(self.slot - 1, f"{self.name}:{self.sealed}"))

    def heartbeat(self) -> None:
        """Send a heartbeat."""
        asked = self.now
        lease = self.lease.request(asked)
        batches = finish(self.backlog.batches(self.name, encode, protocol=self.protocol))
        through = self.backlog.through(self.slot - 1)

        def run() -> FleetState:
            now, member = self.fleet.now, process(self.name, self.protocol)
            return self.fleet.store.heartbeat(
                member, now, batches=batches, through=through, lease=lease
            )

        def answer(state: FleetState) -> None:
            if self.lease.observe(state, asked=asked, heard=self.now):
                if self.fleet.is_exact:
                    raise Violation("a store that has lost nothing is reported to have lost writes")
                self.forget()
            if self.now - asked < _TIMEOUT:
                self.clock.heard(asked, self.now, state.now)
            self.fleet.acknowledged += add_up(*map(requests_of, batches))
            self.backlog.stored()
            self.state = state
            if self.memory and "read" not in self.calls:
                recent = [member for member in state.members if state.now - member.seen_at < 20]
                self.memory.inbox.retain([member.process.name for member in recent])

        self.call("heartbeat", run, answer, self.lease.missed)

    def load(self) -> None:
        """Take over."""
        assert self.lease.leader
        memory = self.memory = Memory(self.lease.leader, self.protocol)
        take_over = partial(self.fleet.store.take_over, memory.leader)
        self.call("load", take_over, self.unless_fenced(memory.load), self.forget)

    def read(self) -> None:
        """Read new batches."""
        assert self.memory
        read = partial(self.fleet.store.batches, dict(self.memory.inbox.known))
        self.call("read", read, self.memory.add, ignore)

    def evaluate(self) -> None:
        """Count the traffic up to the watermark and commit."""
        memory, state, asked = self.memory, self.state, self.now
        assert memory
        assert state
        through = [member.through for member in state.members if state.now - member.seen_at <= 10]
        memory.evaluate(watermark(through, state.now, bucket_seconds=BUCKET_SECONDS))
        windows = {slot: Counter(memory.windows[slot]) for slot in memory.changed}
        consumed = memory.inbox.consumed()

        def confirm() -> None:
            memory.inbox.confirm_stored(consumed)
            memory.changed.clear()  # the next evaluation waits for this commit

        def answer(_: object) -> None:
            self.lease.renewed(asked)
            confirm()

        commit = partial(self.fleet.store.commit, memory.leader, windows, consumed)
        unknown = partial(self.commit_is_unknown, confirm)
        self.call("commit", commit, self.unless_fenced(answer), unknown)

    def commit_is_unknown(self, confirm: Callable[[], None]) -> None:
        """Leave the changes for the next commit."""

    def unless_fenced(self, answer: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return a function that loses the lease if the outcome is `Fenced`."""

        def checked(outcome: object) -> None:
            if isinstance(outcome, Fenced):
                self.lease.lose()
                self.forget()
            else:
                answer(outcome)

        return checked

    def forget(self) -> None:
        """Drop the memory of a leader."""
        self.memory = None

    def call(
        self,
        kind: str,
        run: Callable[[], Any],
        answer: Callable[[Any], None],
        fail: Callable[[], None],
    ) -> None:
        """Send a call; of each kind, there is at most one at a time."""
        number = next(self.fleet.numbers)
        self.calls[kind] = Call(self.name, kind, run, answer, fail, number)


class Simulation:
    """A fleet of processes on one store.

    Args:
        random: Source of all chance.
        size: Number of processes.
        node_type: Type of the processes.
        store_type: Type of the store.
    """

    def __init__(
        self,
        random: Random,
        size: int,
        *,
        node_type: type[Node] = Node,
        store_type: type[Store] = Store,
    ) -> None:
        self.random, self.node_type, self.store = random, node_type, store_type()
        self.now = 1000.0  # no slot is negative
        self.names, self.numbers = count(), count()
        self.protocol = 1
        self.loss = random.choice([0, 0.1, 0.3])  # probability that an answer is lost
        self.abandoned = list[Call]()  # not done, and given up by their processes
        self.last_commits = dict[str, int]()
        self.acknowledged = Window()
        self.is_exact = True  # until a failover
        self.nodes = [self.start(index) for index in range(size)]
        self.weights = {
            step: weight * random.choice([0.2, 1, 1, 5]) for step, weight in _WEIGHTS.items()
        }

    def start(self, index: int) -> Node:
        """Return a new process; some have a newer version, and some never lead."""
        self.protocol += self.random.random() < 0.1
        protocol = max(1, self.protocol - (self.random.random() < 0.5))
        leads = index == 0 or protocol > 1 or self.random.random() < 0.8
        return self.node_type(self, f"p{next(self.names)}", protocol=protocol, leads=leads)

    def run(self, steps: int) -> None:
        """Take random steps, and check the guarantees."""
        for _ in range(steps):
            step, weights = zip(*self.possible_steps(), strict=True)
            self.random.choices(step, weights)[0]()
            self.check_leaders()

    def possible_steps(self) -> Iterator[tuple[Callable[[], object], float]]:
        """Yield the possible steps and their weights."""
        weights = self.weights
        yield self.wait, weights["wait"]
        for call in self.abandoned:
            yield partial(self.do_late, call), weights["late"]
        for index, node in enumerate(self.nodes):
            yield partial(self.restart, index), weights["restart"]
            yield partial(self.change_pace, node), weights["pace"] * (1 + 4 * node.believes)
            for call in node.calls.values():
                if not call.is_done:
                    yield partial(self.do, call), weights["do"] * node.pace
                is_due = "answer" if call.is_done else "give_up"
                yield partial(self.answer, node, call), weights[is_due] * node.pace
            for step, name in self.steps_of(node):
                yield step, weights[name] * node.pace

    def steps_of(self, node: Node) -> Iterator[tuple[Callable[[], object], str]]:
        """Yield the possible steps of a process and the names of their weights."""
        if node.lease.closing:
            yield partial(setattr, node.lease, "closing", False), "reopen"
        else:
            yield partial(setattr, node.lease, "closing", True), "close"
        if node.backlog.waiting < 2 * _MAX_BUCKETS:  # more would be dropped
            yield node.seal, "seal"
        if "heartbeat" not in node.calls:
            yield node.heartbeat, "heartbeat"
        if node.believes and "load" not in node.calls:
            if node.must_load:
                yield node.load, "lead"
                return
            if "read" not in node.calls:
                yield node.read, "lead"
            if "commit" not in node.calls:
                yield node.evaluate, "lead"

    def change_pace(self, node: Node) -> None:
        """Stop or slow down a process, or let it continue."""
        node.pace = self.random.choice([0, 0.1, 1, 1])

    def wait(self) -> None:
        """Let time pass."""
        self.now += self.random.choice([0.5, 1, 2, 4, 7, 14.5])

    def do(self, call: Call) -> None:
        """Apply a call to the store, and check the guarantees."""
        call.is_done = True
        if call.kind == "commit":
            # Commits of a process lock the same row first, so they never overtake each other.
            if call.number < self.last_commits.get(call.process, 0):
                return
            self.last_commits[call.process] = call.number
        try:
            call.outcome = call.run()
        except Fenced as error:
            call.outcome = error
        self.check_counts()

    def do_late(self, call: Call) -> None:
        """Apply a call that its process has given up."""
        self.abandoned.remove(call)
        self.do(call)

    def answer(self, node: Node, call: Call) -> None:
        """Give a process the result of a call, or lose it."""
        del node.calls[call.kind]
        if call.is_done and self.random.random() > self.loss:
            call.answer(call.outcome)
            self.check_counts()
            return
        call.fail()
        if not call.is_done:
            self.abandoned.append(call)

    def restart(self, index: int) -> None:
        """Kill a process and start another one; its calls may still take effect."""
        calls = self.nodes[index].calls.values()
        self.abandoned += [call for call in calls if not call.is_done]
        self.nodes[index] = self.start(index)

    def check_leaders(self) -> None:
        """Raise Violation if more than one process believes that it leads."""
        if self.is_exact and sum(node.believes for node in self.nodes) > 1:
            raise Violation("two processes believe that they lead")

    def check_counts(self) -> None:
        """Raise Violation unless each request is counted once, in the store and by the leader."""
        if not self.is_exact:
            return
        store = self.store
        if store.last_commit != store.epoch_at_last_commit:
            raise Violation("an earlier leader has written")
        stored = add_up(*store.windows.values(), *map(requests_of, store.stored.values()))
        if stored and max(stored.values()) > 1:
            raise Violation("a request is counted twice")
        if not self.acknowledged <= stored:
            raise Violation("a request that was acknowledged is lost")
        for node in self.nodes:
            if node.leads and node.memory and node.memory.requests() != self.known(node.memory):
                raise Violation("the leader does not know what the store knows")

    def known(self, memory: Memory) -> Window:
        """Return the requests in the store that a leader has read."""
        known = memory.inbox.known
        batches = (
            batch
            for batch in self.store.stored.values()
            if batch.number <= known.get(batch.process, 0) and batch.protocol <= memory.protocol
        )
        return add_up(*self.store.windows.values(), *map(requests_of, batches))

    def fail_over(self, state: dict[str, Any]) -> None:
        """Give the store an earlier state: calls in flight fail, and the writes since are lost."""
        self.cut()
        self.store.__dict__ = state
        self.acknowledged = add_up(
            *state["windows"].values(), *map(requests_of, state["stored"].values())
        )
        self.is_exact = False

    def cut(self) -> None:
        """Cut all connections to the store."""
        self.abandoned.clear()
        for node in self.nodes:
            for call in node.calls.values():
                call.fail()
            node.calls.clear()

    def heal(self) -> None:
        """End all faults: calls in flight fail, and all processes run."""
        self.cut()
        for index, node in enumerate(self.nodes):
            if node.lease.closing:
                self.nodes[index] = self.start(index)
        for node in self.nodes:
            node.next_at = node.now + self.random.uniform(0, BUCKET_SECONDS)

    def run_healthy(self, seconds: float) -> None:
        """Run with a store that answers at once."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.25
            for node in self.nodes:
                self.work(node)
            self.check_leaders()

    def work(self, node: Node) -> None:
        """Let a process do what is due."""
        if node.now < min(node.next_at, node.lease.next_attempt_at):
            return
        self.finish(node, node.heartbeat)
        node.next_at = node.clock.schedule(
            node.now, bucket_seconds=BUCKET_SECONDS, jitter=node.jitter
        )
        if node.believes:
            if node.must_load:
                self.finish(node, node.load)
            self.finish(node, node.read)
            self.finish(node, node.evaluate)

    def finish(self, node: Node, send: Callable[[], None]) -> None:
        """Send a call, apply it and answer it at once."""
        send()
        for call in node.calls.values():
            self.do(call)
            call.answer(call.outcome)
        node.calls.clear()

    def check_recovery(self) -> None:
        """Raise Violation unless a healthy fleet has a leader in time, which counts everything."""
        self.heal()
        since = self.now
        while not any(node.believes for node in self.nodes):
            if self.now > since + FAILOVER + 0.5:
                raise Violation("a healthy fleet has no leader")
            self.run_healthy(0.25)
        self.run_healthy(60)
        leader = next((node for node in self.nodes if node.believes), None)
        if leader is None or not leader.memory:
            raise Violation("a healthy fleet has lost its leader")
        sealed = (
            f"{node.name}:{number}"
            for node in self.nodes
            for number in range(1, node.sealed + 1)
            if self.is_exact
        )
        newer = (batch for batch in self.store.stored.values() if batch.protocol > leader.protocol)
        counted = add_up(*leader.memory.windows.values(), *map(requests_of, newer))
        if not {*sealed, *self.acknowledged} <= counted.keys():
            raise Violation("a request is not in the windows of the leader")
        if counted and max(counted.values()) > 1:
            raise Violation("a request is counted twice")
        if leader.memory.windows != self.store.windows:
            raise Violation("the windows of the leader are not stored")


def ignore() -> None:
    """Do nothing."""


def add_up(*requests: Window) -> Window:
    """Return the sum of requests."""
    total = Window()
    for part in requests:
        total.update(part)
    return total


@lru_cache(maxsize=10_000)
def requests_of(batch: Batch) -> Window:
    """Return the requests of a batch."""
    return Counter(decode(batch.payload, batch.protocol).tenants)

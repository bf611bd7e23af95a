"""Random sequences of calls, compared with a model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenpulse_mw.alerts.store import (
    Ack,
    AlertRecord,
    AlertStore,
    Batch,
    Changes,
    Conflict,
    Fenced,
    Leader,
    LeaseRequest,
    MemoryAlertStore,
    SQLAlertStore,
    UnknownAlert,
    WindowRecord,
)

from .leadership import batch, process
from .model import Model
from .samples import alert, notification, silence, transition

pytestmark = pytest.mark.slow

_Result = TypeVar("_Result")
_MAX_HISTORY = 2
_NOW = 5.0

alert_ids = st.sampled_from(["a0", "a1", "a2", "a3"])
notification_ids = st.sampled_from(["n0", "n1", "n2", "n3"])
times = st.integers(0, 9).map(float)
acks = st.none() | st.builds(Ack, st.just("ada"), times)
alerts = st.builds(
    lambda identity, state, at, ack, notified_severity: alert(
        identity,
        state=state,
        started_at=at,
        resolved_at=at if state == "resolved" else None,
        ack=ack,
        notified_severity=notified_severity,
    ),
    alert_ids,
    st.sampled_from(["pending", "firing", "recovering", "resolved"]),
    times,
    acks,
    st.sampled_from([None, "info", "warning", "critical"]),
)
processes, payloads = st.sampled_from(["p0", "p1"]), st.binary(max_size=3)
changes = st.builds(
    Changes,
    st.lists(alerts, max_size=4).map(tuple),
    st.lists(st.builds(transition, alert_ids, times), max_size=2).map(tuple),
    st.lists(st.builds(notification, notification_ids), max_size=2).map(tuple),
    st.lists(alert_ids, max_size=1).map(tuple),
    st.lists(
        st.builds(
            WindowRecord,
            st.sampled_from("wv"),
            st.integers(0, 3),
            st.just(1),
            st.binary(max_size=3),
        ),
        max_size=2,
        unique_by=lambda window: (window.kind, window.slot),
    ).map(tuple),
    st.dictionaries(st.sampled_from("wv"), st.integers(0, 3), max_size=1),
    st.lists(st.tuples(processes, st.integers(1, 4)), max_size=3).map(tuple),
    st.none() | times,
)


class Stores(RuleBasedStateMachine):
    """Makes the same calls of the model and of each store, and compares the results."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model(_MAX_HISTORY, _NOW)
        self.memory = MemoryAlertStore(max_history=_MAX_HISTORY, wall=lambda: _NOW)
        self.sql = self.new_sql()

    @property
    def stores(self) -> list[AlertStore]:
        """The stores to compare."""
        return [self.memory, self.sql]

    def new_sql(self) -> SQLAlertStore:
        """Return the SQL store of a new process."""
        url = f"sqlite+aiosqlite:///{self.folder}/alerts.db"
        return SQLAlertStore(url, max_history=_MAX_HISTORY, wall=lambda: _NOW)

    def run(self, call: Coroutine[Any, Any, _Result]) -> _Result:
        """Return the result of `call`."""
        return self.runner.run(call)

    @initialize(changes=changes)
    def begin(self, changes: Changes) -> None:
        """Begin with some records."""
        self.commit_changes(changes, self.new_leader())

    @rule(changes=changes, is_stale=st.booleans())
    def commit(self, changes: Changes, is_stale: bool) -> None:
        """Commit changes as a leader or as a former one."""
        leader = self.new_leader()
        self.commit_changes(changes, leader._replace(epoch=leader.epoch - is_stale))

    def commit_changes(self, changes: Changes, leader: Leader) -> None:
        """Commit changes; all stores accept or reject them."""
        leads = self.model.leads(leader)
        is_valid = leads and self.model.commit(changes)
        for store in self.stores:
            with nullcontext() if is_valid else pytest.raises(UnknownAlert if leads else Fenced):
                revision = self.run(store.commit(changes, leader=leader))
                assert revision == self.model.revision

    def new_leader(self) -> Leader:
        """Return the leader; if there is none, a process takes the lease."""
        if self.model.holder is None:
            self.beat("p0", [], 0, LeaseRequest("take", self.model.epoch, self.model.beat))
        assert self.model.holder is not None
        return Leader(self.model.epoch, self.model.holder)

    @rule(
        name=processes,
        numbers=st.sets(st.integers(1, 6), max_size=3).map(sorted),
        through=st.integers(0, 5),
        action=st.sampled_from([None, "renew", "take", "release"]),
        is_stale=st.booleans(),
    )
    def heartbeat(
        self,
        name: str,
        numbers: list[int],
        through: int,
        action: Literal["renew", "take", "release"] | None,
        is_stale: bool,
    ) -> None:
        """Send a heartbeat, with the current lease or an earlier one."""
        epoch, beat = self.model.epoch, self.model.beat - is_stale
        lease = action and LeaseRequest(action, epoch, beat)
        self.beat(name, [batch(number, name) for number in numbers], through, lease)

    def beat(
        self, name: str, batches: list[Batch], through: int, lease: LeaseRequest | None
    ) -> None:
        """Send a heartbeat to the model and to the stores."""
        expected = self.model.heartbeat(process(name), batches, through, lease)
        for store in self.stores:
            call = store.heartbeat(process(name), batches=batches, through=through, lease=lease)
            assert replace(self.run(call), is_reference=False) == expected

    @rule(identity=notification_ids, is_stale=st.booleans())
    def claim(self, identity: str, is_stale: bool) -> None:
        """Claim a notification as the leader or as a former one."""
        leader = self.new_leader()
        if is_stale:
            leader = leader._replace(epoch=leader.epoch - 1)
        else:
            self.model.claim(identity)
        for store in self.stores:
            with pytest.raises(Fenced) if is_stale else nullcontext():
                self.run(store.claim(identity, leader=leader))

    @rule(name=st.sampled_from(["level", "other"]), value=st.none() | times)
    def set_setting(self, name: str, value: float | None) -> None:
        """Store a setting."""
        self.model.set_setting(name, value)
        for store in self.stores:
            self.run(store.set_setting(name, value, by="ada", at=1))

    @rule(identity=notification_ids)
    def delivered(self, identity: str) -> None:
        """Deliver a notification."""
        self.model.delivered(identity)
        for store in self.stores:
            self.run(store.delivered(identity))

    @rule(identity=notification_ids, attempts=st.integers(0, 9), at=times)
    def postponed(self, identity: str, attempts: int, at: float) -> None:
        """Postpone a notification."""
        self.model.postponed(identity, attempts, at, "no")
        for store in self.stores:
            self.run(store.postponed(identity, attempts, at, "no"))

    @rule(identity=notification_ids, at=times)
    def dead(self, identity: str, at: float) -> None:
        """Turn a notification into a dead letter."""
        self.model.dead(identity, at, "never")
        for store in self.stores:
            self.run(store.dead(identity, at, "never"))

    @rule(identity=alert_ids, ack=acks)
    def acknowledge(self, identity: str, ack: Ack | None) -> None:
        """Set or remove an acknowledgement."""
        expected = self.model.acknowledge(identity, ack)
        for store in self.stores:
            assert self.run(store.acknowledge(identity, ack)) == expected

    @rule(expected=st.none() | st.integers(1, 4), fresh=st.booleans(), at=times)
    def set_thresholds(self, expected: int | None, fresh: bool, at: float) -> None:
        """Set thresholds made from the current version or another one."""
        current = self.model.versions[-1].version if self.model.versions else None
        expected = current if fresh else expected
        version = self.model.set_thresholds({"at": at}, expected, at)
        for store in self.stores:
            call = store.set_thresholds({"at": at}, expected=expected, by="ada", at=at)
            if version is not None:
                assert self.run(call) == version
                continue
            with pytest.raises(Conflict) as caught:
                self.run(call)
            assert caught.value.current == current

    @rule(identity=st.sampled_from(["s0", "s1"]), starts=times, length=times)
    def add_silence(self, identity: str, starts: float, length: float) -> None:
        """Add a silence."""
        new = silence(identity, starts, starts + length + 1)
        self.model.add_silence(new)
        for store in self.stores:
            self.run(store.add_silence(new))

    @rule(identity=st.sampled_from(["s0", "s1"]))
    def remove_silence(self, identity: str) -> None:
        """Remove a silence."""
        expected = self.model.remove_silence(identity)
        for store in self.stores:
            assert self.run(store.remove_silence(identity)) == expected

    @rule(before=times)
    def prune(self, before: float) -> None:
        """Prune what has ended."""
        self.model.prune(before)
        for store in self.stores:
            self.run(store.prune(before))

    @rule()
    def restart(self) -> None:
        """Open the database in a new process."""
        self.run(self.sql.aclose())
        self.sql = self.new_sql()

    @invariant()
    def agrees(self) -> None:
        """Compare each store with the model."""
        for store in self.stores:
            self.run(self.compare(store))

    async def compare(self, store: AlertStore) -> None:
        """Assert that all queries of `store` return what the model returns."""
        assert await store.load() == self.model.load()
        assert await store.load(self.model.revision) is None
        if self.model.holder is not None:
            leader = Leader(self.model.epoch, self.model.holder)
            assert await store.take_over(leader) == self.model.take_over()
        known = {"p0": 2}
        assert await store.batches(known) == tuple(
            batch
            for batch in self.model.take_over().batches
            if batch.number > known.get(batch.process, 0)
        )
        assert await all_alerts(store) == self.model.newest_alerts()
        for identity in ("a0", "a1", "a2", "a3"):
            assert await store.transitions(identity) == self.model.transitions_of(identity)
        assert await store.dead_letters(100) == self.model.newest_dead()
        assert await store.history(100) == tuple(reversed(self.model.versions))
        assert await store.silences(0) == self.model.lasting_silences(0)

    def teardown(self) -> None:
        """Close the store and delete the database."""
        self.run(self.sql.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)


async def all_alerts(store: AlertStore) -> list[AlertRecord]:
    """Return the alerts of all pages."""
    alerts: list[AlertRecord] = []
    cursor = None
    while True:
        page = await store.alerts(limit=3, cursor=cursor)
        alerts += page.items
        cursor = page.next
        if cursor is None:
            return alerts


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=15, stateful_step_count=15)

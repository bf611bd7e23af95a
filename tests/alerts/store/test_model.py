"""Any sequence of calls, with restarts between them, agrees with a plain model."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tokenpulse_mw.alerts.store import (
    Ack,
    AlertRecord,
    AlertStore,
    Changes,
    Conflict,
    MemoryAlertStore,
    SQLAlertStore,
    UnknownAlert,
)

from .model import Model
from .samples import alert, notification, silence, transition

pytestmark = pytest.mark.slow

_Answer = TypeVar("_Answer")
_MOST = 2
_NOW = 5.0

alert_ids = st.sampled_from(["a0", "a1", "a2", "a3"])
notification_ids = st.sampled_from(["n0", "n1", "n2", "n3"])
times = st.integers(0, 9).map(float)
acks = st.none() | st.builds(Ack, st.just("ada"), times)
alerts = st.builds(
    lambda identity, state, at, ack, told_as: alert(
        identity,
        state=state,
        started_at=at,
        resolved_at=at if state == "resolved" else None,
        ack=ack,
        told_as=told_as,
    ),
    alert_ids,
    st.sampled_from(["pending", "firing", "recovering", "resolved"]),
    times,
    acks,
    st.sampled_from([None, "info", "warning", "critical"]),
)
changes = st.builds(
    Changes,
    st.lists(alerts, max_size=4).map(tuple),
    st.lists(st.builds(transition, alert_ids, times), max_size=2).map(tuple),
    st.lists(st.builds(notification, notification_ids), max_size=2).map(tuple),
    st.lists(alert_ids, max_size=1).map(tuple),
)


class Stores(RuleBasedStateMachine):
    """Asks the model, and each store, the same; they must answer alike."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model(_MOST)
        self.memory = MemoryAlertStore(max_history=_MOST, wall=lambda: _NOW)
        self.sql = self.new_sql()

    @property
    def stores(self) -> list[AlertStore]:
        """All that are compared."""
        return [self.memory, self.sql]

    def new_sql(self) -> SQLAlertStore:
        """What a new process opens."""
        url = f"sqlite+aiosqlite:///{self.folder}/alerts.db"
        return SQLAlertStore(url, max_history=_MOST, wall=lambda: _NOW)

    def run(self, call: Coroutine[Any, Any, _Answer]) -> _Answer:
        """What `call` gives."""
        return self.runner.run(call)

    @initialize(changes=changes)
    def begin(self, changes: Changes) -> None:
        """There is something from the beginning."""
        self.commit_changes(changes)

    @rule(changes=changes)
    def commit(self, changes: Changes) -> None:
        """A round."""
        self.commit_changes(changes)

    def commit_changes(self, changes: Changes) -> None:
        """All keep it, or none."""
        possible = self.model.commit(changes)
        for store in self.stores:
            with nullcontext() if possible else pytest.raises(UnknownAlert):
                self.run(store.commit(changes))

    @rule(identity=notification_ids)
    def delivered(self, identity: str) -> None:
        """A sink has taken it."""
        self.model.delivered(identity)
        for store in self.stores:
            self.run(store.delivered(identity))

    @rule(identity=notification_ids, attempts=st.integers(0, 9), at=times)
    def postponed(self, identity: str, attempts: int, at: float) -> None:
        """A sink has not."""
        self.model.postponed(identity, attempts, at, "no")
        for store in self.stores:
            self.run(store.postponed(identity, attempts, at, "no"))

    @rule(identity=notification_ids, at=times)
    def dead(self, identity: str, at: float) -> None:
        """A sink never will."""
        self.model.give_up(identity, at, "never")
        for store in self.stores:
            self.run(store.dead(identity, at, "never"))

    @rule(identity=alert_ids, ack=acks)
    def acknowledge(self, identity: str, ack: Ack | None) -> None:
        """Somebody has seen it."""
        expected = self.model.acknowledge(identity, ack)
        for store in self.stores:
            assert self.run(store.acknowledge(identity, ack)) == expected

    @rule(expected=st.none() | st.integers(1, 4), fresh=st.booleans(), at=times)
    def set_thresholds(self, expected: int | None, fresh: bool, at: float) -> None:
        """Somebody changes them, from the current version or another."""
        current = self.model.versions[-1].version if self.model.versions else None
        expected = current if fresh else expected
        made = self.model.set_thresholds({"at": at}, expected, at)
        for store in self.stores:
            call = store.set_thresholds({"at": at}, expected=expected, by="ada", at=at)
            if made is not None:
                assert self.run(call) == made
                continue
            with pytest.raises(Conflict) as error:
                self.run(call)
            assert error.value.current == current

    @rule(identity=st.sampled_from(["s0", "s1"]), starts=times, length=times)
    def add_silence(self, identity: str, starts: float, length: float) -> None:
        """Somebody wants silence."""
        wanted = silence(identity, starts, starts + length + 1)
        self.model.put_silence(wanted)
        for store in self.stores:
            self.run(store.add_silence(wanted))

    @rule(identity=st.sampled_from(["s0", "s1"]))
    def remove_silence(self, identity: str) -> None:
        """Somebody wants to hear again."""
        there = self.model.remove_silence(identity)
        for store in self.stores:
            assert self.run(store.remove_silence(identity)) == there

    @rule(before=times)
    def prune(self, before: float) -> None:
        """Time goes by."""
        self.model.prune(before)
        for store in self.stores:
            self.run(store.prune(before))

    @rule()
    def restart(self) -> None:
        """A new process goes on."""
        self.run(self.sql.aclose())
        self.sql = self.new_sql()

    @invariant()
    def agrees(self) -> None:
        """Whatever can be asked is answered alike."""
        for store in self.stores:
            self.run(self.compare(store))

    async def compare(self, store: AlertStore) -> None:
        """Ask `store` everything."""
        assert await store.load() == self.model.kept(_NOW)
        assert await all_alerts(store) == self.model.newest()
        for identity in ("a0", "a1", "a2", "a3"):
            assert await store.transitions(identity) == self.model.log(identity)
        assert await store.dead_letters(100) == self.model.dead()
        assert await store.history(100) == tuple(reversed(self.model.versions))
        assert await store.silences(0) == self.model.lasting(0)

    def teardown(self) -> None:
        """Leave nothing."""
        self.run(self.sql.aclose())
        self.runner.close()
        shutil.rmtree(self.folder)


async def all_alerts(store: AlertStore) -> list[AlertRecord]:
    """Every alert, page by page."""
    found: list[AlertRecord] = []
    cursor = None
    while True:
        page = await store.alerts(limit=3, cursor=cursor)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=15, stateful_step_count=15)

"""Engines that share a store, as one fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from tokenpulse_mw.alerts import (
    AlertEngine,
    AlertEvent,
    Finding,
    MemoryAlertStore,
    StoreError,
    Subject,
    Thresholds,
    Traffic,
)
from tokenpulse_mw.alerts.store import (
    Batch,
    Changes,
    FleetState,
    Leader,
    LeaseRequest,
    Process,
)

from ...support.clock import FakeClock
from ..exchanges import exchange

pytestmark = pytest.mark.anyio


class UnreliableStore(MemoryAlertStore):
    """Store whose heartbeats take effect, but raise an error while `fails` is set.

    While `rejects_commits` is set, all commits fail without an effect.
    """

    fails = rejects_commits = False

    async def heartbeat(
        self,
        process: Process,
        /,
        *,
        batches: Sequence[Batch],
        through: int,
        lease: LeaseRequest | None,
    ) -> FleetState:
        """Store the traffic and lose the response, if the store fails."""
        state = await super().heartbeat(process, batches=batches, through=through, lease=lease)
        if self.fails:
            raise StoreError("the response was lost")
        return state

    async def commit(self, changes: Changes, /, *, leader: Leader) -> int:
        """Store changes, unless commits are rejected."""
        if self.rejects_commits:
            raise StoreError("the database is locked")
        return await super().commit(changes, leader=leader)


class DayRule:
    """Rule that finds nothing, and notes the requests of each tenant in the last 24 hours."""

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
        self.requests = {tenant: requests for tenant, requests, _ in traffic.counts.day.items()}
        return []


async def test_process_that_ends_after_a_failed_heartbeat_sends_all_traffic(
    clock: FakeClock,
) -> None:
    """The last heartbeats have the repeated batches, and all exchanges that were counted since."""
    store, rule = UnreliableStore(wall=clock), DayRule()
    async with AlertEngine([], [], store=store, clock=clock, wall=clock) as engine:
        engine.observe(exchange(tenant="acme"))
        store.fails = True
        await engine.evaluate()
        engine.observe(exchange(tenant="acme"))
        store.fails = False

    successor = AlertEngine([rule], [], store=store, clock=clock, wall=clock)
    await successor.evaluate()

    assert rule.requests == {"acme": 2}


def trouble(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterable[Finding]:
    """Return one finding in each evaluation."""
    subject = Subject("key", "k1")
    return [
        Finding(type="trouble", subject=subject, severity="warning", title="Trouble", message="")
    ]


async def test_event_that_could_not_be_stored_waits_if_there_are_other_processes(
    clock: FakeClock,
) -> None:
    """After the end of the leader, another process would decide and deliver the same event."""
    events = list[AlertEvent]()
    store = UnreliableStore(wall=clock)
    engine = AlertEngine([trouble], [events.append], store=store, clock=clock, wall=clock)
    other = AlertEngine([trouble], [events.append], store=store, clock=clock, wall=clock)
    for process in (engine, other, engine):
        await process.fleet()

    store.rejects_commits = True
    await engine.evaluate()
    assert events == []

    store.rejects_commits = False
    clock.advance(5)
    await engine.evaluate()
    (event,) = events
    assert [record.id for record in (await store.alerts()).items] == [event.alert_id]

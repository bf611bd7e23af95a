"""Calls of a store by the processes of a fleet."""

from __future__ import annotations

from dataclasses import replace

from tokenpulse_mw.alerts.store import (
    AlertStore,
    Batch,
    Changes,
    EngineState,
    FleetState,
    Leader,
    LeaderState,
    LeaseRequest,
    Notification,
    Process,
)
from tokenpulse_mw.alerts.store.usage import UsageRecord


def process(name: str = "p1", started_at: float = 1) -> Process:
    """Return a process of the fleet."""
    return Process(
        name, "host", 7, "0.1.0", 1, ("trouble",), ("log", "page"), True, started_at, "heartbeat=5"
    )


def batch(number: int, name: str = "p1", slot: int = 20) -> Batch:
    """Return a batch of a process."""
    return Batch(name, number, slot, 1, b"\0\xff%d" % number)


def metered(number: int, name: str) -> Batch:
    """Return a batch with one request of a tenant with the name of the process."""
    usage = UsageRecord(0, name, "gpt-5", "openai", requests=1)
    return replace(batch(number, name), usage=(usage,))


async def beat(
    store: AlertStore,
    name: str = "p1",
    *batches: Batch,
    through: int = 0,
    lease: LeaseRequest | None = None,
) -> FleetState:
    """Send a heartbeat of a process."""
    return await store.heartbeat(process(name), batches=batches, through=through, lease=lease)


async def take(store: AlertStore, name: str = "p1") -> Leader:
    """Make a process the leader, at the end of the lease of the one before."""
    state = await beat(store, name)
    lease = LeaseRequest("take", state.epoch, state.beat)
    state = await beat(store, name, lease=lease)
    assert state.granted
    return Leader(state.epoch, name)


async def release(store: AlertStore) -> None:
    """End the lease of the leader, as if it had lapsed, so that the next process leads at once."""
    leader = await take(store)
    await beat(store, leader.process, lease=LeaseRequest("release", leader.epoch))


async def leader_of(store: AlertStore, name: str = "p1") -> Leader:
    """Return the leader; if there is none, the process takes the lease."""
    state = await beat(store, name)
    if state.holder is None:
        state = await beat(store, name, lease=LeaseRequest("take", state.epoch, state.beat))
    assert state.holder is not None
    return Leader(state.epoch, state.holder)


async def commit(store: AlertStore, changes: Changes) -> int:
    """Commit changes as the leader, and return the revision."""
    return await store.commit(changes, leader=await leader_of(store))


async def loaded(store: AlertStore) -> EngineState:
    """Return the state that all processes share."""
    state = await store.load()
    assert state is not None
    return state


async def taken_over(store: AlertStore) -> LeaderState:
    """Return the state from which a new leader continues."""
    return await store.take_over(await leader_of(store))


async def waiting(store: AlertStore) -> tuple[Notification, ...]:
    """Return the undelivered notifications."""
    return (await taken_over(store)).notifications

"""Engines that share a store, as one fleet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from tokenpulse_mw.alerts import AlertEngine, Finding, MemoryAlertStore, StoreError, Thresholds
from tokenpulse_mw.alerts import Traffic
from tokenpulse_mw.alerts.store import Batch, FleetState, LeaseRequest, Process

from ...support.clock import FakeClock
from ..exchanges import exchange

pytestmark = pytest.mark.anyio


class UnreliableStore(MemoryAlertStore):
    """Store whose heartbeats take effect, but raise an error while `fails` is set."""

    fails = False

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

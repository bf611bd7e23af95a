"""The protocol of a fleet under random faults, and wrong protocols that the simulation detects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from random import Random

import pytest

from tokenpulse_mw.alerts.fleet.backlog import Backlog
from tokenpulse_mw.alerts.fleet.lease import Lease
from tokenpulse_mw.alerts.steps import Steps
from tokenpulse_mw.alerts.store.protocol import FleetState, Leader, LeaseRequest
from tokenpulse_mw.alerts.store.records import Batch
from tokenpulse_mw.alerts.traffic.bucket import Bucket

from .model import Store
from .simulation import DURATION, Node, Simulation, Violation

pytestmark = pytest.mark.slow

RUNS = 300  # increase it for a longer search
STEPS = 250


def simulate(
    runs: int, *, node_type: type[Node] = Node, store_type: type[Store] = Store
) -> Counter[str]:
    """Run simulations and return the number of leaderships and of commits.

    Raises:
        Violation: A guarantee did not hold.
    """
    total = Counter[str]()
    for seed in range(runs):
        random = Random(seed)
        size = random.choice([2, 2, 3, 3, 4, 5])
        fleet = Simulation(random, size, node_type=node_type, store_type=store_type)
        fleet.run(STEPS)
        fleet.check_recovery()
        total.update(
            leaderships=fleet.store.epoch,
            commits=fleet.store.commits,
            acknowledged=len(fleet.acknowledged),
        )
    return total


def test_fleet_under_faults_keeps_its_guarantees() -> None:
    """Lost answers, late calls, crashes and stops lose and repeat nothing and elect one leader."""
    total = simulate(RUNS)

    assert total["leaderships"] > 2 * RUNS
    assert total["commits"] > 2 * RUNS
    assert total["acknowledged"] > 10 * RUNS


def test_fleet_after_a_failover_that_lost_writes_counts_what_the_store_has() -> None:
    """A fleet elects a leader that has the traffic of the store and all that follows, once."""
    for seed in range(RUNS // 3):
        random = Random(seed)
        fleet = Simulation(random, random.choice([2, 2, 3, 3, 4, 5]))
        fleet.run(STEPS // 2)
        state = deepcopy(fleet.store.__dict__)
        fleet.run(random.randint(1, 40))
        fleet.fail_over(state)
        fleet.run(STEPS // 2)
        fleet.check_recovery()


class UnfencedStore(Store):
    """Accepts the writes of an earlier leader."""

    def fence(self, leader: Leader) -> None:
        """Accept any leader."""


class ForgetfulStore(Store):
    """Stores a batch again that it had before."""

    def is_new(self, batch: Batch, pushed: int) -> bool:
        """Accept any number."""
        return True


class UncheckedStore(Store):
    """Gives the lease to a candidate that has seen an older row."""

    def is_current(self, lease: LeaseRequest) -> bool:
        """Accept any epoch and beat."""
        return True


class HastyLease(Lease):
    """Takes the lease after half of its duration."""

    @property
    def next_attempt_at(self) -> float:
        """Time at which the process may take the lease."""
        return super().next_attempt_at - DURATION / 2


class RenewedFromAnswer(Lease):
    """Counts a renewal from the time of the response."""

    def observe(self, state: FleetState, *, asked: float, heard: float) -> bool:
        """Follow a heartbeat."""
        return super().observe(state, asked=heard, heard=heard)


class SeenAtRequest(Lease):
    """Counts the wait of a candidate from the time at which it sent the heartbeat."""

    def observe(self, state: FleetState, *, asked: float, heard: float) -> bool:
        """Follow a heartbeat."""
        return super().observe(state, asked=asked, heard=asked)


class LingeringLease(Lease):
    """Leads on while it releases the lease."""

    def request(self, now: float) -> LeaseRequest | None:
        """Return the requested change of the lease."""
        until = self.until
        request = super().request(now)
        self.until = until
        return request


class RenumberingBacklog(Backlog):
    """Sends a batch again under a new number."""

    def batches(
        self, process: str, encode: Callable[[Bucket, int], bytes], *, protocol: int
    ) -> Steps[tuple[Batch, ...]]:
        """Return the batches of the next heartbeat."""
        self._sent = tuple(
            replace(batch, number=batch.number + len(self._sent)) for batch in self._sent
        )
        return super().batches(process, encode, protocol=protocol)


class TrustingNode(Node):
    """Takes a commit whose outcome is unknown for stored."""

    def commit_is_unknown(self, confirm: Callable[[], None]) -> None:
        """Confirm the commit."""
        confirm()


class RememberingNode(Node):
    """Continues a later leadership with the memory of an earlier one."""

    @property
    def must_load(self) -> bool:
        """True if it has no memory."""
        if self.memory and self.lease.leader:
            self.memory.leader = self.lease.leader
        return super().must_load


def with_lease(lease: type[Lease]) -> type[Node]:
    """Return a type of node with another lease."""
    return type("Mutant", (Node,), {"lease_type": lease})


@pytest.mark.parametrize(
    ("node_type", "store_type"),
    [
        pytest.param(Node, UnfencedStore, id="no-fence"),
        pytest.param(Node, ForgetfulStore, id="no-high-water-mark"),
        pytest.param(Node, UncheckedStore, id="no-compare-and-set"),
        pytest.param(with_lease(HastyLease), Store, id="half-a-lease"),
        pytest.param(with_lease(RenewedFromAnswer), Store, id="renewed-from-the-answer"),
        pytest.param(with_lease(SeenAtRequest), Store, id="seen-at-the-request"),
        pytest.param(TrustingNode, Store, id="unknown-commit-confirmed"),
        pytest.param(
            type("Mutant", (Node,), {"backlog_type": RenumberingBacklog}),
            Store,
            id="new-number-after-unknown",
        ),
        pytest.param(RememberingNode, Store, id="memory-of-an-earlier-leadership"),
        pytest.param(with_lease(LingeringLease), Store, id="leads-while-it-releases"),
    ],
)
def test_wrong_protocol_breaks_a_guarantee(node_type: type[Node], store_type: type[Store]) -> None:
    """The simulation detects each mutation of the protocol, so it is able to fail."""
    with pytest.raises(Violation):
        simulate(RUNS, node_type=node_type, store_type=store_type)

"""The protocol of a fleet under random faults, and wrong protocols that it has to detect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest

from tokenpulse_mw.alerts.fleet import Backlog, Lease
from tokenpulse_mw.alerts.store.protocol import FleetState, Leader, LeaseRequest
from tokenpulse_mw.alerts.store.records import Batch

from .model import Store
from .simulation import DURATION, Node, Simulation, Violation

RUNS = 300  # increase it for a longer search
STEPS = 250


def simulate(
    runs: int, *, node_type: type[Node] = Node, store_type: type[Store] = Store
) -> tuple[int, int]:
    """Run simulations and return the number of leaderships and of commits."""
    leaderships = commits = 0
    for seed in range(runs):
        random = Random(seed)
        fleet = Simulation(random, random.randint(2, 5), node_type=node_type, store_type=store_type)
        fleet.run(STEPS)
        fleet.check_recovery()
        leaderships += fleet.store.epoch
        commits += fleet.store.commits
    return leaderships, commits


def test_fleet_under_faults_keeps_its_guarantees() -> None:
    """Lost answers, late calls, crashes and stops lose and repeat nothing and elect one leader."""
    leaderships, commits = simulate(RUNS)

    assert leaderships > 2 * RUNS
    assert commits > 2 * RUNS

"""Processes whose calls overlap, are cancelled or come late: nothing is lost or counted twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tokenpulse_mw.alerts import AlertEvent, Thresholds
from tokenpulse_mw.alerts.store import StoreError

from ..exchanges import exchange
from ..findings import RecordingSink, finding
from ..store.leadership import take
from .replicas import Replica, Replicas

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """Return the event loop of the kind of store."""
    return kind.partition("-")[2]


def observe(replica: Replica, number: int) -> None:
    """Let a number of exchanges of different tenants end in a process."""
    for tenant in range(number):
        replica.observe(exchange(tenant=f"t{tenant}"))


def counted(replica: Replica) -> int:
    """Return the number of requests in the windows of the leader."""
    leadership = replica._fleet.leadership
    assert leadership is not None
    return sum(requests for _, requests, _ in leadership.evaluator.traffic.counts.day.items())


async def test_edit_during_an_evaluation_applies_to_the_leader(replicas: Replicas) -> None:
    """A commit that changes no alert does not hide the edit of another process."""
    leader, other = replicas.replicas(2)
    await replicas.run(20)

    async def edit() -> None:
        await other.controls.set_thresholds(Thresholds(master_rpm=7), by="ada")

    leader.connection.delays["commit"] = edit
    await leader.evaluate()
    await replicas.run(10)

    assert leader.thresholds == other.thresholds == Thresholds(master_rpm=7)


@pytest.mark.parametrize("call", ["evaluate", "fleet", "dry_run"])
async def test_cancelled_call_loses_no_traffic(replicas: Replicas, call: str) -> None:
    """The caller may be cancelled at any checkpoint."""
    (engine,) = replicas.replicas(1)
    await replicas.run(10)
    total = 0
    for checkpoints in range(0, 60, 3):
        observe(engine, 10)
        total += 10
        replicas.wall.advance(5)

        async def cancelled(checkpoints: int = checkpoints) -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(getattr(engine, call))
                for _ in range(checkpoints):
                    await checkpoint()
                tasks.cancel_scope.cancel()

        await cancelled()

    await replicas.run(10)
    await engine.evaluate()
    assert counted(engine) == total


async def test_batches_of_overlapping_snapshots_count_once(replicas: Replicas) -> None:
    """A snapshot that is stored late does not confirm the batches of the next one."""
    leader, _ = replicas.replicas(2)
    await replicas.run(20)
    leader.connection.loses = ["commit"]
    observe(leader, 10)
    await leader.evaluate()
    leader.connection.loses = []

    async def evaluate_again() -> None:
        observe(leader, 10)
        replicas.wall.advance(5)
        leadership = leader._fleet.leadership
        assert leadership is not None
        await leader.fleet()
        async for _ in steps(leadership.snapshot(leader.clock(), replicas.wall())):
            pass

    leader.connection.delays["commit"] = evaluate_again
    await leader._fleet.writer.write()
    observe(leader, 10)
    await leader.evaluate()
    replicas.kill(leader)
    await replicas.run(25)

    (successor,) = replicas.leaders
    await successor.evaluate()
    assert counted(successor) == 30


async def steps(generator: Any) -> Any:
    """Run a generator of steps, with a checkpoint after each."""
    for _ in generator:
        await checkpoint()
        yield


@pytest.mark.parametrize("has_peer", [True, False])
async def test_process_that_was_stopped_does_not_continue_alone(
    replicas: Replicas, has_peer: bool
) -> None:
    """Another process may have led meanwhile, also one that it has never seen."""
    replicas.rule.findings = [finding()]
    stopped = replicas.replica()
    if has_peer:
        replicas.replica()
    await replicas.run(20)
    await replicas.evaluate()
    replicas.kill(stopped)
    if not has_peer:
        replicas.replica()
    await replicas.run(200)
    replicas.rule.findings = []

    replicas.cut(stopped)

    assert await stopped.evaluate() == []
    assert (stopped.leads, stopped.sink.transitions) == (False, ["fired"])


async def test_changes_of_an_ended_leadership_are_not_stored_later(replicas: Replicas) -> None:
    """Their commit was in progress when the process stopped leading, and then failed."""
    first, _ = replicas.replicas(2)
    await replicas.run(20)
    replicas.rule.findings = [finding()]

    async def lose_the_lease() -> None:
        await take(replicas.store, "other")
        await first.fleet()
        raise StoreError("connection lost")

    first.connection.delays["commit"] = lose_the_lease
    assert await first.evaluate() == []
    await replicas.run(20)  # the lease of the other process lapses
    await replicas.evaluate()

    assert [alert.state for alert in (await replicas.store.alerts()).items] == ["firing"]
    assert replicas.delivered() == ["fired"]


class ResendingSink(RecordingSink):
    """Sink that receives all firing alerts in each evaluation.

    Attributes:
        resent: Number of these calls.
    """

    resent = 0

    async def resend(self, events: Sequence[AlertEvent], at: float) -> None:
        """Count a call."""
        self.resent += 1


async def test_firing_alerts_are_sent_again_by_the_leader_alone(replicas: Replicas) -> None:
    """A process whose lease has ended since its evaluation sends nothing."""
    sink = ResendingSink()
    replicas.rule.findings = [finding()]
    first = replicas.replica(sinks=[sink])
    replicas.replica(sinks=[ResendingSink()])
    await replicas.run(20)
    await first.evaluate()
    assert sink.resent == 1

    first.connection.delays["claim"] = partial(take, replicas.store, "other")
    await first.evaluate()

    assert (sink.resent, first.leads) == (1, False)


async def test_own_traffic_counts_once_if_a_restore_fails_after_an_outage(
    replicas: Replicas,
) -> None:
    """The windows have the traffic of the outage; the batches are read with the windows alone."""
    (engine,) = replicas.replicas(1)
    await replicas.run(10)
    replicas.cut()
    observe(engine, 20)
    await engine.evaluate()
    replicas.connect()

    async def fail() -> None:
        raise StoreError("connection lost")

    engine.connection.delays["take_over"] = fail
    await replicas.run(5)
    assert counted(engine) == 20
    await replicas.run(5)
    await engine.evaluate()
    assert counted(engine) == 20


async def test_thresholds_that_are_set_again_after_a_failover_apply(replicas: Replicas) -> None:
    """A version that the store has lost has the number of the next one."""
    first, second = replicas.replicas(2)
    await replicas.run(20)
    await first.controls.set_thresholds(Thresholds(master_rpm=5), by="ada")
    await replicas.run(10)
    state = await replicas.store.load()
    assert state is not None
    assert state.thresholds is not None

    again = replace(state.thresholds, values=Thresholds(master_rpm=7).as_dict(), at=replicas.wall())
    failed_over = replace(state, thresholds=again, revision=state.revision + 1)
    for replica in (first, second):
        for _ in replica.controls.adopt(failed_over):
            pass

    assert first.thresholds == second.thresholds == Thresholds(master_rpm=7)


async def test_forked_process_joins_with_a_name_of_its_own(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was forked after a heartbeat does not use the numbers of its parent."""
    (engine,) = replicas.replicas(1)
    await replicas.run(10)
    (parent,) = (await engine.fleet()).members

    monkeypatch.setattr(os, "getpid", lambda: parent.process.pid + 1)
    await replicas.run(5)

    names = {member.process.name for member in (await engine.fleet()).members}
    assert len(names) == 2


async def test_attempt_ends_with_the_lease(replicas: Replicas) -> None:
    """A delivery that takes longer could follow those of the next leader."""
    leader, _ = replicas.replicas(2)
    await replicas.run(20)
    assert leader.leads
    assert 0 < await leader._fleet.claim("") <= 15

    (alone,) = [replica for replica in replicas.running if replica.leads]
    replicas.kill(replicas.running[1])
    await replicas.run(20)
    assert await alone._fleet.claim("") == float("inf")

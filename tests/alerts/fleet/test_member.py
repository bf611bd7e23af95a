"""Membership of a process: its name, its clock, its protocol and its counts."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from tokenpulse_mw.alerts import Fleet, MemoryAlertStore, Thresholds, default_rules
from tokenpulse_mw.alerts.fleet import member
from tokenpulse_mw.alerts.store import Process
from tokenpulse_mw.alerts.traffic.bucket import Bucket, encode_bucket

from ...support.clock import FakeClock
from ..exchanges import exchange
from ..findings import finding
from .replicas import START, Replica, Replicas

pytestmark = pytest.mark.anyio

BUSY = Thresholds(master_rpm=100, traffic_keep_firing=0)


def observe(replica: Replica, number: int, **fields: Any) -> None:
    """Let a number of exchanges of a tenant end in a process."""
    for _ in range(number):
        replica.observe(exchange(tenant="acme", **fields))


def newer_process() -> Process:
    """Return a process of the next version, as it describes itself."""
    return Process("newer", "host", 1, "0.2.0", 2, (), (), True, START, "")


FORKED = """
import os
import anyio
from tokenpulse_mw.alerts import AlertEngine

engine = AlertEngine([], [])

async def name():
    await engine.evaluate()
    (member,) = (await engine.fleet()).members
    return member.process.name

for _ in range(2):
    pid = os.fork()
    if not pid:
        print(anyio.run(name), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
print(anyio.run(name))
"""


def test_engine_that_is_forked_has_another_name_in_each_process() -> None:
    """An application may create its engine before its server forks the workers."""
    command = [sys.executable, "-c", FORKED]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    names = output.split()
    assert len(set(names)) == 3
    host_and_pids = {name.rpartition(":")[0] for name in names}
    assert len(host_and_pids) == 3


async def test_process_has_another_name_than_the_one_before() -> None:
    """A container may have the same host name and process id after each restart."""
    replicas = Replicas()
    one, _ = replicas.replicas(2)
    await replicas.run(5)

    names = [member.process.name for member in (await one.fleet()).members]

    host_and_pid = [name.rpartition(":")[0] for name in names]
    assert len(set(names)) == 2
    assert len(set(host_and_pid)) == 1


async def test_version_of_a_copy_that_is_not_installed_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process takes part in its fleet all the same."""

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(member, "version", missing)
    engine = Replicas().replica()

    (described,) = (await engine.fleet()).members

    assert described.process.version == "unknown"


async def test_older_leader_releases_its_lease_to_a_newer_process() -> None:
    """In a deployment, the rules of the new version apply as soon as one process has it."""
    replicas = Replicas()
    older = replicas.replica()
    await replicas.run(10)
    assert older.leads

    await replicas.store.heartbeat(newer_process(), batches=(), through=0, lease=None)
    await replicas.run(10)

    assert (older.leads, await older.evaluate()) == (False, [])
    assert (await older.fleet()).holder is None
    await replicas.run(30)  # the newer one has ended
    assert older.leads


async def test_process_writes_the_protocol_that_all_processes_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A newer process writes the newer protocol after the last older one has ended."""
    replicas = Replicas()
    older, newer = replicas.replicas(2, rules=default_rules(), thresholds=BUSY)
    await older.beat()
    written = list[int]()

    def encode(bucket: Bucket, protocol: int) -> bytes:
        written.append(protocol)
        return encode_bucket(bucket, 1)

    monkeypatch.setattr(member, "encode_bucket", encode)

    async def beat_newer() -> None:
        with monkeypatch.context() as newer_version:
            newer_version.setattr(member, "PROTOCOL", 2)
            await newer.beat()

    await beat_newer()
    observe(newer, 1)
    replicas.wall.advance(5)
    await beat_newer()
    replicas.kill(older)
    replicas.wall.advance(20)
    await beat_newer()
    observe(newer, 1)
    replicas.wall.advance(5)
    await beat_newer()

    assert written == [1, 2]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_clock_of_the_store_that_steps_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The time of the fleet follows it."""
    replicas = Replicas(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    engine = replicas.replica()
    shift = [0.0]
    monotonic = FakeClock()
    engine.clock = lambda: monotonic() - shift[0]
    await engine.beat()
    before = engine._member.now - monotonic()

    replicas.wall.advance(3600)
    for _ in range(5):
        monotonic.advance(5)
        replicas.wall.advance(5)
        await engine.beat()

    assert engine._member.now - monotonic() == before + 3600
    warnings = [message for message in caplog.messages if "clock" in message]
    assert warnings == ["clock of the alert store has changed: seconds=+3600.0"]
    await replicas.store.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_wall_clock_of_a_process_that_is_wrong_moves_no_window(tmp_path: Path) -> None:
    """All times are those of the database."""
    replicas = Replicas(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    options: dict[str, Any] = {"rules": default_rules(), "thresholds": BUSY}
    right = replicas.replica(**options)
    wrong = replicas.replica(**options, wall=lambda: replicas.wall() + 86_400)
    await replicas.run(20)
    for engine in (right, wrong):
        observe(engine, 60)

    (event,) = await replicas.evaluate()

    assert (event.finding.value, event.at) == (120, replicas.wall())
    await replicas.store.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_traffic_before_the_fleet_time_is_known_counts_now(
    tmp_path: Path,
) -> None:
    """The clock of a process may be wrong until its first heartbeat."""
    replicas = Replicas(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    leader = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    wrong = replicas.replica(
        rules=default_rules(), thresholds=BUSY, wall=lambda: replicas.wall() + 86_400
    )
    observe(wrong, 120)

    (event,) = await replicas.evaluate()

    assert (event.finding.value, leader.leads) == (120, True)
    await replicas.run(90)
    (resolved,) = await replicas.evaluate()
    assert resolved.transition == "resolved"
    await replicas.store.aclose()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("ahead", [7, 120, 86_400, -7, -3600])
async def test_first_process_with_a_wrong_clock_counts_in_the_time_of_the_store(
    tmp_path: Path, ahead: int
) -> None:
    """Traffic from before the first heartbeat that succeeded moves with the clock."""
    replicas = Replicas(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    engine = replicas.replica(
        rules=default_rules(), thresholds=BUSY, wall=lambda: replicas.wall() + ahead
    )
    replicas.cut()
    observe(engine, 40)
    await replicas.run(10)
    observe(engine, 40)
    replicas.connect()
    await replicas.run(10)
    observe(engine, 40)

    (event,) = await replicas.evaluate()

    assert (event.fingerprint, event.finding.value) == ("traffic_spike:master_rpm:master:acme", 120)
    leadership = engine._fleet.leadership
    assert leadership is not None
    assert leadership.evaluator.traffic.counts.request_rate.starts_at < replicas.wall()
    await replicas.run(90)
    assert [event.transition for event in await replicas.evaluate()] == ["resolved"]
    await replicas.store.aclose()


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("seconds", [3, 20, 7200])
@pytest.mark.parametrize("restarts", [False, True])
async def test_clock_of_the_store_that_is_set_back_hides_no_traffic(
    tmp_path: Path, seconds: int, restarts: bool
) -> None:
    """The windows begin with what is not later than now, also those of the next leader."""
    replicas = Replicas(f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    monotonic = FakeClock()
    options: dict[str, Any] = {
        "rules": default_rules(),
        "thresholds": Thresholds(
            master_rpm=100, provider_failures=10, keep_firing=0, traffic_keep_firing=0
        ),
        "clock": monotonic,
    }

    async def run(seconds: int) -> None:
        for _ in range(seconds // 5):
            monotonic.advance(5)
            await replicas.run(5)

    engine = replicas.replica(**options)
    await run(20)
    observe(engine, 10, provider="claude")
    await run(60)
    assert await engine.evaluate() == []
    if restarts:
        replicas.kill(engine)
        engine = replicas.replica(**options)

    replicas.wall.now -= seconds
    await run(30)
    assert engine.leads
    observe(engine, 120, provider="claude", status=502)
    await run(15)
    events = await engine.evaluate()

    assert {event.finding.type: event.finding.value for event in events} == {
        "traffic_spike": 120,
        "provider_down": 120,
    }
    state = await engine.fleet()
    assert state.complete_since <= state.now
    await run(90)
    await engine.evaluate()
    assert [finding.type for finding in engine.firing] == ["provider_down"]
    await replicas.store.aclose()


async def test_processes_that_count_differently_are_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other thresholds are logged after some heartbeats, since a change takes some."""
    replicas = Replicas()
    leader = replicas.replica()
    replicas.replica(fleet=Fleet(heartbeat=6, lease=18))
    await replicas.run(10)
    slow = "heartbeat=6 error_window=300 count_client_errors=False latencies=0.5,1.25,2.5,4,5,"
    (message,) = caplog.messages
    assert message.startswith("processes of one alert store have different heartbeat, so alerts")
    assert slow in message

    caplog.clear()
    replicas.replica(thresholds=Thresholds(error_window=600, provider_latency_p95=None))
    await replicas.run(15)
    assert caplog.messages == []
    await replicas.run(15)

    (message,) = caplog.messages
    assert message.startswith("processes of one alert store have different thresholds, so alerts")
    assert "heartbeat=5 error_window=600 count_client_errors=False latencies=; this" in message
    state = await leader.fleet()
    (ours,) = [member.process for member in state.members if member.process.name == state.holder]
    differences = [member.process.differences(ours) for member in state.members]
    assert sorted(differences) == [[], ["heartbeat"], ["thresholds"]]


async def test_new_thresholds_are_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    """All processes use them within two heartbeats."""
    replicas = Replicas()
    leader, other = replicas.replicas(2)
    await replicas.run(10)

    await other.controls.set_thresholds(other.thresholds.changed(error_window=600), by="ada")
    await replicas.run(60)

    one, two = [member.process for member in (await leader.fleet()).members]
    assert (one.differences(two), "error_window=600" in one.profile) == ([], True)
    assert caplog.messages == []


async def test_reset_process_joins_a_store_in_memory_again() -> None:
    """The store is empty, so the process is a new one with another name."""
    replicas = Replicas()
    engine = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(10)
    before = (await engine.fleet()).members
    observe(engine, 120)
    assert isinstance(replicas.store, MemoryAlertStore)
    engine.store = replicas.store

    engine.reset()

    assert (engine.leads, engine.fleet_members()) == (False, {(): 0})
    assert await replicas.evaluate() == []
    (after,) = (await engine.fleet()).members
    assert after.process.name not in {member.process.name for member in before}
    observe(engine, 120)
    (event,) = await replicas.evaluate()
    assert event.finding.value == 120


async def test_reset_process_keeps_its_place_in_a_lasting_store() -> None:
    """It has the lease and the stored traffic, but not what it had not sent yet."""
    replicas = Replicas()
    engine = replicas.replica(rules=default_rules(), thresholds=Thresholds(master_rpd=100))
    await replicas.run(10)
    observe(engine, 80)
    await replicas.evaluate()
    observe(engine, 1000)

    engine.reset()

    assert engine.firing == []
    assert await replicas.evaluate() == []
    assert engine.leads
    observe(engine, 40)
    (event,) = await replicas.evaluate()
    assert event.finding.value == 120


async def test_engine_without_a_running_task_leads_from_one_evaluation_to_the_next() -> None:
    """A single process may be evaluated by hand, at any interval."""
    replicas = Replicas()
    engine = replicas.replica(fleet=Fleet(alone_after=None))
    replicas.rule.findings = [finding()]
    assert [event.transition for event in await engine.evaluate()] == ["fired"]
    replicas.wall.advance(86_400)
    replicas.rule.findings = []

    assert [event.transition for event in await engine.evaluate()] == ["resolved"]

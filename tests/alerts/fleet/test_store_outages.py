"""Engines whose store fails: nothing is lost, counted twice or reported by two processes."""

from __future__ import annotations

from typing import Any

import pytest

from tokenpulse_mw.alerts import Fleet, MemoryAlertStore, Thresholds, default_rules
from tokenpulse_mw.alerts.store import StoreError

from ..exchanges import exchange
from ..findings import finding
from .replicas import Replica, Replicas

pytestmark = pytest.mark.anyio

BUSY = Thresholds(master_rpm=100, traffic_keep_firing=0)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """Return the event loop of the kind of store."""
    return kind.partition("-")[2]


def observe(replica: Replica, number: int, **fields: Any) -> None:
    """Let a number of exchanges of a tenant end in a process."""
    for _ in range(number):
        replica.observe(exchange(tenant="acme", **fields))


async def states(replicas: Replicas) -> list[str]:
    """Return the states of all stored alerts."""
    return [alert.state for alert in (await replicas.store.alerts()).items]


@pytest.mark.parametrize("stores_first", [False, True])
async def test_single_process_continues_without_its_store(
    replicas: Replicas, stores_first: bool
) -> None:
    """It evaluates its own traffic, and stores the alerts when the store is back."""
    engine = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    observe(engine, 60)
    if stores_first:
        await replicas.run(5)

    replicas.cut()
    observe(engine, 60)
    (fired,) = await replicas.evaluate()

    assert (fired.transition, fired.finding.value) == ("fired", 120)
    assert engine.sink.transitions == ["fired"]
    assert (await states(replicas), engine.leads) == ([], True)
    replicas.connect()
    assert await replicas.evaluate() == []
    assert await states(replicas) == ["firing"]
    await replicas.run(90)
    (resolved,) = await replicas.evaluate()
    assert (resolved.transition, resolved.alert_id) == ("resolved", fired.alert_id)
    assert engine.sink.transitions == ["fired", "resolved"]


async def test_traffic_during_an_outage_counts_once_after_it(replicas: Replicas) -> None:
    """The windows come from the store again, which receives what the process has counted alone."""
    engine = replicas.replica(rules=default_rules(), thresholds=Thresholds(master_rpd=100))
    await replicas.run(20)
    observe(engine, 30)
    await replicas.run(5)
    replicas.cut()
    observe(engine, 30)
    await replicas.evaluate()
    observe(engine, 30)

    replicas.connect()
    assert await replicas.evaluate() == []
    observe(engine, 30)
    (event,) = await replicas.evaluate()

    assert event.finding.value == 120


async def test_traffic_whose_heartbeat_lost_its_response_counts_once(replicas: Replicas) -> None:
    """The store has the batch, and ignores it when it is sent again."""
    engine, other = replicas.replicas(2, rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    observe(engine, 60)
    observe(other, 60)

    for process in (engine, other):
        process.connection.loses = ["heartbeat"]
    await replicas.run(10)
    for process in (engine, other):
        process.connection.loses = []
    (event,) = await replicas.evaluate()

    assert event.finding.value == 120


async def test_last_leader_continues_alone_after_a_wait_and_others_never(
    replicas: Replicas,
) -> None:
    """It waits 120 seconds from its first failed heartbeat, because others may lead meanwhile."""
    leader, follower = replicas.replicas(2, rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    replicas.cut()
    silent_at = replicas.wall()

    while not leader.leads or replicas.wall() - silent_at < 20:
        assert not follower.leads
        await replicas.run(5)
    waited = replicas.wall() - silent_at

    assert waited == 125
    observe(leader, 120)
    observe(follower, 120)
    (event,) = await replicas.evaluate()
    assert event.finding.value == 120
    assert (leader.sink.transitions, follower.sink.transitions) == (["fired"], [])
    assert not follower.leads


async def test_last_leader_alone_counts_the_traffic_that_it_has_read(replicas: Replicas) -> None:
    """Traffic of other processes counts, even if the last of it was not evaluated yet."""
    leader, follower = replicas.replicas(
        2, rules=default_rules(), thresholds=Thresholds(master_rpd=100)
    )
    await replicas.run(20)
    observe(follower, 60)
    await replicas.run(5)
    observe(leader, 60)
    replicas.wall.advance(5)
    await leader.beat()
    replicas.cut()
    await replicas.run(125)

    (event,) = await replicas.evaluate()

    assert event.finding.value == 120


async def test_process_without_alone_after_never_continues_alone(replicas: Replicas) -> None:
    """Then an alert is never reported twice."""
    chosen = Fleet(alone_after=None)
    leader, follower = replicas.replicas(2, fleet=chosen)
    await replicas.run(20)
    replicas.rule.findings = [finding()]
    replicas.cut()

    await replicas.run(600)

    assert replicas.leaders == []
    assert await replicas.evaluate() == []
    assert (leader.sink.events, follower.sink.events) == ([], [])
    replicas.connect()
    await replicas.run(20)
    (event,) = await replicas.evaluate()
    assert event.transition == "fired"


async def test_leader_continues_its_lease_after_an_outage(replicas: Replicas) -> None:
    """No other process has led meanwhile, so what it has decided alone is stored."""
    leader, follower = replicas.replicas(2)
    await replicas.run(20)
    replicas.cut()
    await replicas.run(125)
    replicas.rule.findings = [finding()]
    (fired,) = await leader.evaluate()

    replicas.connect()
    await replicas.run(10)
    await replicas.evaluate()

    assert replicas.leaders == [leader]
    (record,) = (await replicas.store.alerts()).items
    assert (record.id, record.state) == (fired.alert_id, "firing")
    await follower.beat()
    assert follower.firing == [finding()]
    assert replicas.delivered() == ["fired"]


async def test_process_alone_drops_its_decisions_if_another_process_has_led(
    replicas: Replicas,
) -> None:
    """Its traffic still counts, once."""
    cut_off, other = replicas.replicas(2, rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    replicas.cut(cut_off)
    await replicas.run(120)
    observe(cut_off, 120)
    await replicas.run(10)
    (alone,) = await cut_off.evaluate()
    assert replicas.leaders == [cut_off, other]

    replicas.connect()
    await replicas.run(10)
    (event,) = await replicas.evaluate()

    assert replicas.leaders == [other]
    assert (event.finding.value, event.fingerprint) == (120, alone.fingerprint)
    (record,) = (await replicas.store.alerts()).items
    assert record.id == event.alert_id != alone.alert_id
    assert (cut_off.sink.transitions, other.sink.transitions) == (["fired"], ["fired"])
    assert cut_off.counts() == {}


async def test_process_that_never_reached_its_store_evaluates_after_a_wait(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """If it leads when the store responds, it keeps its alerts and stores them."""
    engine = replicas.replica(rules=default_rules(), thresholds=BUSY)
    replicas.cut()
    await replicas.run(120)
    observe(engine, 120)
    assert (engine.leads, await engine.evaluate()) == (False, [])
    await replicas.run(5)
    assert engine.leads
    (fired,) = await replicas.evaluate()
    assert (fired.transition, engine.sink.transitions) == ("fired", ["fired"])
    assert "alert store not available: this process evaluates alone" in caplog.messages

    replicas.connect()
    assert await replicas.evaluate() == []

    (record,) = (await replicas.store.alerts()).items
    assert (record.id, record.state) == (fired.alert_id, "firing")
    assert engine.firing[0].value == 120
    await replicas.run(90)
    (resolved,) = await replicas.evaluate()
    assert (resolved.transition, resolved.alert_id) == ("resolved", fired.alert_id)
    assert engine.sink.transitions == ["fired", "resolved"]


async def test_process_that_evaluated_alone_follows_a_leader_that_it_finds(
    replicas: Replicas,
) -> None:
    """It drops its alerts, and shows those of the fleet."""
    leader, newcomer = replicas.replicas(2)
    replicas.cut(newcomer)
    await replicas.run(125)
    replicas.rule.findings = [finding(value=1)]
    await newcomer.evaluate()
    assert newcomer.firing == [finding(value=1)]
    replicas.rule.findings = []
    await leader.evaluate()

    replicas.connect()
    await replicas.run(5)

    assert replicas.leaders == [leader]
    assert newcomer.firing == []
    assert (await replicas.store.alerts()).items == ()
    assert newcomer._fleet.leadership is None


async def test_failed_heartbeats_are_retried_after_1_2_4_and_5_seconds(replicas: Replicas) -> None:
    """After a success, a heartbeat follows the end of each slot again."""
    engine = replicas.replica()
    await engine.beat()
    replicas.cut()
    waits = list[float]()

    for _ in range(6):
        await engine.beat()
        waits.append(engine._member.seconds_to_next())

    assert waits == [1, 2, 4, 5, 5, 5]
    replicas.connect()
    await engine.beat()
    assert 3 < engine._member.seconds_to_next() <= 5


async def test_commit_whose_response_is_lost_is_repeated(replicas: Replicas) -> None:
    """The alert is stored, notified and counted once."""
    engine = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    observe(engine, 120)

    engine.connection.loses = ["commit"]
    await replicas.evaluate()
    engine.connection.loses = []
    await replicas.evaluate()
    await replicas.run(5)
    await engine._outbox.attempt()

    assert await states(replicas) == ["firing"]
    assert engine.firing[0].value == 120
    assert engine.sink.transitions == ["fired"]
    assert len(await replicas.store.transitions((await replicas.store.alerts()).items[0].id)) == 1


async def test_lease_whose_response_was_lost_is_led_after_the_next_heartbeat(
    replicas: Replicas,
) -> None:
    """The process finds that it has taken the lease, and renews it first."""
    engine = replicas.replica()
    engine.connection.loses = ["heartbeat"]
    await replicas.run(5)
    engine.connection.loses = []

    await replicas.run(10)

    assert engine.leads


async def test_takeover_that_fails_is_repeated_with_the_next_heartbeat(replicas: Replicas) -> None:
    """A process leads only with the windows and the alerts of the one before."""
    engine = replicas.replica()
    engine.connection.loses = ["take_over"]
    await replicas.run(10)
    assert (engine.leads, await engine.evaluate()) == (False, [])

    engine.connection.loses = []
    await replicas.run(5)

    assert engine.leads


async def test_batches_that_cannot_be_read_are_read_with_the_next_heartbeat(
    replicas: Replicas,
) -> None:
    """The traffic counts in a later evaluation."""
    engine = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    engine.connection.loses = ["batches"]
    observe(engine, 120)
    assert await replicas.evaluate() == []

    engine.connection.loses = []
    (event,) = await replicas.evaluate()

    assert event.finding.value == 120


async def test_claim_that_fails_delays_the_delivery(replicas: Replicas) -> None:
    """Another process may lead, so the sink is not called until the store responds."""
    replicas.rule.findings = [finding()]
    engine, _ = replicas.replicas(2)
    await replicas.run(20)
    engine.connection.loses = ["claim"]
    await replicas.evaluate()
    assert engine.sink.events == []
    assert engine.queue_length() == {("recorder",): 1}

    engine.connection.loses = []
    await replicas.run(5)
    await engine._outbox.attempt()

    assert engine.sink.transitions == ["fired"]


async def test_notification_waits_while_the_store_cannot_be_reached(replicas: Replicas) -> None:
    """A leader with other processes delivers nothing before it continues alone."""
    replicas.rule.findings = [finding()]
    engine, _ = replicas.replicas(2)
    await replicas.run(20)
    replicas.cut()
    await engine.evaluate()
    await engine._outbox.attempt()
    assert (engine.sink.events, engine.leads) == ([], True)
    await replicas.run(30)  # its lease lapses
    await engine._outbox.attempt()
    assert (engine.sink.events, engine.leads) == ([], False)

    await replicas.run(95)
    await engine.evaluate()

    assert engine.sink.transitions == ["fired"]


async def test_dry_run_of_a_follower_without_a_store_raises(replicas: Replicas) -> None:
    """It has no windows of its own."""
    _, follower = replicas.replicas(2)
    await replicas.run(20)
    replicas.cut(follower)

    with pytest.raises(StoreError, match=r"^no connection$"):
        await follower.dry_run()
    with pytest.raises(StoreError, match=r"^the alert store did not accept a heartbeat"):
        await follower.fleet()


class Backup:
    """A copy of a store in memory, as a replica that lags behind has it."""

    def __init__(self, store: MemoryAlertStore) -> None:
        self._store = store
        self._copy = {
            name: value.copy() if hasattr(value, "copy") else value
            for name, value in vars(store).items()
        }

    def restore(self) -> None:
        """Lose all writes since the copy was made."""
        vars(self._store).update(self._copy)


@pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"])
async def test_store_that_lost_writes_of_the_leader_is_taken_again(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """After a failover to a replica, one process leads with what the store has."""
    assert isinstance(replicas.store, MemoryAlertStore)
    leader, follower = replicas.replicas(2)
    await replicas.run(20)
    epoch = (await leader.fleet()).epoch
    backup = Backup(replicas.store)
    await replicas.run(10)
    replicas.rule.findings = [finding()]
    await replicas.evaluate()

    backup.restore()
    await replicas.run(5)
    assert replicas.leaders == []
    await replicas.run(20)

    assert len(replicas.leaders) == 1
    assert (await follower.fleet()).epoch > epoch
    await replicas.evaluate()
    assert await states(replicas) == ["firing"]
    warnings = [message for message in caplog.messages if "has lost data" in message]
    assert (
        warnings
        == [
            "alert store has lost data that it had stored, as after a failover to a replica: "
            "writes of a leader"
        ]
        * 2
    )  # once in each process


@pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"])
async def test_store_that_lost_batches_is_reported(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """Later batches count, under numbers that were never used."""
    assert isinstance(replicas.store, MemoryAlertStore)
    leader = replicas.replica(rules=default_rules(), thresholds=BUSY)
    await replicas.run(20)
    backup = Backup(replicas.store)
    for _ in range(3):
        observe(leader, 1)
        await replicas.run(5)

    backup.restore()
    await replicas.run(20)
    observe(leader, 120)
    (event,) = await replicas.evaluate()

    assert event.finding.value == 120
    assert any(message.endswith(": batches 1 to 3") for message in caplog.messages)


async def test_traffic_that_waits_between_two_outages_counts_once(replicas: Replicas) -> None:
    """A heartbeat sends a part of the backlog; the rest counts again when it continues alone."""
    engine = replicas.replica(rules=default_rules(), thresholds=Thresholds(master_rpd=100))
    await replicas.run(20)

    async def work(heartbeats: int) -> None:
        for _ in range(heartbeats):
            observe(engine, 3)
            await replicas.run(5)

    def counted() -> int:
        leadership = engine._fleet.leadership
        assert leadership is not None
        return leadership.evaluator.traffic.counts.day.get("acme")[0]

    replicas.cut()
    await work(15)
    await engine.evaluate()
    await work(15)
    await engine.evaluate()
    assert counted() == 90
    replicas.connect()
    await work(2)
    replicas.cut()
    await work(2)
    await engine.evaluate()
    assert counted() == 102

    replicas.connect()
    await replicas.run(20)
    await replicas.evaluate()
    assert (counted(), len(await replicas.store.batches({}))) == (102, 0)


async def test_process_that_cannot_reach_its_store_stays_bounded(replicas: Replicas) -> None:
    """After five minutes, traffic is merged by hour; after a day, the oldest hour is dropped."""
    engine, other = replicas.replicas(2, rules=default_rules())
    await replicas.run(20)
    replicas.cut(engine)
    for _ in range(30 * 60):
        observe(engine, 1)
        replicas.wall.advance(60)
        await engine.beat()

    member, backlog = engine._member, engine._member.backlog
    assert backlog.waiting == 60
    assert (len(backlog._hours), len(backlog._sent)) == (25, 1)
    assert len(member.unread()) == 60
    assert 29 * 3600 < engine.fleet_behind()[()] < 30 * 3600  # the batch that was sent first
    replicas.connect()
    for _ in range(12):
        await engine.beat()
    assert engine.fleet_behind() == {(): 0.0}
    await other.beat()
    await other.beat()


async def test_process_that_does_not_run_stays_bounded(replicas: Replicas) -> None:
    """Exchanges are observed even if no task of the engine runs."""
    engine = replicas.replica(max_subjects=5)
    for number in range(3000):
        observe(engine, 1, api_key=f"k{number}")
        replicas.wall.advance(60)

    backlog = engine._member.backlog
    assert (backlog.waiting, backlog.dropped) == (120, 2879)
    assert len(engine._member._unread) == 60


async def test_unchanged_store_is_not_read_again(replicas: Replicas) -> None:
    """The revision of a heartbeat says if thresholds, silences or alerts have changed."""
    leader, follower = replicas.replicas(2)
    await replicas.run(20)
    follower.connection.loses = ["load"]

    await replicas.evaluate()

    assert follower.controls.revision == leader.controls.revision

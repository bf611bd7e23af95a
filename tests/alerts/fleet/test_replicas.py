"""Several engines on one store: they are one engine with the traffic of all of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tokenpulse_mw.alerts import (
    AlertEvent,
    Fleet,
    Matcher,
    Thresholds,
    default_rules,
)
from tokenpulse_mw.alerts.store import Changes, StoreError

from ..exchanges import exchange
from ..findings import FixedRule, finding
from ..store import samples
from ..store.leadership import commit, take
from .replicas import LEASE, Replica, Replicas

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """Return the event loop of the kind of store."""
    return kind.partition("-")[2]


def named(events: list[AlertEvent]) -> list[tuple[str, str]]:
    """Return transitions and fingerprints."""
    return [(event.transition, event.fingerprint) for event in events]


def observe(replica: Replica, number: int, **fields: Any) -> None:
    """Let a number of exchanges end in a process."""
    for _ in range(number):
        replica.observe(exchange(**fields))


@pytest.mark.parametrize("number", [2, 3])
async def test_thresholds_compare_with_the_traffic_of_all_processes(
    replicas: Replicas, number: int
) -> None:
    """A rate that no process reaches alone fires one alert, with the sum as its value."""
    chosen = Thresholds(master_rpm=100, traffic_keep_firing=0)
    processes = replicas.replicas(number, rules=default_rules(), thresholds=chosen)
    await replicas.run(20)
    for process in processes:
        observe(process, 60, tenant="acme", tenant_name="Acme")

    events = await replicas.evaluate()

    assert named(events) == [("fired", "traffic_spike:master_rpm:master:acme")]
    assert events[0].finding.value == number * 60
    assert events[0].finding.subject.name == "Acme"
    assert [process.leads for process in processes] == [True] + [False] * (number - 1)
    assert replicas.delivered() == ["fired"]


async def test_failures_in_a_row_are_counted_over_all_processes(replicas: Replicas) -> None:
    """Ten failures in two processes are an outage; a success in either of them ends it."""
    one, other = replicas.replicas(2, rules=default_rules())
    await replicas.run(20)
    for process in (one, other, one, other):
        observe(process, 4, provider="claude", status=502)
        replicas.wall.advance(0.25)
    replicas.wall.advance(4)

    assert named(await replicas.evaluate()) == [("fired", "provider_down:provider:claude")]
    observe(other, 1, provider="claude")
    for _ in range(8):
        events = await replicas.evaluate()
        await replicas.run(60)
        if events:
            break

    assert named(events) == [("resolved", "provider_down:provider:claude")]


async def test_leader_alone_evaluates_and_delivers(replicas: Replicas) -> None:
    """The metrics of alerts come from the leader, so that a sum over all processes is right."""
    replicas.rule.findings = [finding()]
    leader, follower = replicas.replicas(2)
    await replicas.run(20)

    await replicas.evaluate()

    assert [process.sink.transitions for process in (leader, follower)] == [["fired"], []]
    assert leader.counts() == {("trouble", "warning", "firing"): 1}
    assert leader.queue_length() == {("recorder",): 0}
    assert leader.last_evaluation() == {(): replicas.wall()}
    assert (follower.counts(), follower.queue_length(), follower.last_evaluation()) == ({}, {}, {})
    assert [dict(process.fleet_leader()) for process in (leader, follower)] == [{(): 1}, {(): 0}]
    assert [dict(process.fleet_members()) for process in (leader, follower)] == [{(): 2}] * 2
    assert leader.firing == [finding()]


async def test_followers_have_the_firing_alerts_after_their_next_heartbeat(
    replicas: Replicas,
) -> None:
    """So the health checks of all processes warn alike."""
    leader, follower = replicas.replicas(2)
    await replicas.run(20)

    replicas.rule.findings = [finding(value=3)]
    await leader.evaluate()
    assert follower.firing == []
    await follower.beat()
    assert follower.firing == [finding(value=3)]
    replicas.rule.findings = []
    await leader.evaluate()
    await follower.beat()
    assert follower.firing == []


async def test_alert_fires_and_resolves_once_over_changes_of_the_leader(
    replicas: Replicas,
) -> None:
    """The episode that one process has begun is ended by another one, with the same id."""
    replicas.rule.findings = [finding()]
    first, second = replicas.replicas(2)
    await replicas.run(20)
    (fired,) = await replicas.evaluate()

    replicas.kill(first)
    await replicas.run(20)
    assert second.leads
    assert await replicas.evaluate() == []
    replicas.rule.findings = []
    (resolved,) = await replicas.evaluate()

    assert (resolved.transition, resolved.alert_id) == ("resolved", fired.alert_id)
    assert resolved.fired_at == fired.at
    assert second.sink.transitions == ["resolved"]


async def test_killed_leader_is_replaced_after_its_lease_and_within_20_seconds(
    replicas: Replicas,
) -> None:
    """Nothing is evaluated before, because a stopped leader may still continue."""
    first, second = replicas.replicas(2)
    await replicas.run(20)
    replicas.kill(first)

    waited = 0
    while not second.leads:
        await replicas.run(5)
        waited += 5

    assert LEASE <= waited <= 20


async def test_process_plans_its_heartbeat_for_the_end_of_the_lease(replicas: Replicas) -> None:
    """So a takeover does not wait for another heartbeat."""
    first, second = replicas.replicas(2)
    await replicas.run(20)
    replicas.kill(first)
    await replicas.run(10)

    assert second._member.seconds_to_next() <= 5
    replicas.wall.advance(5)
    await second.beat()

    assert second.leads


async def test_leader_that_was_stopped_for_a_minute_does_nothing_when_it_continues(
    replicas: Replicas,
) -> None:
    """Another process leads: it evaluates, stores and delivers nothing, and follows."""
    replicas.rule.findings = [finding()]
    stopped, other = replicas.replicas(2)
    await replicas.run(20)
    await replicas.evaluate()
    replicas.kill(stopped)
    await replicas.run(60)
    assert other.leads
    replicas.rule.findings = []

    assert await stopped.evaluate() == []
    assert not stopped.leads
    assert stopped.firing == [finding()]
    assert stopped.sink.transitions == ["fired"]
    assert named(await replicas.evaluate()) == [("resolved", "trouble:key:k1")]


async def test_commit_of_an_earlier_leader_has_no_effect(replicas: Replicas) -> None:
    """If another process takes the lease during an evaluation, nothing of it happens."""
    replicas.rule.findings = [finding()]
    first, second = replicas.replicas(2)
    await replicas.run(20)

    first.connection.delays["commit"] = partial(take, replicas.store)
    assert await first.evaluate() == []

    assert (first.leads, first.firing, replicas.delivered()) == (False, [], [])
    assert (await replicas.store.alerts()).items == ()
    await replicas.run(20)  # the lease of the third process lapses
    assert len(replicas.leaders) == 1
    assert [event.transition for event in await replicas.evaluate()] == ["fired"]
    assert replicas.delivered() == ["fired"]
    assert second.firing == [finding()]


async def test_claim_of_an_earlier_leader_is_rejected_before_the_sink_is_called(
    replicas: Replicas,
) -> None:
    """The notification is delivered once, by the process that leads then."""
    replicas.rule.findings = [finding()]
    first, _ = replicas.replicas(2)
    await replicas.run(20)

    first.connection.delays["claim"] = partial(take, replicas.store)
    (fired,) = await first.evaluate()

    assert (first.leads, replicas.delivered()) == (False, [])
    await replicas.run(20)  # the lease of the third process lapses
    (leader,) = replicas.leaders
    await leader._outbox.attempt()
    assert [event.id for process in replicas.running for event in process.sink.events] == [fired.id]


async def test_notification_that_cannot_be_stored_any_more_is_not_delivered(
    replicas: Replicas,
) -> None:
    """Its commit has failed, and another process has taken the lease before it was repeated."""
    replicas.rule.findings = [finding()]
    first, _ = replicas.replicas(2)
    await replicas.run(20)

    async def fail() -> None:
        first.connection.delays["commit"] = partial(take, replicas.store)
        raise StoreError("no disk")

    first.connection.delays["commit"] = fail
    await first.evaluate()

    assert (first.leads, replicas.delivered()) == (False, [])
    await replicas.run(20)  # the lease of the third process lapses
    await replicas.evaluate()
    assert replicas.delivered() == ["fired"]


async def test_takeover_that_comes_too_late_is_given_up(replicas: Replicas) -> None:
    """The process follows the one that has taken the lease meanwhile."""
    engine = replicas.replica()
    engine.connection.delays["take_over"] = partial(take, replicas.store)

    await replicas.run(10)
    assert engine.leads is False
    await replicas.run(20)

    assert engine.leads is True


async def test_evaluation_that_is_reset_before_it_begins_has_no_effect(
    replicas: Replicas,
) -> None:
    """Such as during a slow source of quotas."""

    class ResettingRule(FixedRule):
        """A rule during whose refresh the engine is reset."""

        async def refresh(self) -> None:
            engine.reset()

    engine = replicas.replica(rules=[ResettingRule(finding())])

    assert await engine.evaluate() == []

    assert (await replicas.store.alerts()).items == ()


async def test_stored_alert_that_is_invalid_is_not_among_the_firing_ones(
    replicas: Replicas,
) -> None:
    """Only the leader logs it."""
    leader, follower = replicas.replicas(2)
    await replicas.run(20)
    replicas.rule.findings = [finding(subject=f"k{number}") for number in range(120)]
    await leader.evaluate()
    await commit(replicas.store, Changes(alerts=(samples.alert(finding={}),)))

    await replicas.beat()

    assert len(follower.firing) == 120


async def test_controls_of_any_process_apply_to_all_after_a_heartbeat(replicas: Replicas) -> None:
    """Thresholds, silences, acknowledgements and settings are those of the store."""
    replicas.rule.findings = [finding(), finding(subject="k2")]
    leader, follower = replicas.replicas(2, cooldown=60)
    await replicas.run(20)
    await replicas.evaluate()
    (acknowledged,) = (await follower.store.alerts(subject="key:k1")).items

    await follower.controls.set_thresholds(Thresholds(error_rate=0.3), by="ada")
    await follower.controls.acknowledge(acknowledged.id, by="ada")
    silence = await follower.controls.silence(
        Matcher("subject_id", "k2"), ends_at=replicas.wall() + 3600, by="ada"
    )
    await follower.controls.set_setting("log_level", "DEBUG", by="ada")
    assert leader.thresholds == Thresholds()
    await leader.beat()

    assert leader.thresholds == follower.thresholds == Thresholds(error_rate=0.3)
    assert leader.controls.version == follower.controls.version
    assert leader.controls.silences == follower.controls.silences == [silence]
    assert leader.controls.settings == follower.controls.settings == {"log_level": "DEBUG"}
    replicas.wall.advance(120)
    await replicas.evaluate()
    assert leader.sink.transitions == ["fired", "fired"]  # without reminders

    await leader.controls.unsilence(silence.id)
    await leader.controls.unacknowledge(acknowledged.id)
    await follower.beat()
    assert follower.controls.silences == []
    replicas.wall.advance(120)
    await replicas.evaluate()
    assert replicas.delivered() == ["fired", "fired", "reminded", "reminded"]


async def test_dry_run_of_a_follower_has_the_findings_of_all_traffic(replicas: Replicas) -> None:
    """It reads the windows of the leader, and changes nothing."""
    processes = replicas.replicas(2, rules=default_rules())
    await replicas.run(20)
    for process in processes:
        observe(process, 60, tenant="acme")
    await replicas.run(5)

    expected = await processes[0].dry_run(Thresholds(master_rpm=100))
    for _ in range(2):  # the windows are kept for some seconds
        assert await processes[1].dry_run(Thresholds(master_rpm=100)) == expected
    assert [found.value for found in expected.findings] == [120]
    assert expected.errors == {}
    observe(processes[0], 60, tenant="acme")
    await replicas.run(15)
    (found,) = (await processes[1].dry_run(Thresholds(master_rpm=100))).findings
    assert found.value == 180


async def test_dry_run_without_a_leader_is_an_error(replicas: Replicas) -> None:
    """The caller can try again."""
    follower = replicas.replica(fleet=Fleet(leads=False))

    with pytest.raises(StoreError, match=r"^no process leads the alert engines yet: try again$"):
        await follower.dry_run()


async def test_fleet_lists_the_processes_and_their_leader(replicas: Replicas) -> None:
    """Each process describes itself."""
    leader, follower = replicas.replicas(2)
    await replicas.run(20)

    state = await follower.fleet()

    leaders = [member for member in state.members if member.process.name == state.holder]
    assert leader._member.leader is not None
    assert [member.process.name for member in leaders] == [leader._member.leader.process]
    assert len(state.members) == 2
    assert {member.process.rules for member in state.members} == {("planned",)}
    assert {member.process.sinks for member in state.members} == {("recorder",)}


async def test_process_that_must_not_lead_never_leads(replicas: Replicas) -> None:
    """Its traffic counts as soon as another process leads."""
    worker = replicas.replica(
        rules=default_rules(), fleet=Fleet(leads=False), thresholds=Thresholds(master_rpm=20)
    )
    observe(worker, 30, tenant="acme")
    await replicas.run(30)
    assert (worker.leads, await worker.evaluate()) == (False, [])

    leader = replicas.replica(rules=default_rules(), thresholds=Thresholds(master_rpm=20))
    await leader.beat()

    assert leader.leads
    (event,) = await replicas.evaluate()
    assert event.finding.value == 30


async def test_late_traffic_counts_in_its_slot_and_is_reported(replicas: Replicas) -> None:
    """A process that was stopped for some time sends the traffic of that time."""
    leader, other = replicas.replicas(2, rules=default_rules(), thresholds=Thresholds(master_rpm=9))
    await replicas.run(20)
    observe(other, 10, tenant="acme")
    replicas.kill(other)
    await replicas.run(30)
    assert leader.late() == {(): 0}

    await other.beat()
    await leader.beat()
    (event,) = await leader.evaluate()

    assert event.finding.value == 10
    assert leader.late() == {(): 1}


async def test_counts_of_a_former_leader_do_not_decrease(replicas: Replicas) -> None:
    """They are counters, even if the process leads again later."""
    leader, other = replicas.replicas(2, max_subjects=1)
    await replicas.run(20)
    for number in range(3):
        observe(leader, 1, tenant=f"m{number}", limited=True)
    observe(other, 1)
    replicas.kill(other)
    await replicas.run(30)
    await other.beat()
    await leader.beat()
    await leader.evaluate()
    before = leader.overflow(), leader.late()
    assert min(leader.overflow()[()], leader.late()[()]) > 0

    await take(replicas.store)
    await leader.beat()

    assert not leader.leads
    assert (leader.overflow(), leader.late()) == before


async def test_processes_with_other_rules_are_logged_once(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """Which alerts fire depends on the process that leads, until it is repaired."""
    replicas.replica()
    others = [replicas.replica(rules=[FixedRule(name="other")], sinks=[]) for _ in range(2)]

    await replicas.run(30)
    for other in others:
        replicas.kill(other)
    await replicas.run(30)
    replicas.replica(rules=[FixedRule(name="other")], sinks=[])
    await replicas.run(30)

    messages = [message for message in caplog.messages if "have different" in message]
    assert len(messages) == 2
    assert "have different rules and sinks, so alerts depend on which of them leads" in messages[0]

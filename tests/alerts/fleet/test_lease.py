from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tokenpulse_mw.alerts.fleet.lease import Lease
from tokenpulse_mw.alerts.store.protocol import FleetState, Leader, LeaseRequest

from .model import Store, process


class Member:
    """Process that sends its heartbeats to a store, which answers at once."""

    def __init__(self, store: Store, name: str, *, protocol: int = 1, leads: bool = True) -> None:
        self.store, self.process = store, process(name, protocol)
        self.lease = Lease(process=name, protocol=protocol, leads=leads)

    def heartbeat(self, now: float, *, heard: float | None = None) -> bool:
        """Send a heartbeat and return if the store has lost writes."""
        state = self.store.heartbeat(self.process, now, lease=self.lease.request(now))
        return self.lease.observe(state, asked=now, heard=now if heard is None else heard)


def new_leader(store: Store, now: float = 0.0) -> Member:
    """Return a process that took the lease at `now`."""
    leader = Member(store, "leader")
    leader.heartbeat(now)
    leader.heartbeat(now)
    return leader


def test_lease_of_an_empty_store_is_taken_by_the_second_heartbeat() -> None:
    """A process takes a lease without a holder as soon as it has seen it."""
    member = Member(Store(), "a")

    member.heartbeat(0.0)

    assert member.lease.leader is None
    assert member.lease.next_attempt_at == 0.0
    assert not member.lease.holds(0.0)

    member.heartbeat(1.0)

    assert member.lease.leader == Leader(1, "a")
    assert member.lease.holds(1.0)
    assert member.lease.next_attempt_at == inf


def test_lease_lasts_from_the_time_at_which_its_renewal_was_sent() -> None:
    """A leader stops 14 seconds after it sent its last renewal, even if the answer came later."""
    leader = new_leader(Store())

    leader.heartbeat(5.0, heard=8.0)

    assert leader.lease.holds(18.9)
    assert not leader.lease.holds(19.0)


def test_lease_is_taken_after_the_row_was_unchanged_for_its_duration() -> None:
    """A candidate takes the lease 15 seconds after it received the row that is still unchanged."""
    store = Store()
    new_leader(store)
    candidate = Member(store, "candidate")

    candidate.heartbeat(1.0, heard=3.0)

    assert candidate.lease.next_attempt_at == 18.0
    assert candidate.lease.request(17.9) is None

    candidate.heartbeat(18.0)

    assert candidate.lease.leader == Leader(2, "candidate")


def test_lease_of_a_leader_that_renews_is_never_taken() -> None:
    """Each renewal starts the wait of a candidate again."""
    store = Store()
    leader = new_leader(store)
    candidate = Member(store, "candidate")
    for now in range(1, 60, 5):
        leader.heartbeat(now)
        candidate.heartbeat(now)

    assert candidate.lease.leader is None
    assert candidate.lease.next_attempt_at == 56 + 15


def test_wait_of_a_candidate_starts_again_after_a_failed_heartbeat() -> None:
    """After an outage of the store, the old leader continues, because candidates wait again."""
    store = Store()
    leader = new_leader(store)
    candidate = Member(store, "candidate")
    candidate.heartbeat(1.0)

    candidate.lease.missed()

    assert candidate.lease.next_attempt_at == inf

    candidate.heartbeat(60.0)
    leader.heartbeat(61.0)

    assert candidate.lease.next_attempt_at == 75.0
    assert leader.lease.holds(61.0)
    assert leader.lease.leader == Leader(1, "leader")


def test_lease_whose_grant_was_lost_is_renewed_before_the_process_leads() -> None:
    """A process that reads that it has taken the lease leads after its next renewal."""
    store = Store()
    member = Member(store, "a")
    member.heartbeat(0.0)
    store.heartbeat(member.process, 1.0, lease=member.lease.request(1.0))
    member.lease.missed()

    state = store.heartbeat(member.process, 30.0, lease=member.lease.request(30.0))
    member.lease.observe(state, asked=30.0, heard=30.0)

    assert member.lease.leader == Leader(1, "a")
    assert not member.lease.holds(30.0)

    member.heartbeat(31.0)

    assert member.lease.holds(31.0)


def test_closing_leader_releases_the_lease_at_once() -> None:
    """A process that ends stops leading before it sends the release, and a candidate follows."""
    store = Store()
    leader = new_leader(store)
    leader.lease.closing = True

    assert leader.lease.request(5.0) == LeaseRequest("release", 1)
    assert not leader.lease.holds(5.0)

    leader.heartbeat(5.0)
    candidate = Member(store, "candidate")
    candidate.heartbeat(6.0)
    candidate.heartbeat(6.0)

    assert leader.lease.leader is None
    assert leader.lease.next_attempt_at == inf
    assert candidate.lease.leader == Leader(2, "candidate")


def test_release_that_may_take_effect_later_is_never_followed_by_a_renewal() -> None:
    """A leader repeats a release, even if the reason has ended, and then takes the lease again."""
    store = Store()
    leader = new_leader(store)
    leader.lease.closing = True
    leader.lease.request(5.0)
    leader.lease.missed()
    leader.lease.closing = False

    leader.lease.renewed(6.0)

    assert not leader.lease.holds(6.0)
    assert leader.lease.request(7.0) == LeaseRequest("release", 1)

    leader.heartbeat(8.0)
    leader.heartbeat(9.0)

    assert leader.lease.leader == Leader(2, "leader")
    assert leader.lease.request(10.0) == LeaseRequest("renew", 2)


def test_lease_is_released_to_a_live_process_of_a_newer_protocol() -> None:
    """Processes of the newest protocol lead, so that a deployment moves the lease to them."""
    store = Store()
    leader = new_leader(store)
    newer = Member(store, "newer", protocol=2)
    newer.heartbeat(1.0)
    for now in (5.0, 6.0):
        leader.heartbeat(now)
    newer.heartbeat(7.0)
    newer.heartbeat(8.0)

    assert leader.lease.leader is None
    assert newer.lease.leader == Leader(2, "newer")

    leader.heartbeat(9.0)

    assert leader.lease.next_attempt_at == inf


def test_process_of_a_newer_protocol_that_ended_does_not_prevent_older_ones() -> None:
    """A process that has sent no heartbeat for 15 seconds has no claim to lead."""
    store = Store()
    Member(store, "newer", protocol=2).heartbeat(0.0)
    member = Member(store, "older")

    member.heartbeat(15.0)
    member.heartbeat(15.1)

    assert member.lease.leader is None

    member.heartbeat(15.2)

    assert member.lease.leader == Leader(1, "older")


def test_process_that_must_not_lead_never_takes_the_lease() -> None:
    """`leads=False` keeps the lease from a process that cannot reach the sinks."""
    member = Member(Store(), "a", leads=False)
    member.heartbeat(0.0)
    member.heartbeat(100.0)

    assert member.lease.leader is None


def test_fenced_call_that_succeeds_renews_the_lease() -> None:
    """The store accepts a leader's write only while it leads, so the lease lasts from there."""
    leader = new_leader(Store())

    leader.lease.renewed(3.0)

    assert leader.lease.holds(16.9)
    assert not leader.lease.holds(17.0)


def test_fenced_process_stops_leading() -> None:
    """A process that lost the lease ignores later successes, and waits before it takes it again."""
    store = Store()
    leader = new_leader(store)

    leader.lease.lose()
    leader.heartbeat(5.0)
    leader.lease.renewed(3.0)

    assert leader.lease.leader is None
    assert not leader.lease.holds(5.0)
    assert leader.lease.next_attempt_at == 15.0


def test_late_renewal_does_not_shorten_the_lease() -> None:
    """Answers may arrive in any order; the latest renewal counts."""
    leader = new_leader(Store(), 10.0)

    leader.lease.renewed(5.0)

    assert leader.lease.holds(23.9)


def test_store_that_lost_writes_ends_the_leadership() -> None:
    """A leader takes the lease again, and so loads the state again, if the row went back."""
    store = Store()
    leader = new_leader(store)
    leader.heartbeat(5.0)
    store.beat -= 1  # a failover to a replica without the last heartbeat

    assert leader.heartbeat(10.0)
    assert leader.lease.leader is None
    assert leader.lease.next_attempt_at == 25.0

    assert not leader.heartbeat(25.0)
    assert leader.lease.leader == Leader(2, "leader")


def test_store_that_lost_a_commit_ends_the_leadership() -> None:
    """The leader counts its writes, so that the loss of a single commit is detected."""
    store = Store()
    leader = new_leader(store)
    store.commit(Leader(1, "leader"), {}, ())
    leader.lease.renewed(1.0)
    store.beat -= 1

    assert leader.heartbeat(5.0)


def test_store_that_kept_all_writes_has_lost_none() -> None:
    """Commits between two heartbeats are counted exactly."""
    store = Store()
    leader = new_leader(store)
    for now in (1.0, 2.0):
        store.commit(Leader(1, "leader"), {}, ())
        leader.lease.renewed(now)

    assert not leader.heartbeat(5.0)
    assert not leader.heartbeat(10.0)


def test_store_that_lost_an_epoch_is_reported_to_other_processes() -> None:
    """Each process reports the loss, and a candidate waits again."""
    store = Store()
    new_leader(store)
    candidate = Member(store, "candidate")
    candidate.heartbeat(5.0)
    store.epoch, store.holder = 0, None

    assert candidate.heartbeat(6.0)
    assert not candidate.heartbeat(7.0)
    assert candidate.lease.leader == Leader(1, "candidate")


class Leases(RuleBasedStateMachine):
    """Processes whose heartbeats take effect, and are answered, at any time or never."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.store = Store()
        self.leases = [Lease(process=f"p{index}", protocol=1) for index in range(3)]
        # By process: time and request of the heartbeat on its way, and its outcome.
        self.sent = dict[int, tuple[float, LeaseRequest | None]]()
        self.outcomes = dict[int, FleetState]()

    @rule(seconds=st.sampled_from([0.5, 2.0, 5.0, 8.0, 14.5]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: len(self.sent) < len(self.leases))
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([n for n in range(3) if n not in self.sent]))
        self.sent[index] = self.now, self.leases[index].request(self.now)

    @precondition(lambda self: len(self.outcomes) < len(self.sent))
    @rule(data=st.data())
    def apply(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from([n for n in self.sent if n not in self.outcomes]))
        _, lease = self.sent[index]
        self.outcomes[index] = self.store.heartbeat(process(f"p{index}"), self.now, lease=lease)

    @precondition(lambda self: self.outcomes)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(list(self.outcomes)))
        asked, _ = self.sent.pop(index)
        assert not self.leases[index].observe(self.outcomes.pop(index), asked=asked, heard=self.now)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def lose_answer(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(list(self.sent)))
        del self.sent[index]
        self.outcomes.pop(index, None)
        self.leases[index].missed()

    @rule(index=st.integers(0, 2), closing=st.booleans())
    def close(self, index: int, closing: bool) -> None:
        self.leases[index].closing = closing

    @invariant()
    def one_process_leads(self) -> None:
        holders = [lease for lease in self.leases if lease.holds(self.now)]
        assert len(holders) <= 1
        for lease in holders:
            assert lease.leader
            assert (
                lease.leader.epoch == self.store.epoch or self.store.holder == lease.leader.process
            )


TestLeases = pytest.mark.slow(Leases.TestCase)
TestLeases.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)

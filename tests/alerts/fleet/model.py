"""Model of a fleet's store, and of the traffic that it stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from tokenpulse_mw.alerts.store.protocol import Fenced, FleetState, Leader, LeaseRequest
from tokenpulse_mw.alerts.store.records import Batch, Member, Process
from tokenpulse_mw.alerts.traffic.bucket import (
    PROTOCOL,
    Bucket,
    Profile,
    decode_bucket,
    encode_bucket,
)

Window = Counter[str]


def bucket(slot: int, *names: str, error_window: float = 300) -> Bucket:
    """Return a bucket whose requests are named, so that each of them can be found again."""
    return Bucket(slot, Profile(error_window, False, ()), tenants=dict.fromkeys(names, 1))


def encode(traffic: Bucket, protocol: int) -> bytes:
    """Return the payload of a bucket; all protocols are alike."""
    return encode_bucket(traffic)


def decode(payload: bytes, protocol: int) -> Bucket:
    """Return the bucket of a payload; raise ValueError if it is damaged."""
    return decode_bucket(payload, PROTOCOL)


def process(name: str, protocol: int = 1) -> Process:
    """Return a process as it describes itself."""
    return Process(name, "host", 1, "0.1.0", protocol, (), (), True, 0.0, "")


class Snapshot(NamedTuple):
    """State from which a new leader continues."""

    windows: dict[int, Window]
    batches: tuple[Batch, ...]


class Store:
    """Store of a fleet in which each call is one step, and so is atomic."""

    def __init__(self) -> None:
        self.epoch = self.beat = 0
        self.holder: str | None = None
        self.members = dict[str, Member]()
        self.stored = dict[tuple[str, int], Batch]()
        self.windows = dict[int, Window]()
        self.last_commit = self.epoch_at_last_commit = 0  # epoch of its leader and of the store
        self.commits = 0

    def heartbeat(
        self,
        member: Process,
        now: float,
        *,
        batches: Sequence[Batch] = (),
        through: int = 0,
        lease: LeaseRequest | None = None,
    ) -> FleetState:
        """Store batches, change the lease and return the fleet."""
        granted = lease is not None and self._change(member.name, lease)
        before = self.members[member.name].pushed if member.name in self.members else 0
        pushed = before
        for batch in batches:
            if self.is_new(batch, pushed):
                self.stored[batch.process, batch.number] = batch
                pushed = batch.number
        self.members[member.name] = Member(member, now, pushed, through)
        return FleetState(
            now=now,
            is_reference=True,
            epoch=self.epoch,
            beat=self.beat,
            holder=self.holder,
            revision=0,
            evaluated_at=None,
            complete_since=0.0,
            granted=granted,
            pushed=before,
            members=tuple(self.members.values()),
        )

    def take_over(self, leader: Leader) -> Snapshot:
        """Return the state from which a leader continues."""
        self.fence(leader)
        windows = {slot: Counter(window) for slot, window in self.windows.items()}
        return Snapshot(windows, self.batches({}))

    def batches(self, after: Mapping[str, int]) -> tuple[Batch, ...]:
        """Return the batches that are not known."""
        keys = sorted(key for key in self.stored if key[1] > after.get(key[0], 0))
        return tuple(self.stored[key] for key in keys)

    def commit(
        self, leader: Leader, windows: Mapping[int, Window], consumed: Iterable[tuple[str, int]]
    ) -> None:
        """Store whole slots of windows and delete the batches that they include."""
        self.fence(leader)
        self.beat += 1
        self.commits += 1
        self.last_commit, self.epoch_at_last_commit = leader.epoch, self.epoch
        self.windows.update(windows)
        for key in consumed:
            self.stored.pop(key, None)

    def fence(self, leader: Leader) -> None:
        """Raise Fenced unless a process leads."""
        if leader != (self.epoch, self.holder):
            raise Fenced

    def is_new(self, batch: Batch, pushed: int) -> bool:
        """Return True if a batch was not stored before."""
        return batch.number > pushed

    def is_current(self, lease: LeaseRequest) -> bool:
        """Return True if the row is the one that a candidate has seen."""
        return (lease.epoch, lease.beat) == (self.epoch, self.beat)

    def _change(self, name: str, lease: LeaseRequest) -> bool:
        if lease.action == "take":
            if not self.is_current(lease):
                return False
            self.epoch += 1
            self.holder = name
        elif (lease.epoch, name) != (self.epoch, self.holder):
            return False
        elif lease.action == "release":
            self.holder = None
        self.beat += 1
        return True

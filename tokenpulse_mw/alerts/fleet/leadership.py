"""Evaluation of the traffic of a whole fleet, by the process that leads it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

from ..evaluator import Evaluator
from ..steps import Steps
from ..store.protocol import Changes, Leader, LeaderState
from ..store.records import Batch, Member
from ..store_writer import Snapshot
from ..thresholds import Thresholds
from ..tracker import AlertChanges
from ..traffic.bucket import PROTOCOL, Bucket, decode_bucket
from .inbox import Inbox

logger = logging.getLogger("tokenpulse_mw.alerts")


class Leadership:
    """Open alerts and traffic windows of a fleet, which only its leader has.

    Args:
        evaluator: Evaluates the rules.
        bucket_seconds: Length of the slots in which the processes count.

    Attributes:
        evaluator: The argument.
        leader: The leadership in the store; None before `restore`.
        evaluated_at: Time of the last evaluation by any leader, or None.
        succeeded_at: Time of the last evaluation by this process without an error, or None.
        is_local: The windows have traffic of this process that is not read from the store, or of a
            later time than now, so they must be restored from the store once it responds.
    """

    def __init__(self, evaluator: Evaluator, *, bucket_seconds: int) -> None:
        self.evaluator = evaluator
        self._bucket_seconds = bucket_seconds
        self.leader: Leader | None = None
        self.evaluated_at: float | None = None
        self.succeeded_at: float | None = None
        self.is_local = False
        self._snapshots = 0
        self._inbox = Inbox(protocol=PROTOCOL)
        self._last_local = 0
        self._complete_since = self._stored_since = 0.0

    @property
    def known_batches(self) -> dict[str, int]:
        """By process, the number of the last batch that was read."""
        return self._inbox.known

    @property
    def late(self) -> int:
        """Number of buckets that arrived after the evaluation that they belong to."""
        return self._inbox.late

    def restore(
        self, leader: Leader, stored: LeaderState, now: float, at: float, *, fleet_time: float
    ) -> Steps[list[AlertChanges]]:
        """Restore windows and alerts, and return changes of alerts that cannot be restored.

        Alerts that fired before the store first responded stay as they are. Call `receive` with the
        batches afterwards.

        Args:
            leader: The leadership in the store.
            stored: The state in the store.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
            fleet_time: The same moment in the time of the windows.
        """
        yield from self.restore_windows(stored, now, at, fleet_time=fleet_time)
        self.leader = leader
        self.evaluated_at = stored.evaluated_at
        return (
            yield from self.evaluator.resume(
                stored.state.alerts, now, at, complete_since=self._complete_since
            )
        )

    def restore_windows(
        self, stored: LeaderState, now: float, at: float, *, fleet_time: float
    ) -> Steps[None]:
        """Replace the windows with those of the store; `receive` the batches afterwards."""
        self._inbox = Inbox(protocol=PROTOCOL)
        self.is_local, self._last_local = False, 0
        complete = yield from self.evaluator.restore_windows(
            stored.windows, now - at, fleet_time=fleet_time
        )
        self._stored_since = stored.complete_since
        self._complete_since = min(stored.complete_since, at) if complete else at

    def forget_processes(self, members: Iterable[Member]) -> None:
        """Forget the batches of processes that are not among `members` any longer."""
        self._inbox.retain({member.process.name for member in members})

    def receive(self, batches: Iterable[Batch], now: float) -> Steps[None]:
        """Decode batches that were read from the store.

        Args:
            batches: The batches.
            now: Fleet time; traffic of a later slot, from before the clock of the store was set
                back, counts in the slot of `now`.
        """
        decode = partial(_decoded, now=now, newest_slot=int(now // self._bucket_seconds))
        for batch, error in (yield from self._inbox.add(batches, decode)):
            logger.error(
                "stored traffic is invalid, not counted: process=%s batch=%d error=%s",
                batch.process,
                batch.number,
                error,
            )

    def count(self, watermark: int | None) -> Steps[None]:
        """Count the received traffic of all slots up to `watermark`; None: of all slots."""
        for bucket in self._inbox.take(watermark):
            yield from self.evaluator.traffic.apply(bucket)

    def count_local(self, buckets: Iterable[tuple[int, Bucket]]) -> Steps[None]:
        """Count numbered traffic of this process that the store does not accept, each once."""
        for number, bucket in buckets:
            if number > self._last_local:
                self.is_local, self._last_local = True, number
                yield from self.evaluator.traffic.apply(bucket)

    def evaluate(
        self, thresholds: Thresholds, now: float, at: float
    ) -> Steps[tuple[list[AlertChanges], bool]]:
        """Evaluate every alert; return the changes, and True if no rule failed.

        Args:
            thresholds: The thresholds of the rules.
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
        """
        changes, succeeded = yield from self.evaluator.evaluate(thresholds, now, at)
        self.evaluated_at = at
        if succeeded:
            self.succeeded_at = at
        return changes, succeeded

    def snapshot(self, now: float, at: float) -> Steps[Snapshot | None]:
        """Return the windows to store with an evaluation; None if they cannot be stored.

        Args:
            now: Seconds of the engine's clock.
            at: The same moment in seconds since the epoch.
        """
        if self.is_local:
            return None
        traffic, inbox, consumed = self.evaluator.traffic, self._inbox, self._inbox.consumed()
        windows, expired = yield from traffic.snapshot()
        windows.append(self.evaluator.outages_record(at - now))
        complete_since = self._complete_since
        self._snapshots += 1
        number = self._snapshots

        def stored() -> None:
            if number != self._snapshots:
                return  # the next one has everything of this one
            traffic.confirm_stored()
            inbox.confirm_stored(consumed)
            self._stored_since = complete_since

        changes = Changes(
            windows=tuple(windows),
            expired=expired,
            consumed=consumed,
            evaluated_at=at,
            complete_since=None if complete_since == self._stored_since else complete_since,
        )
        return Snapshot(changes, stored)


def _decoded(payload: bytes, protocol: int, *, now: float, newest_slot: int) -> Bucket:
    bucket = decode_bucket(payload, protocol)
    if bucket.slot > newest_slot:
        bucket.slot = newest_slot
        for outcomes in bucket.all_outcomes():
            outcomes.move_before(now)
    return bucket

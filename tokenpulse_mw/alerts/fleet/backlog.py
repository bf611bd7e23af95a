"""Traffic of a process that the store does not have yet."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from itertools import chain

from ..steps import Steps
from ..store.records import Batch
from ..traffic.bucket import Bucket

_OUTAGE = "the alert store has not received it for a long time"

logger = logging.getLogger("tokenpulse_mw.alerts")


class Backlog:
    """Bounded queue of buckets; the store receives each of them exactly once.

    Batches that were sent are sent again unchanged, under the same numbers, until `stored` is
    called; newer buckets wait behind them. The newest `max_buckets` are queued whole. Older ones
    are merged by hour and keep only the requests, tokens and usage of tenants.

    Args:
        bucket_seconds: Length of a slot.
        max_buckets: Maximum number of whole buckets after `batches`; between two calls, twice as
            many are queued, and the oldest beyond them is dropped.
        max_hours: Maximum number of merged buckets; the oldest beyond it is dropped.
        max_names: Maximum number of tenants of a merged bucket that are counted separately.
        max_batches: Maximum number of batches of a heartbeat, to stay within its timeout.

    Attributes:
        pushed: Number of the last batch that the store is known to have.
        dropped: Number of buckets that were dropped, whole or merged.
    """

    def __init__(
        self,
        *,
        bucket_seconds: float = 5,
        max_buckets: int = 60,
        max_hours: int = 25,
        max_names: int = 5000,
        max_batches: int = 12,
    ) -> None:
        self.pushed = self.dropped = self._last = 0
        self._bucket_seconds = bucket_seconds
        self._max_buckets, self._max_hours = max_buckets, max_hours
        self._max_names, self._max_batches = max_names, max_batches
        self._hours = deque[Bucket]()
        self._buckets = deque[Bucket]()
        self._sent: tuple[Batch, ...] = ()
        self._reported = set[type]()  # of reasons

    def add(self, bucket: Bucket) -> None:
        """Append a bucket."""
        self._buckets.append(bucket)
        if len(self._buckets) > 2 * self._max_buckets:
            self._drop(self._buckets, _OUTAGE)

    def batches(
        self, process: str, encode: Callable[[Bucket, int], bytes], *, protocol: int
    ) -> Steps[tuple[Batch, ...]]:
        """Return the batches of the next heartbeat, the oldest first.

        Args:
            process: Name of the process.
            encode: Returns the payload of a bucket in a version of the protocol. A bucket that it
                cannot encode is dropped.
            protocol: Version of the protocol.
        """
        while len(self._buckets) > self._max_buckets:
            self._merge(self._buckets.popleft())
            yield
        if self._sent:
            return self._sent
        while len(self._sent) < self._max_batches and self.is_waiting:
            buckets = self._hours or self._buckets
            try:
                payload = encode(buckets[0], protocol)
            except Exception as error:  # noqa: BLE001 - the others can be encoded
                self._drop(buckets, error)
            else:
                self._last += 1
                bucket = buckets.popleft()
                usage = bucket.records(self._bucket_seconds)
                batch = Batch(process, self._last, bucket.slot, protocol, payload, usage)
                self._sent += (batch,)
            yield
        return self._sent

    def through(self, sealed: int) -> int:
        """Return the slot up to which the store has all traffic after the next heartbeat.

        Call it after `batches`.

        Args:
            sealed: Slot up to which all buckets were added.
        """
        return min([sealed, *(bucket.slot - 1 for bucket in self._waiting())])

    def stored(self) -> None:
        """Drop the batches of the last heartbeat, which succeeded."""
        self._reported.discard(str)
        if self._sent:
            self.pushed = self._sent[-1].number
            self._sent = ()

    def move(self, seconds: float) -> None:
        """Correct the fleet time of all buckets that were not sent."""
        for bucket in self._waiting():
            bucket.slot = max(0, bucket.slot + int(seconds // self._bucket_seconds))
            bucket.move_outcomes(seconds)

    def clear(self) -> None:
        """Drop everything; the numbers of batches that were sent are not used again."""
        self._sent = ()
        self._hours.clear()
        self._buckets.clear()

    @property
    def is_waiting(self) -> bool:
        """True if there is traffic that the last heartbeat did not have."""
        return bool(self._hours or self._buckets)

    @property
    def waiting(self) -> int:
        """Number of whole buckets that the last heartbeat did not have: the newest ones."""
        return len(self._buckets)

    def behind(self, now: float) -> float:
        """Return the age in seconds of the oldest traffic that is not stored."""
        slots = [batch.slot for batch in self._sent] + [bucket.slot for bucket in self._waiting()]
        oldest = min(slots, default=None)
        if oldest is None:
            return 0.0
        return max(0.0, now - (oldest + 1) * self._bucket_seconds)

    def _waiting(self) -> chain[Bucket]:
        return chain(self._hours, self._buckets)

    def _merge(self, bucket: Bucket) -> None:
        if not self._hours or self._hour(self._hours[-1]) != self._hour(bucket):
            self._hours.append(Bucket(bucket.slot, bucket.profile))
            if len(self._hours) > self._max_hours:
                self._drop(self._hours, _OUTAGE)
        self._hours[-1].add_tenants(bucket, max_names=self._max_names)

    def _hour(self, bucket: Bucket) -> int:
        return int(bucket.slot * self._bucket_seconds // 3600)

    def _drop(self, buckets: deque[Bucket], reason: str | Exception) -> None:
        """Drop the oldest of `buckets`."""
        bucket = buckets.popleft()
        self.dropped += 1
        if type(reason) not in self._reported:
            self._reported.add(type(reason))
            logger.error(
                "traffic dropped, not counted (logged once): slot=%d reason=%s", bucket.slot, reason
            )

"""Traffic of a process that the store does not have yet."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import Generic, Protocol, Self, TypeVar

from ..store.records import Batch


class ReducibleBucket(Protocol):
    """Traffic in one slot that can be merged with that of other slots once it is old."""

    slot: int

    def without_shares(self) -> Self:
        """Return the requests and tokens of tenants alone."""
        ...

    def merge(self, other: Self, /) -> object:
        """Add the traffic of `other`."""
        ...


_Bucket = TypeVar("_Bucket", bound=ReducibleBucket)


class Backlog(Generic[_Bucket]):
    """Bounded queue of buckets; the store receives each of them exactly once.

    Batches that were sent are sent again unchanged, under the same numbers, until `stored` is
    called; newer buckets wait behind them. The newest `max_buckets` are queued whole. Older ones
    are merged by hour and keep only the requests and tokens of tenants.

    Args:
        bucket_seconds: Length of a slot.
        max_buckets: Maximum number of whole buckets.
        max_hours: Maximum number of merged buckets; the oldest beyond it is dropped.
        max_batches: Maximum number of batches of a heartbeat, to stay within its timeout.

    Attributes:
        pushed: Number of the last batch that the store is known to have.
        dropped: Number of hours whose traffic was dropped.
    """

    def __init__(
        self,
        *,
        bucket_seconds: float = 5,
        max_buckets: int = 60,
        max_hours: int = 25,
        max_batches: int = 12,
    ) -> None:
        self.pushed = self.dropped = self._last = 0
        self._bucket_seconds = bucket_seconds
        self._max_buckets, self._max_hours = max_buckets, max_hours
        self._max_batches = max_batches
        self._hours = dict[int, _Bucket]()
        self._buckets = deque[_Bucket]()
        self._sent: tuple[Batch, ...] = ()

    def add(self, bucket: _Bucket) -> None:
        """Append a bucket."""
        self._buckets.append(bucket)
        if len(self._buckets) <= self._max_buckets:
            return
        oldest = self._buckets.popleft().without_shares()
        hour = int(oldest.slot * self._bucket_seconds // 3600)
        if hour in self._hours:
            self._hours[hour].merge(oldest)
        else:
            self._hours[hour] = oldest
        if len(self._hours) > self._max_hours:
            del self._hours[min(self._hours)]
            self.dropped += 1

    def batches(
        self, process: str, encode: Callable[[_Bucket, int], bytes], *, protocol: int
    ) -> tuple[Batch, ...]:
        """Return the batches of the next heartbeat, the oldest first.

        Args:
            process: Name of the process.
            encode: Returns the payload of a bucket in a version of the protocol.
            protocol: Version of the protocol.
        """
        if not self._sent:
            count = min(self._max_batches, len(self._hours) + len(self._buckets))
            buckets = [self._pop() for _ in range(count)]
            self._sent = tuple(
                Batch(process, number, bucket.slot, protocol, encode(bucket, protocol))
                for number, bucket in enumerate(buckets, self._last + 1)
            )
            self._last += count
        return self._sent

    def through(self, sealed: int) -> int:
        """Return the slot up to which the store has all traffic after the next heartbeat.

        Call it after `batches`.

        Args:
            sealed: Slot up to which all buckets were added.
        """
        return min([sealed, *(slot - 1 for slot in self._waiting_slots())])

    def stored(self) -> None:
        """Drop the batches of the last heartbeat, which succeeded."""
        if self._sent:
            self.pushed = self._sent[-1].number
            self._sent = ()

    def clear(self) -> None:
        """Drop everything; the numbers of batches that were sent are not used again."""
        self._sent = ()
        self._hours.clear()
        self._buckets.clear()

    @property
    def is_waiting(self) -> bool:
        """True if there is traffic that the last heartbeat did not have."""
        return bool(self._hours or self._buckets)

    def behind(self, now: float) -> float:
        """Return the age in seconds of the oldest traffic that is not stored."""
        sent = [batch.slot for batch in self._sent]
        oldest = min([*sent, *self._waiting_slots()], default=None)
        if oldest is None:
            return 0.0
        return max(0.0, now - (oldest + 1) * self._bucket_seconds)

    def _waiting_slots(self) -> list[int]:
        return [bucket.slot for bucket in chain(self._hours.values(), self._buckets)]

    def _pop(self) -> _Bucket:
        if self._hours:
            return self._hours.pop(next(iter(self._hours)))
        return self._buckets.popleft()

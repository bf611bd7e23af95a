"""Batches of all processes that the leader has read and not yet stored in windows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from math import floor

from ..steps import Steps
from ..store.records import Batch
from ..traffic.bucket import Bucket, Profile

_Origin = tuple[str, int]  # process and number of a batch


class Inbox:
    """Buckets of all processes, merged by slot and profile until the watermark passes them.

    Each batch is decoded once. Its traffic is taken once, and it is `consumed` until the commit
    that has the traffic succeeds.

    Args:
        protocol: Newest protocol to read. Batches of a newer one stay in the store, for a leader
            that can read them.

    Attributes:
        known: Number of the last batch that was read, by process.
        late: Number of batches that arrived after the watermark had passed their slot.
    """

    def __init__(self, *, protocol: int) -> None:
        self.known = dict[str, int]()
        self.late = 0
        self._protocol = protocol
        self._watermark = -1
        self._waiting = dict[tuple[int, Profile], tuple[Bucket, list[_Origin]]]()
        self._consumed = list[_Origin]()

    def add(
        self, batches: Iterable[Batch], decode: Callable[[bytes, int], Bucket]
    ) -> Steps[list[tuple[Batch, ValueError]]]:
        """Decode batches, merge them by slot, and return those that are damaged, with the error.

        Args:
            batches: Batches by process and number; those that are known are ignored.
            decode: Returns the bucket of a payload and its protocol; raises ValueError if the
                payload is damaged.
        """
        rejected = list[tuple[Batch, ValueError]]()
        for batch in batches:
            if batch.number <= self.known.get(batch.process, 0):
                continue
            self.known[batch.process] = batch.number
            if batch.protocol > self._protocol:
                continue
            origin = batch.process, batch.number
            try:
                bucket = decode(batch.payload, batch.protocol)
            except ValueError as error:
                self._consumed.append(origin)
                rejected.append((batch, error))
            else:
                self.late += bucket.slot <= self._watermark
                key = bucket.slot, bucket.profile
                if key in self._waiting:
                    merged, origins = self._waiting[key]
                    merged.merge(bucket)
                    origins.append(origin)
                else:
                    self._waiting[key] = bucket, [origin]
            yield
        return rejected

    def take(self, watermark: int | None = None) -> list[Bucket]:
        """Return buckets by slot, and consume their batches.

        Args:
            watermark: Slot up to which traffic is complete; buckets that arrive behind it are late.
                None returns all buckets and keeps the watermark.
        """
        if watermark is not None:
            self._watermark = max(self._watermark, watermark)
        ready = [key for key in self._waiting if watermark is None or key[0] <= self._watermark]
        buckets = list[Bucket]()
        for key in sorted(ready, key=lambda key: key[0]):
            bucket, origins = self._waiting.pop(key)
            buckets.append(bucket)
            self._consumed += origins
        return buckets

    def consumed(self) -> tuple[_Origin, ...]:
        """Return process and number of each batch that the next commit deletes."""
        return tuple(self._consumed)

    def confirm_stored(self, consumed: Collection[_Origin]) -> None:
        """Forget the batches that a successful commit has deleted.

        Args:
            consumed: Result of `consumed` that was committed.
        """
        del self._consumed[: len(consumed)]

    def retain(self, processes: Collection[str]) -> None:
        """Forget the numbers of other processes, unless their batches are still here."""
        origins = [self._consumed, *(origins for _, origins in self._waiting.values())]
        kept = {process for batches in origins for process, _ in batches}.union(processes)
        self.known = {process: self.known[process] for process in self.known if process in kept}


def watermark(
    through: Iterable[int], now: float, *, bucket_seconds: float, patience: float = 10.0
) -> int:
    """Return the last slot that has ended and of which the traffic of all processes is stored.

    Args:
        through: For each live process, the slot up to which it has sent all of its traffic.
        now: Time of the fleet.
        bucket_seconds: Length of a slot.
        patience: Seconds to wait for a process; later traffic is late.
    """
    ended = floor(now / bucket_seconds) - 1
    lapsed = floor((now - patience) / bucket_seconds) - 1
    return max(min(ended, min(through, default=lapsed)), lapsed)

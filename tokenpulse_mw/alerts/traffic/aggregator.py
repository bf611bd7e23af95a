"""Traffic of one process, gathered in buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from ...exchange import Exchange
from ..thresholds import Thresholds
from .bucket import Bucket, FailureKey, Profile
from .classification import GATEWAY, TrafficClass, TrafficKey, Upstream, valid_text
from .rolling_window import FIRST, OVERFLOW, SHIFT
from .streaks import Outcomes

OVERFLOW_UPSTREAM: Upstream = ("", OVERFLOW)


OVERFLOW_FAILURE: FailureKey = ("", OVERFLOW, OVERFLOW_UPSTREAM)


_NO_OVERFLOW = f"{OVERFLOW}_"


_FAILED = 1 << SHIFT


_MAX_CLASSES = 512  # counting them takes less than a millisecond


_MAX_STRETCH = 1.1  # length of a bucket after the fleet time has been moved back


_Subject = TypeVar("_Subject", bound=Hashable)


class TrafficAggregator:
    """Gathers the exchanges of one process in buckets of fleet time.

    An exchange counts when it ends, when its tokens are known. Fleet time is the engine's clock
    plus `offset`. It never moves back: if `offset` decreases, the next buckets take up to a tenth
    longer until the fleet time is reached.

    Args:
        thresholds: Thresholds that decide what a failure is and which latencies are distinguished.
        max_subjects: A quarter of the names of each kind that a bucket counts separately.
        bucket_seconds: Length of a slot.
        sealed: Called with each finished bucket that has traffic.
        offset: Initial value of `offset`.

    Attributes:
        offset: Seconds to add to the engine's clock; a change takes effect with the next bucket.
        overflowed: Number of events counted as `__overflow__`.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        max_subjects: int,
        sealed: Callable[[Bucket], None],
        bucket_seconds: int = 5,
        offset: float = 0.0,
    ) -> None:
        self.offset = offset
        self.overflowed = 0
        self._max_names = 4 * max_subjects
        self._sealed = sealed
        self._bucket_seconds = bucket_seconds
        self._slot = -1
        self._offset = offset  # of the open bucket
        self._last_outcome = 0  # time in microseconds
        self._began = self._ends = self._due = float("-inf")
        self._second = 0
        self._profile = Profile.of(thresholds)
        self._open()

    def observe(self, exchange: Exchange, now: float) -> None:
        """Count one exchange that ended at `now`, in seconds of the engine's clock."""
        if now >= self._due:
            self._roll(now)
        latency = exchange.time_to_first_byte
        key = (
            exchange.provider,
            exchange.credential,
            exchange.status,
            exchange.outcome,
            exchange.limited,
            exchange.method,
            bisect_left(self._profile.bounds, exchange.duration if latency is None else latency),
        )
        traffic_class = self._classes.get(key) or self._new_class(key)
        tenant: str | None = exchange.tenant or GATEWAY
        if traffic_class.is_traffic:
            usage = exchange.usage
            added = 1 if usage is None else 1 | (usage.input + usage.output) << SHIFT
            counted = self._tenants.get(tenant)
            if counted is None:
                tenant = self._new_tenant(exchange)
                counted = self._tenants.get(tenant, 0)
            self._tenants[tenant] = counted + added
        traffic_class.requests += 1
        if traffic_class.is_rated:
            name = exchange.api_key or GATEWAY
            key_name: str | None = name
            counted = self._keys.get(key_name)
            if counted is None:
                key_name = self._admit(self._keys, name)
                counted = self._keys.get(key_name, 0)
            self._keys[key_name] = counted + (1 | _FAILED if traffic_class.fails_key else 1)
            if traffic_class.is_failure and traffic_class.upstream:
                failure = (
                    "key",
                    OVERFLOW if key_name is None else key_name,
                    traffic_class.upstream,
                )
                self._add(self._bucket.failures_by_upstream, failure, 1, OVERFLOW_FAILURE)
        elif traffic_class.limited:
            tenant = self._admit(self._limited, exchange.tenant or GATEWAY)
            self._limited[tenant] = self._limited.get(tenant, 0) + 1
        outcomes = traffic_class.outcomes
        if outcomes is not None:
            # Outcomes of a process are ordered by time, also if the clock stands still.
            time = max(int((now + self._offset) * 1e6), self._last_outcome + 1)
            self._last_outcome = time
            if traffic_class.is_failure:
                outcomes.fail(time)
            else:
                outcomes.succeed(time)

    def seal(self, now: float, *, partial: bool = False) -> None:
        """Pass the finished bucket to `sealed`; with `partial`, also the open one."""
        if now >= self._ends:
            self._roll(now)
        if partial:
            self._close()

    def through(self, now: float) -> int:
        """Seal the finished bucket, and return the slot up to which all buckets are sealed."""
        self.seal(now)
        return self._slot - 1

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Seal the open bucket, and use other thresholds from now on."""
        self._close()
        self._profile = Profile.of(thresholds)

    def _roll(self, now: float) -> None:
        """Begin the next second, and the next bucket if the current one has ended."""
        length = self._bucket_seconds
        if now >= self._ends:
            self._close()
            self._offset = self.offset
            self._slot = max(int((now + self._offset) // length), self._slot + 1)
            start = self._slot * length - self._offset
            self._began = min(start, now)
            self._ends = min(start + length, self._began + _MAX_STRETCH * length)
        else:
            self._count_classes()
        self._second = min(int(now - self._began), length - 1)
        self._due = min(self._began + self._second + 1, self._ends)
        if self._second == length - 1:
            self._due = self._ends

    def _open(self) -> None:
        self._bucket = Bucket(self._slot, self._profile, [0] * self._bucket_seconds)
        self._classes: dict[tuple[Any, ...], TrafficClass] = {}
        # None counts the names beyond the limit.
        self._tenants: dict[str | None, int] = {}
        self._keys: dict[str | None, int] = {}
        self._limited: dict[str | None, int] = {}

    def _close(self) -> None:
        """Seal the open bucket if it has traffic, and begin a new one in the same slot."""
        self._count_classes()
        bucket = self._bucket
        bucket.slot, bucket.profile = self._slot, self._profile
        bucket.tenants = _named(self._tenants)
        bucket.keys = _named(self._keys)
        bucket.limited = _named(self._limited)
        self._open()
        if bucket.tenants or bucket.limited:
            self._sealed(bucket)

    def _new_class(self, key: tuple[Any, ...]) -> TrafficClass:
        if len(self._classes) >= _MAX_CLASSES:
            self._count_classes()
        traffic_class = TrafficClass(
            TrafficKey(*key), count_client_errors=self._profile.count_client_errors
        )
        upstream = traffic_class.upstream
        if upstream is not None:
            outcomes = self._bucket.outcomes
            if upstream in outcomes or len(outcomes) < self._max_names:
                traffic_class.outcomes = outcomes.setdefault(upstream, Outcomes())
                if traffic_class.provider:
                    traffic_class.outcomes.name = traffic_class.provider
        self._classes[key] = traffic_class
        return traffic_class

    def _count_classes(self) -> None:
        """Count the requests of all classes in the second in which they ended."""
        classes, self._classes = self._classes, {}
        bucket = self._bucket
        for traffic_class in classes.values():
            requests, provider = traffic_class.requests, traffic_class.provider
            if traffic_class.is_traffic:
                bucket.arrivals[self._second] += requests
                if traffic_class.rate_limited:
                    packed = requests | (requests if traffic_class.limited else 0) << SHIFT
                    self._add(bucket.rate_limited, provider, packed, OVERFLOW)
            failures = requests if traffic_class.is_failure else 0
            if traffic_class.is_rated:
                latency = (provider, traffic_class.bucket)
                packed = requests | failures << SHIFT
                self._add(bucket.latencies, latency, packed, (OVERFLOW, 0))
            upstream = traffic_class.upstream
            if failures and upstream:
                failure = ("provider", provider, upstream)
                self._add(bucket.failures_by_upstream, failure, failures, OVERFLOW_FAILURE)
                self._add(bucket.upstreams, upstream, failures, OVERFLOW_UPSTREAM)

    def _new_tenant(self, exchange: Exchange) -> str | None:
        tenant = self._admit(self._tenants, exchange.tenant or GATEWAY)
        if tenant and exchange.tenant_name:
            self._bucket.tenant_names[tenant] = valid_text(exchange.tenant_name)
        return tenant

    def _admit(self, counts: dict[str | None, int], name: str) -> str | None:
        """Return the name to count a new name as, or None if there are too many."""
        name = _NO_OVERFLOW if name == OVERFLOW else valid_text(name)
        if name in counts or len(counts) < self._max_names:
            return name
        self.overflowed += 1
        return None

    def _add(
        self, counts: dict[_Subject, int], subject: _Subject, added: int, overflow: _Subject
    ) -> None:
        if subject not in counts and len(counts) >= self._max_names:
            subject = overflow
            self.overflowed += added & FIRST
        counts[subject] = counts.get(subject, 0) + added


def _named(counts: dict[str | None, int]) -> dict[str, int]:
    """Return `counts` with the names beyond the limit as `__overflow__`."""
    return {OVERFLOW if name is None else name: packed for name, packed in counts.items()}

"""Traffic of one slot of time, and its encoding."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import Annotated, Generic, NamedTuple, TypeVar

import msgspec

from ..store.usage import USAGE_COUNTS, UsageRecord
from ..thresholds import Thresholds
from .classification import Upstream
from .rolling_window import FIRST, OVERFLOW, SHIFT
from .streaks import Natural, Outcomes

PROTOCOL = 1  # version of encoded buckets and windows


# "key" or "provider", its id, and the upstream that its failures came from.
FailureKey = tuple[str, str, Upstream]


class ReportKey(NamedTuple):
    """Key of a number that the rule of a process reports to the leader.

    Attributes:
        rule: Name of the rule.
        part: A part of it, such as the policy of a budget.
        key: The subject, such as the key of a limit.
    """

    rule: str
    part: str
    key: str


# Use and limit of a key, and the end of the window in seconds since the epoch, or 0 if it is not
# known; the limit is above 0. The third number of a stalled request is that of the requests.
Usage = tuple[float, float, float]


# Tenant, label of the model, and label of the provider.
UsageKey = tuple[str, str, str]


OVERFLOW_USAGE: UsageKey = (OVERFLOW, OVERFLOW, OVERFLOW)


_MAX_WEIGHT = 2**63 - 1


_Subject = TypeVar("_Subject", bound=Hashable)
_Count = Annotated[int, msgspec.Meta(ge=0, le=FIRST)]
_Weight = Annotated[int, msgspec.Meta(ge=0, le=_MAX_WEIGHT)]
Positive = Annotated[float, msgspec.Meta(gt=0)]


class Profile(NamedTuple):
    """Thresholds that decide what counts as a failure and which latencies are distinguished.

    Counts of error rates and latencies with different profiles cannot be added.
    """

    error_window: float
    count_client_errors: bool
    bounds: tuple[float, ...]

    @classmethod
    def of(cls, thresholds: Thresholds) -> Profile:
        """Return the profile of `thresholds`."""
        bounds = latency_bounds(thresholds)
        return cls(thresholds.error_window, thresholds.count_client_errors, bounds)

    def __str__(self) -> str:
        bounds = ",".join(f"{bound:g}" for bound in self.bounds)
        return (
            f"error_window={self.error_window:g} count_client_errors={self.count_client_errors} "
            f"latencies={bounds}"
        )


def latency_bounds(thresholds: Thresholds) -> tuple[float, ...]:
    """Return the upper bounds of the latency buckets in seconds.

    The threshold and the value that resolves an alert are bounds, so the share of latencies above
    either of them is exact.
    """
    threshold = thresholds.provider_latency_p95
    if threshold is None:
        return ()
    ratios = {0.1, 0.25, 0.5, thresholds.resolve_ratio, 1, 1.5, 2, 3, 5, 10}
    return tuple(sorted(threshold * ratio for ratio in ratios))


@dataclass(slots=True)
class Bucket:
    """Traffic of one or more processes in one slot of time.

    Counts are packed: the first number in the 40 lowest bits, the second one above them.

    Attributes:
        slot: Number of the slot since the epoch.
        profile: Profile of `keys`, `latencies`, `failures_by_upstream` and `upstreams`.
        arrivals: Requests in each second of the slot.
        tenants: Requests and tokens of each tenant.
        tenant_names: Display names of tenants.
        key_tenants: Tenant of each key whose tenant has a name.
        limited: Limited requests of each tenant.
        rate_limited: Responses with 429 of each provider, and how many of them came from the
            gateway's own limit.
        keys: Requests and failures of each key.
        latencies: Requests and failures of each provider and latency bucket.
        failures_by_upstream: Failures of each key and provider, by upstream.
        upstreams: Failures of each upstream.
        outcomes: Outcomes of each upstream.
        authentications: Outcomes of the authentications of each credential; a response with 401 or
            403 is a failure.
        reports: What the rules in one of the processes report to the leader.
        usage: Numbers of each tenant, model and provider, in the order of `USAGE_COUNTS`. The store
            adds them to the usage of the hour, so they are not encoded.
    """

    slot: int
    profile: Profile
    arrivals: list[int] = field(default_factory=list)
    tenants: dict[str, int] = field(default_factory=dict)
    tenant_names: dict[str, str] = field(default_factory=dict)
    key_tenants: dict[str, str] = field(default_factory=dict)
    limited: dict[str, int] = field(default_factory=dict)
    rate_limited: dict[str, int] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=dict)
    latencies: dict[tuple[str, int], int] = field(default_factory=dict)
    failures_by_upstream: dict[FailureKey, int] = field(default_factory=dict)
    upstreams: dict[Upstream, int] = field(default_factory=dict)
    outcomes: dict[Upstream, Outcomes] = field(default_factory=dict)
    authentications: dict[str, Outcomes] = field(default_factory=dict)
    reports: dict[ReportKey, Usage] = field(default_factory=dict)
    usage: dict[UsageKey, list[int]] = field(default_factory=dict)

    def usage_of(self, key: UsageKey, *, max_keys: int) -> list[int]:
        """Return the numbers of a tenant, model and provider, which the caller may change.

        Args:
            key: The tenant, the model and the provider.
            max_keys: Number of keys beyond which new ones are counted as `__overflow__`.
        """
        if key not in self.usage and len(self.usage) >= max_keys:
            key = OVERFLOW_USAGE
        return self.usage.setdefault(key, [0] * len(USAGE_COUNTS))

    def records(self, bucket_seconds: float) -> tuple[UsageRecord, ...]:
        """Return the usage as records of the hour of this slot."""
        hour = int(self.slot * bucket_seconds // 3600)
        return tuple(UsageRecord(hour, *key, *counts) for key, counts in self.usage.items())

    def add_tenants(self, other: Bucket, *, max_names: int) -> None:
        """Add requests, tokens and usage of the tenants of another slot of the same hour.

        Args:
            other: The other bucket.
            max_names: Number of tenants, and of rows of usage, beyond which new ones are counted as
                `__overflow__`.
        """
        for key, counts in other.usage.items():
            total = self.usage_of(key, max_keys=max_names)
            total[:] = map(add, total, counts)
        for tenant, added in other.tenants.items():
            if tenant not in self.tenants and len(self.tenants) >= max_names:
                tenant = OVERFLOW
            elif tenant in other.tenant_names:
                self.tenant_names[tenant] = other.tenant_names[tenant]
            self.tenants[tenant] = self.tenants.get(tenant, 0) + added

    def move_outcomes(self, seconds: float) -> None:
        """Correct the fleet time of all outcomes."""
        for outcomes in self.all_outcomes():
            outcomes.move(round(seconds * 1e6))

    def all_outcomes(self) -> Iterator[Outcomes]:
        """Yield the outcomes of all upstreams and credentials."""
        yield from self.outcomes.values()
        yield from self.authentications.values()

    def merge(self, other: Bucket) -> None:
        """Add the traffic of `other` in the same slot, in any order.

        Counts of error rates and latencies with another profile are left out.
        """
        missing = len(other.arrivals) - len(self.arrivals)
        self.arrivals += [0] * missing
        for second, requests in enumerate(other.arrivals):
            self.arrivals[second] += requests
        _add(self.tenants, other.tenants)
        _add(self.limited, other.limited)
        _add(self.rate_limited, other.rate_limited)
        for tenant, name in other.tenant_names.items():
            self.tenant_names[tenant] = max(name, self.tenant_names.get(tenant, ""))
        for key, tenant in other.key_tenants.items():
            self.key_tenants[key] = max(tenant, self.key_tenants.get(key, ""))
        if self.profile == other.profile:
            _add(self.keys, other.keys)
            _add(self.latencies, other.latencies)
            _add(self.failures_by_upstream, other.failures_by_upstream)
            _add(self.upstreams, other.upstreams)
        for upstream, outcomes in other.outcomes.items():
            self.outcomes.setdefault(upstream, Outcomes()).merge(outcomes)
        for credential, outcomes in other.authentications.items():
            self.authentications.setdefault(credential, Outcomes()).merge(outcomes)
        merge_reports(self.reports, other.reports)


def merge_reports(reports: dict[ReportKey, Usage], others: Mapping[ReportKey, Usage]) -> None:
    """Add to `reports`, which keeps the larger share of each key."""
    for key, usage in others.items():
        reports[key] = max(usage, reports.get(key, usage), key=_share_first)


def _share_first(usage: Usage) -> tuple[float, Usage]:
    return usage[0] / usage[1], usage


def _add(counts: dict[_Subject, int], others: Mapping[_Subject, int]) -> None:
    for subject, added in others.items():
        counts[subject] = counts.get(subject, 0) + added


class Columns(msgspec.Struct, Generic[_Subject], array_like=True):
    """Packed counts as columns, since a packed count may exceed 64 bits."""

    subjects: list[_Subject]
    counts: list[_Count]
    weights: list[_Weight]

    @classmethod
    def of(cls, packed: Mapping[_Subject, int]) -> Columns[_Subject]:
        """Return packed counts as columns; weights are limited to 63 bits."""
        counts = [number & FIRST for number in packed.values()]
        weights = [number >> SHIFT for number in packed.values()]
        if max(weights, default=0) > _MAX_WEIGHT:
            weights = [min(weight, _MAX_WEIGHT) for weight in weights]
        return cls(list(packed), counts, weights)

    def packed(self) -> dict[_Subject, int]:
        """Return packed counts.

        Raises:
            ValueError: The columns have different lengths.
        """
        columns = zip(self.subjects, self.counts, self.weights, strict=True)
        return {subject: count | weight << SHIFT for subject, count, weight in columns}


class _EncodedBucket(msgspec.Struct, array_like=True):
    slot: Natural
    profile: Profile
    arrivals: list[Natural]
    tenants: Columns[str]
    tenant_names: dict[str, str]
    key_tenants: dict[str, str]
    limited: dict[str, Natural]
    rate_limited: Columns[str]
    keys: Columns[str]
    latencies: Columns[tuple[str, Natural]]
    failures_by_upstream: Columns[FailureKey]
    upstreams: Columns[Upstream]
    outcomes: list[tuple[Upstream, Outcomes]]
    authentications: list[tuple[str, Outcomes]]
    reports: list[tuple[ReportKey, tuple[float, Positive, float]]]


_DECODER = msgspec.msgpack.Decoder(_EncodedBucket)


def encode_bucket(bucket: Bucket, protocol: int = PROTOCOL) -> bytes:
    """Return an encoded bucket.

    Raises:
        ValueError: The protocol is unknown.
    """
    check_protocol(protocol)
    return msgspec.msgpack.encode(
        _EncodedBucket(
            bucket.slot,
            bucket.profile,
            bucket.arrivals,
            Columns.of(bucket.tenants),
            bucket.tenant_names,
            bucket.key_tenants,
            bucket.limited,
            Columns.of(bucket.rate_limited),
            Columns.of(bucket.keys),
            Columns.of(bucket.latencies),
            Columns.of(bucket.failures_by_upstream),
            Columns.of(bucket.upstreams),
            list(bucket.outcomes.items()),
            list(bucket.authentications.items()),
            list(bucket.reports.items()),
        )
    )


def decode_bucket(payload: bytes, protocol: int) -> Bucket:
    """Return the bucket that was encoded.

    Raises:
        ValueError: The protocol is unknown, or the payload is damaged.
    """
    check_protocol(protocol)
    encoded = _DECODER.decode(payload)
    latencies = encoded.latencies.packed()
    check_latencies(latencies, encoded.profile)
    return Bucket(
        slot=encoded.slot,
        profile=encoded.profile,
        arrivals=encoded.arrivals,
        tenants=encoded.tenants.packed(),
        tenant_names=encoded.tenant_names,
        key_tenants=encoded.key_tenants,
        limited=encoded.limited,
        rate_limited=encoded.rate_limited.packed(),
        keys=encoded.keys.packed(),
        latencies=latencies,
        failures_by_upstream=encoded.failures_by_upstream.packed(),
        upstreams=encoded.upstreams.packed(),
        outcomes=dict(encoded.outcomes),
        authentications=dict(encoded.authentications),
        reports=dict(encoded.reports),
    )


def check_latencies(latencies: Iterable[tuple[str, int]], profile: Profile) -> None:
    """Raise ValueError if a latency bucket is beyond the bounds of the profile."""
    most = len(profile.bounds)
    worst = max((number for _, number in latencies), default=0)
    if worst > most:
        raise ValueError(f"latency bucket must be at most {most}, got {worst}")


def check_protocol(protocol: int) -> None:
    """Raise ValueError if this version does not read `protocol`."""
    if protocol != PROTOCOL:
        raise ValueError(
            f"protocol must be {PROTOCOL}, got {protocol}: run the same version in all processes"
        )

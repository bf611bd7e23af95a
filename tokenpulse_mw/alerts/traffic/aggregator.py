"""Traffic of one process, gathered in buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

from ...exchange import UNKNOWN, Exchange
from ..thresholds import Thresholds
from .bucket import (
    OVERFLOW_USAGE,
    Bucket,
    FailureKey,
    Profile,
    ReportKey,
    Usage,
    UsageKey,
    merge_reports,
)
from .classification import GATEWAY, TrafficClass, TrafficKey, Upstream, valid_text
from .rolling_window import FIRST, OVERFLOW, SHIFT
from .streaks import Outcomes

OVERFLOW_UPSTREAM: Upstream = ("", OVERFLOW)


OVERFLOW_FAILURE: FailureKey = ("", OVERFLOW, OVERFLOW_UPSTREAM)


_NO_OVERFLOW = f"{OVERFLOW}_"


_MAX_ROWS = 256  # counting them takes less than a millisecond


_MAX_BUCKET_NAMES = 2000  # a bucket with more is followed by another one: encoding is one step


_MAX_STRETCH = 1.1  # length of a bucket after the fleet time has been moved back


_Subject = TypeVar("_Subject", bound=Hashable)


# Requests and tokens of exchanges with the same tenant, key and class; the time of the last
# success; a sequence that is not empty if the outcome must be recorded at once; and the class.
_Row = list[Any]


# Tenant of an exchange, label of its model, and its provider.
_UsageSource = tuple[str | None, str, str]


_ALWAYS = (0,)


def _model_name(exchange: Exchange) -> str:
    return valid_text(exchange.model or UNKNOWN)


class TrafficAggregator:
    """Gathers the exchanges of one process in buckets of fleet time.

    An exchange counts when it ends, when its tokens are known. Exchanges of the same tenant, key
    and class are buffered in one row, so that a request costs one look-up. Fleet time is the
    engine's clock plus `offset`. It moves back only by `move`: if `offset` decreases, the next
    buckets take up to a tenth longer until the fleet time is reached.

    Args:
        thresholds: Thresholds that decide what a failure is and which latencies are distinguished.
        max_subjects: A quarter of the names of each kind that a bucket counts separately, and the
            number of rows of usage in an hour.
        bucket_seconds: Length of a slot.
        sealed: Called with each finished bucket that has traffic.
        offset: Initial value of `offset`.
        model_label: Returns the label of the model of an exchange, by which usage is counted;
            the name of the model by default.

    Attributes:
        offset: Seconds to add to the engine's clock; a change takes effect with the next bucket.
        overflowed: Number of events counted as `__overflow__`.
        profile: Profile of the open bucket.
        tenant_names: Last known name of each recent tenant of this process; at most
            `max_subjects`.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        *,
        max_subjects: int,
        sealed: Callable[[Bucket], None],
        bucket_seconds: int = 5,
        offset: float = 0.0,
        model_label: Callable[[Exchange], str] = _model_name,
    ) -> None:
        self.offset = offset
        self.overflowed = 0
        self.tenant_names: OrderedDict[str, str] = OrderedDict()
        self._max_subjects = max_subjects
        self._max_names = 4 * max_subjects
        self._max_usage_rows = max_subjects  # in an hour
        self._usage_hour, self._usage_rows = -1, set[UsageKey]()
        self._sealed = sealed
        self._model_label = model_label
        self._bucket_seconds = bucket_seconds
        self._slot = -1
        self._offset = offset  # of the open bucket
        self._last_outcome = self._first_outcome = 0  # times in microseconds
        self._began = self._ends = self._due = float("-inf")
        self._second = 0
        self.profile = Profile.of(thresholds)
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
            bisect_left(self._bounds, exchange.duration if latency is None else latency),
            exchange.tenant,
            exchange.api_key,
        )
        row = self._rows.get(key) or self._new_row(key, exchange)
        row[0] += 1
        usage = exchange.usage
        if usage is not None:
            row[1] += usage.input + usage.output
        if row[3]:
            self._record_outcome(row[4], now)
        else:
            row[2] = now
        if exchange.usage_source is not None or exchange.cost_nanos is not None:
            self._add_usage(exchange)

    def observe_usage(self, exchange: Exchange, now: float) -> None:
        """Count the tokens and the usage of a response that is not a request of its own."""
        if now >= self._due:
            self._roll(now)
        if len(self._bucket.keys) + len(self._bucket.tenants) > _MAX_BUCKET_NAMES:
            self._close()
        self._add_tenant_name(exchange)
        usage = exchange.usage
        if usage is not None and usage.total:
            tenant = _name(exchange.tenant)
            self._add(self._bucket.tenants, tenant, usage.total << SHIFT, OVERFLOW)
        self._add_usage(exchange)

    def _add_usage(self, exchange: Exchange) -> None:
        """Add the usage and the cost of a model's response."""
        # The label of a model changes when the model responds.
        key = exchange.tenant, self._model_label(exchange), exchange.provider
        counts = self._usage.get(key) or self._new_usage(key)
        usage, cost = exchange.usage, exchange.cost_nanos
        counts[0] += 1
        if usage is not None:
            counts[1] += usage.input
            counts[2] += usage.output
            counts[3] += usage.cache_read
            counts[4] += usage.cache_write
            counts[5] += usage.reasoning
        if cost is not None:
            counts[6] += cost
        if cost is None or exchange.cost_is_minimum:
            counts[7] += 1

    def _new_usage(self, key: _UsageSource) -> list[int]:
        if len(self._usage) >= _MAX_ROWS:
            self._usage.clear()
        tenant, model, provider = key
        row = valid_text(tenant or ""), model, provider
        hour = self._slot * self._bucket_seconds // 3600
        if hour != self._usage_hour:
            self._usage_hour = hour
            self._usage_rows.clear()
        if row not in self._usage_rows and len(self._usage_rows) >= self._max_usage_rows:
            row = OVERFLOW_USAGE
        self._usage_rows.add(row)
        counts = self._bucket.usage_of(row, max_keys=self._max_names)
        self._usage[key] = counts
        return counts

    def add_reports(self, reports: Mapping[ReportKey, Usage], now: float) -> None:
        """Add what the rules of this process report to the bucket of `now`."""
        self.seal(now)
        valid = {
            ReportKey(rule, valid_text(part), valid_text(key)): usage
            for (rule, part, key), usage in reports.items()
        }
        merge_reports(self._bucket.reports, valid)

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
        self.profile = Profile.of(thresholds)
        self._open()

    def move(self, now: float, offset: float) -> None:
        """Count the open bucket in the slot of `now` by a new `offset`, which applies at once."""
        moved = offset - self._offset
        self._count_rows()
        self._bucket.move_outcomes(moved)
        self._last_outcome = max(0, self._last_outcome + round(moved * 1e6))
        self._first_outcome = min(self._first_outcome, self._last_outcome)
        self.offset = self._offset = offset
        self._begin(now, int((now + offset) // self._bucket_seconds))

    def _roll(self, now: float) -> None:
        """Begin the next second, and the next bucket if the current one has ended."""
        if now >= self._ends:
            self._close()
            self._offset = self.offset
            slot = int((now + self._offset) // self._bucket_seconds)
            self._begin(now, max(slot, self._slot + 1))
        else:
            self._count_rows()
            self._begin_second(now)

    def _begin(self, now: float, slot: int) -> None:
        """Begin a slot at `now`."""
        length = self._bucket_seconds
        self._slot = slot
        start = slot * length - self._offset
        self._began = min(start, now)
        self._ends = min(start + length, self._began + _MAX_STRETCH * length)
        self._begin_second(now)

    def _begin_second(self, now: float) -> None:
        length = self._bucket_seconds
        self._second = min(int(now - self._began), length - 1)
        self._due = min(self._began + self._second + 1, self._ends)
        if self._second == length - 1:
            self._due = self._ends

    def _open(self) -> None:
        self._bucket = Bucket(self._slot, self.profile, [0] * self._bucket_seconds)
        self._bounds = self.profile.bounds
        self._rows: dict[tuple[Any, ...], _Row] = {}
        self._usage: dict[_UsageSource, list[int]] = {}
        self._classes: dict[tuple[Any, ...], TrafficClass] = {}
        self._last_outcome += 1
        self._first_outcome = self._last_outcome

    def _close(self) -> None:
        """Seal the open bucket if it has traffic, and begin a new one in the same slot."""
        self._count_rows()
        bucket = self._bucket
        bucket.slot = self._slot
        self._open()
        if bucket.tenants or bucket.limited or bucket.reports or bucket.usage:
            self._sealed(bucket)

    def _new_row(self, key: tuple[Any, ...], exchange: Exchange) -> _Row:
        if len(self._rows) >= _MAX_ROWS:
            self._count_rows()
            if len(self._bucket.keys) + len(self._bucket.tenants) > _MAX_BUCKET_NAMES:
                self._close()
        traffic_class = self._classes.get(key[:-2]) or self._new_class(key[:-2])
        self._add_names(exchange, traffic_class)
        failed_at: Sequence[int] = ()
        if traffic_class.outcomes is not None:
            failed_at = _ALWAYS if traffic_class.is_failure else traffic_class.outcomes.failed_at
        elif traffic_class.is_rejected and traffic_class.authentications is not None:
            failed_at = _ALWAYS
        row = self._rows[key] = [0, 0, None, failed_at, traffic_class]
        return row

    def _add_names(self, exchange: Exchange, traffic_class: TrafficClass) -> None:
        """Store the names of the tenant and of the credential."""
        self._add_tenant_name(exchange)
        if exchange.credential and exchange.credential_group:
            for outcomes in (traffic_class.outcomes, traffic_class.authentications):
                if outcomes is not None:
                    outcomes.group = valid_text(exchange.credential_group)

    def _add_tenant_name(self, exchange: Exchange) -> None:
        if exchange.tenant and exchange.tenant_name:
            bucket, tenant = self._bucket, _name(exchange.tenant)
            self._set(bucket.tenant_names, tenant, valid_text(exchange.tenant_name))
            if exchange.api_key:
                tenants, key = bucket.key_tenants, _name(exchange.api_key)
                self._set(tenants, key, max(tenant, tenants.get(key, "")))  # as in `merge`
            self.tenant_names[tenant] = valid_text(exchange.tenant_name)
            self.tenant_names.move_to_end(tenant)
            if len(self.tenant_names) > self._max_subjects:
                self.tenant_names.popitem(last=False)

    def _set(self, names: dict[str, str], identity: str, name: str) -> None:
        if identity in names or len(names) < self._max_names:
            names[identity] = name

    def _new_class(self, key: tuple[Any, ...]) -> TrafficClass:
        if len(self._classes) >= _MAX_ROWS:
            self._classes = {}
        traffic_class = TrafficClass(
            TrafficKey(*key), count_client_errors=self.profile.count_client_errors
        )
        bucket, provider = self._bucket, traffic_class.provider
        traffic_class.outcomes = self._outcomes_of(
            bucket.outcomes, traffic_class.upstream, provider
        )
        traffic_class.authentications = self._outcomes_of(
            bucket.authentications, traffic_class.credential, provider
        )
        self._classes[key] = traffic_class
        return traffic_class

    def _outcomes_of(
        self, table: dict[_Subject, Outcomes], subject: _Subject | None, provider: str
    ) -> Outcomes | None:
        """Return the outcomes of a subject; None without a subject, or if the table is full."""
        if subject is None or (subject not in table and len(table) >= self._max_names):
            return None
        outcomes = table.setdefault(subject, Outcomes())
        outcomes.name = provider or outcomes.name
        return outcomes

    def _record_outcome(self, traffic_class: Any, now: float) -> None:
        """Record a failure, or the first success after failures, in its order.

        The order is exact even if the clock stands still: a failure is a microsecond later than
        the successes that `_count_rows` records with their time.
        """
        failed = traffic_class.is_failure or traffic_class.is_rejected
        time = max(self._microseconds(now) + failed, self._last_outcome + 1)
        self._last_outcome = time
        if traffic_class.is_rejected:
            traffic_class.authentications.fail(time)
        elif failed:
            traffic_class.outcomes.fail(time)
        else:
            traffic_class.outcomes.succeed(time)
            if traffic_class.authentications is not None:
                traffic_class.authentications.succeed(time)

    def _microseconds(self, now: float) -> int:
        return max(int((now + self._offset) * 1e6), self._first_outcome)

    def _count_rows(self) -> None:
        """Count the requests of all rows in the second in which they ended."""
        # Reset first: if these rows cannot be counted, the next ones still can.
        rows, self._rows = self._rows, {}
        bucket, add = self._bucket, self._add
        classes: list[TrafficClass] = []
        for key, (requests, tokens, succeeded_at, _, traffic_class) in rows.items():
            if not traffic_class.requests:
                classes.append(traffic_class)
            traffic_class.requests += requests
            tenant = _name(key[-2])
            if traffic_class.is_traffic:
                add(bucket.tenants, tenant, requests | tokens << SHIFT, OVERFLOW)
            if traffic_class.is_rated:
                name, failures = _name(key[-1]), requests if traffic_class.fails_key else 0
                name = add(bucket.keys, name, requests | failures << SHIFT, OVERFLOW)
                if traffic_class.is_failure and traffic_class.upstream:
                    failure = ("key", name, traffic_class.upstream)
                    add(bucket.failures_by_upstream, failure, requests, OVERFLOW_FAILURE)
            elif traffic_class.limited:
                add(bucket.limited, tenant, requests, OVERFLOW)
            if succeeded_at is not None:
                time = self._microseconds(succeeded_at)
                for outcomes in (traffic_class.outcomes, traffic_class.authentications):
                    if outcomes is not None:
                        outcomes.last_success = max(outcomes.last_success, time)
                        self._last_outcome = max(self._last_outcome, time)
        for traffic_class in classes:
            self._count_class(traffic_class, traffic_class.requests)
            traffic_class.requests = 0

    def _count_class(self, traffic_class: TrafficClass, requests: int) -> None:
        bucket, add, provider = self._bucket, self._add, traffic_class.provider
        failures = requests if traffic_class.is_failure else 0
        if traffic_class.is_traffic:
            bucket.arrivals[self._second] += requests
            if traffic_class.rate_limited:
                ours = requests if traffic_class.limited else 0
                add(bucket.rate_limited, provider, requests | ours << SHIFT, OVERFLOW)
        if traffic_class.is_rated:
            latency = (provider, traffic_class.bucket)
            add(bucket.latencies, latency, requests | failures << SHIFT, (OVERFLOW, 0))
        if failures and traffic_class.upstream:
            failure = ("provider", provider, traffic_class.upstream)
            add(bucket.failures_by_upstream, failure, failures, OVERFLOW_FAILURE)
            add(bucket.upstreams, traffic_class.upstream, failures, OVERFLOW_UPSTREAM)
        elif traffic_class.outcomes:
            traffic_class.outcomes.successes += requests

    def _add(
        self, counts: dict[_Subject, int], subject: _Subject, added: int, overflow: _Subject
    ) -> _Subject:
        """Add a packed count, and return the subject that it was counted as."""
        counted = counts.get(subject)
        if counted is None:
            if len(counts) >= self._max_names and subject != overflow:
                self.overflowed += added & FIRST
                subject = overflow
            counted = counts.get(subject, 0)
        counts[subject] = counted + added
        return subject


def _name(text: str | None) -> str:
    """Return the name of a tenant or key, which never equals that of the overflow."""
    if not text:
        return GATEWAY
    return _NO_OVERFLOW if text == OVERFLOW else valid_text(text)

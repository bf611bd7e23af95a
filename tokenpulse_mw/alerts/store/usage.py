"""Usage of models by hour, tenant, model and provider."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from itertools import islice
from operator import add, attrgetter
from typing import NamedTuple

from ...validation import check_choice, check_integer
from ..steps import Steps, batches

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """Usage of one tenant, model and provider in one hour, or in a step of several hours.

    Attributes:
        hour: Hours since the epoch at the beginning; 0 in a total.
        tenant: Id of the tenant; empty without one, and in rows of all tenants.
        model: Label of the model; empty in rows of all models.
        provider: Label of the provider; empty in rows of all providers.
        requests: Responses of models.
        input: Input tokens, cached ones included.
        output: Output tokens, reasoning included.
        cache_read: Part of `input` that was read from a cache.
        cache_write: Part of `input` that was written to a cache.
        reasoning: Part of `output` that was hidden reasoning.
        cost_nanos: Known cost in billionths of a US dollar.
        unpriced: Requests whose cost is unknown or a minimum.
    """

    hour: int
    tenant: str
    model: str
    provider: str
    requests: int = 0
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cost_nanos: int = 0
    unpriced: int = 0

    @property
    def key(self) -> _Key:
        """The tenant, the model and the provider."""
        return self.tenant, self.model, self.provider

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers, in the order of `USAGE_COUNTS`."""
        return tuple(getattr(self, name) for name in USAGE_COUNTS)


USAGE_DIMENSIONS = ("tenant", "model", "provider")
USAGE_COUNTS = tuple(field.name for field in fields(UsageRecord))[4:]
_READ_AT_ONCE = 250
_counts_of = attrgetter(*USAGE_COUNTS)


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Selection of the stored usage.

    Attributes:
        first: First hour since the epoch.
        last: Hour after the last one.
        by: Dimensions of the rows, of `USAGE_DIMENSIONS`; the others are summed up.
        step: Hours of a row; None for one row over the whole time. Days begin at midnight UTC.
        tenant: Select the usage of this tenant only; None for that of all.
        limit: Maximum number of rows.

    Raises:
        ValueError: A dimension is unknown or repeated, `last` is not after `first`, or `step` or
            `limit` is not above 0.
    """

    first: int
    last: int
    by: tuple[str, ...] = ()
    step: int | None = None
    tenant: str | None = None
    limit: int = 10_000

    def __post_init__(self) -> None:
        for name in self.by:
            check_choice("by", name, USAGE_DIMENSIONS)
        if len(set(self.by)) < len(self.by):
            raise ValueError(f"by must have each dimension once, got {self.by}")
        if self.last <= self.first:
            raise ValueError(f"last must be after first, got {self.first} and {self.last}")
        if self.step is not None:
            check_integer("step", self.step)
        check_integer("limit", self.limit)


def add_usage(records: Iterable[UsageRecord]) -> list[UsageRecord]:
    """Return the sums of records of the same hour, tenant, model and provider."""
    totals: dict[tuple[int, *_Key], tuple[int, ...]] = {}
    for record in records:
        key = record.hour, *record.key
        total = totals.get(key)
        counts = record.counts
        totals[key] = counts if total is None else tuple(map(add, total, counts))
    return [UsageRecord(*key, *counts) for key, counts in totals.items()]


class UsageRevision(NamedTuple):
    """Usage of an hour, tenant, model and provider, and how often it has grown.

    Attributes:
        usage: The usage.
        revision: Number of additions to it.
    """

    usage: UsageRecord
    revision: int


def _kept(name: str, is_kept: bool) -> str:
    return name if is_kept else ""


class MemoryUsage:
    """Usage of the last hours, in memory.

    Args:
        max_hours: Number of hours that are kept.
        max_rows: Maximum number of rows; the oldest hours beyond it are dropped.
    """

    def __init__(self, *, max_hours: int = 48, max_rows: int = 50_000) -> None:
        self._max_hours, self._max_rows = max_hours, max_rows
        # By hour and key: the usage, its revision, and the revision that was exported.
        self._hours: dict[int, dict[_Key, tuple[UsageRecord, int, int]]] = {}
        self._totals: dict[int, UsageRecord] = {}  # of each hour

    def add(self, records: Iterable[UsageRecord]) -> None:
        """Add usage to that of its hour."""
        for record in add_usage(records):
            rows = self._hours.setdefault(record.hour, {})
            before, revision, exported = rows.get(record.key, (None, 0, 0))
            total = record if before is None else add_usage((before, record))[0]
            rows[record.key] = total, revision + 1, exported
            all_of_hour = replace(record, tenant="", model="", provider="")
            sums = self._totals.get(record.hour)
            self._totals[record.hour] = add_usage(
                (all_of_hour,) if sums is None else (sums, all_of_hour)
            )[0]
        for hour in sorted(self._hours)[: -self._max_hours]:
            self._drop(hour)
        while len(self._hours) > 1 and sum(map(len, self._hours.values())) > self._max_rows:
            self._drop(min(self._hours))

    def _drop(self, hour: int) -> None:
        del self._hours[hour], self._totals[hour]

    def read(self, query: UsageQuery) -> Steps[tuple[UsageRecord, ...]]:
        """Return the usage by time and dimensions, in bounded steps."""
        totals: dict[tuple[int, *_Key], tuple[int, ...]] = {}
        is_kept = [name in query.by for name in USAGE_DIMENSIONS]
        whole = query.tenant is None and not query.by
        for hour in [hour for hour in self._hours if query.first <= hour < query.last]:
            start = 0 if query.step is None else hour - hour % query.step
            # Copies, because usage may be added and dropped between two steps.
            records = [record for record, _, _ in self._hours.get(hour, {}).values()]
            if whole:
                records = [self._totals[hour]] if hour in self._totals else []
            for batch in batches(records, _READ_AT_ONCE):
                for record in batch:
                    if query.tenant in (None, record.tenant):
                        tenant, model, provider = map(_kept, record.key, is_kept)
                        key = start, tenant, model, provider
                        total, counts = totals.get(key), _counts_of(record)
                        totals[key] = counts if total is None else tuple(map(add, total, counts))
                yield
        keys = sorted(totals)[: query.limit]
        yield
        result: list[UsageRecord] = []
        for part in batches(keys, _READ_AT_ONCE):
            result += [UsageRecord(*key, *totals[key]) for key in part]
            yield
        return tuple(result)

    def unexported(self, before: int, limit: int) -> tuple[UsageRevision, ...]:
        """Return the usage of hours before `before` that has grown since its export."""
        grown = (
            UsageRevision(usage, revision)
            for hour in sorted(self._hours)
            if hour < before
            for _, (usage, revision, exported) in sorted(self._hours[hour].items())
            if revision > exported
        )
        return tuple(islice(grown, limit))

    def confirm_export(self, revisions: Iterable[UsageRevision]) -> None:
        """Record that revisions were exported."""
        for usage, revision in revisions:
            rows = self._hours.get(usage.hour, {})
            if usage.key in rows:
                total, newest, _ = rows[usage.key]
                rows[usage.key] = total, newest, revision

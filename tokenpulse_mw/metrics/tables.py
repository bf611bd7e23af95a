"""All families of one registry with their rows, as a collector that prometheus_client knows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from itertools import accumulate
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from . import families, render
from .families import Family
from .rows import CounterRows, HistogramRows, Labels


class Tables:
    """The rows of every family; one for each registry, however often it is asked for.

    Args:
        most: Series that each family keeps.
        buckets: Upper bounds of the histograms of durations, in seconds.
    """

    def __init__(self, *, most: int, buckets: tuple[float, ...] = families.SECONDS) -> None:
        def counter(family: Family) -> CounterRows:
            return CounterRows(family, most=most, on_overflow=self._overflowed)

        def histogram(family: Family) -> HistogramRows:
            return HistogramRows(family, most=most, on_overflow=self._overflowed)

        self.buckets = buckets
        self.in_progress = 0
        self.duration = histogram(families.DURATION._replace(buckets=buckets))
        self.first_byte = histogram(families.FIRST_BYTE._replace(buckets=buckets))
        self.first_token = histogram(families.FIRST_TOKEN._replace(buckets=buckets))
        self.per_token = histogram(families.PER_TOKEN)
        self.responses = counter(families.RESPONSES)
        self.tokens = counter(families.TOKENS)
        self.usage = counter(families.USAGE)
        self.decisions = counter(families.DECISIONS)
        self.self_errors = counter(families.SELF_ERRORS)
        # Not capped: its labels are our own names, and it could not tell of an overflow of its own.
        self.overflow = CounterRows(
            families.OVERFLOW, most=sys.maxsize, on_overflow=self._overflowed
        )
        self._rendering: ContextVar[bool] = ContextVar("tokenpulse_mw_rendering", default=False)

    def collect(self) -> Iterator[Metric]:
        """Every family as prometheus_client's own objects, for registries that others expose."""
        if self._rendering.get():
            return
        for family, rows in self._counters():
            yield _simple_metric(family, rows)
        for table in self._histograms():
            yield _histogram_metric(table)

    def describe(self) -> Iterator[Metric]:
        """The families without their series, by which a registry finds clashes of names."""
        for family, _ in self._counters():
            yield _simple_metric(family, {})
        for table in self._histograms():
            yield HistogramMetricFamily(table.family.name, table.family.help)

    def render(self, registry: CollectorRegistry) -> bytes:
        """All of `registry` in the Prometheus text format, our own rows by the short way."""
        lines: list[str] = []
        for family, rows in self._counters():
            lines += render.counter(family, rows)
        for table in self._histograms():
            lines += render.histogram(table.family, table.rows)
        # Our own collector keeps silent in this context, not in another thread's collection.
        token = self._rendering.set(True)
        try:
            rest = generate_latest(registry)
        finally:
            self._rendering.reset(token)
        return "".join(lines).encode() + rest

    def _counters(self) -> Iterable[tuple[Family, Mapping[Labels, float]]]:
        yield families.REQUESTS, self.duration.counts()
        yield families.IN_PROGRESS, {(): self.in_progress}
        for table in (self.responses, self.tokens, self.usage, self.decisions):
            yield table.family, table.rows
        yield families.SELF_ERRORS, self.self_errors.rows
        yield families.OVERFLOW, self.overflow.rows

    def _histograms(self) -> tuple[HistogramRows, ...]:
        return self.duration, self.first_byte, self.first_token, self.per_token

    def _overflowed(self, family: Family) -> None:
        self.overflow.add((family.name,))


_SHARED: WeakKeyDictionary[CollectorRegistry, Tables] = WeakKeyDictionary()


def tables_of(
    registry: CollectorRegistry, *, most: int, buckets: tuple[float, ...] | None = None
) -> Tables:
    """The tables registered on `registry`, made at the first call.

    Raises:
        ValueError: Somebody else has registered one of our names there, or we have with other
            buckets.
    """
    tables = Tables(most=most, buckets=buckets or families.SECONDS)
    try:
        registry.register(tables)
    except ValueError as clash:
        if registry not in _SHARED:
            raise ValueError(f"another collector of this registry has our names: {clash}") from None
        shared = _SHARED[registry]
        if buckets not in (None, shared.buckets):
            raise ValueError(
                f"this registry has our families with buckets {shared.buckets!r}, got {buckets!r}"
            ) from None
        return shared
    _SHARED[registry] = tables
    return tables


def _simple_metric(family: Family, rows: Mapping[Labels, float]) -> Metric:
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, value in list(rows.items()):
        metric.add_metric([str(label) for label in labels], value)
    return metric


def _histogram_metric(table: HistogramRows) -> Metric:
    family = table.family
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    bounds = [render.number(bound) for bound in (*family.buckets, float("inf"))]
    for labels, row in list(table.rows.items()):
        buckets = list(zip(bounds, accumulate(row[1:]), strict=True))
        metric.add_metric([str(label) for label in labels], buckets, sum_value=row[0])
    return metric

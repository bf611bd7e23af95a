"""Collector of prometheus_client for the tables of this package, one per registry."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from math import inf
from weakref import WeakKeyDictionary, WeakValueDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from . import families
from .multiprocess import WorkerTables
from .rows import Series
from .tables import Tables
from .text_format import number

_hidden: ContextVar[bool] = ContextVar("tokenpulse_mw_hidden", default=False)


class TablesCollector(Collector):
    """Collector that exposes tables through any exposition of prometheus_client."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def collect(self) -> Iterator[Metric]:
        """Yield every family as a metric of prometheus_client."""
        if not _hidden.get():
            self.tables.callbacks.refresh()
            yield from map(_metric, self.tables.series())

    def describe(self) -> Iterator[Metric]:
        """Yield the families without series; a registry detects duplicate names by them."""
        for rows in self.tables.all:
            yield _metric((rows.family, {}))


@contextmanager
def hidden() -> Iterator[None]:
    """Exclude `TablesCollector` from scrapes in this context; other threads are not affected."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


# The files of a worker are independent of registries, so a process has one table per folder.
_MULTIPROCESS: WeakValueDictionary[str, WorkerTables] = WeakValueDictionary()
_COLLECTORS: WeakKeyDictionary[CollectorRegistry, TablesCollector] = WeakKeyDictionary()


def tables_of(
    registry: CollectorRegistry,
    *,
    max_series: int,
    buckets: tuple[float, ...] | None = None,
    folder: str | None = None,
) -> Tables:
    """Return the tables registered on `registry`; register them on the first call.

    Args:
        registry: Registry that exposes the tables.
        max_series: Maximum number of series per family.
        buckets: Upper bounds of the duration histograms in seconds; the default if None.
        folder: Folder shared by several worker processes; None for a single process.

    Raises:
        ValueError: Another collector has registered one of the names, or the tables have other
            buckets, or `folder` is not usable.
    """
    collector = TablesCollector(_tables(folder, max_series=max_series, buckets=buckets))
    try:
        registry.register(collector)
    except ValueError as error:
        if registry not in _COLLECTORS:
            raise ValueError(
                f"registry must not have another collector of tokenpulse metrics: {error}"
            ) from None
        return _check_buckets(_COLLECTORS[registry].tables, buckets)
    _COLLECTORS[registry] = collector
    return collector.tables


def _tables(folder: str | None, *, max_series: int, buckets: tuple[float, ...] | None) -> Tables:
    bounds = buckets or families.DURATION_BUCKETS
    if folder is None:
        return Tables(max_series=max_series, buckets=bounds)
    folder = os.path.realpath(folder)
    tables = _MULTIPROCESS.get(folder)
    if tables is None:
        tables = WorkerTables(folder, max_series=max_series, buckets=bounds)
        _MULTIPROCESS[folder] = tables
    return _check_buckets(tables, buckets)


def _check_buckets(tables: Tables, buckets: tuple[float, ...] | None) -> Tables:
    if buckets not in (None, tables.buckets):
        raise ValueError(
            f"buckets must be {tables.buckets!r}, as already registered, got {buckets!r}"
        )
    return tables


def _metric(series: Series) -> Metric:
    family, rows = series
    if family.kind == "histogram":
        bounds = [number(bound) for bound in (*family.buckets, inf)]
        histogram = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        for labels, row in rows.items():
            buckets = list(zip(bounds, accumulate(row[1:]), strict=True))
            histogram.add_metric([str(label) for label in labels], buckets, sum_value=row[0])
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=family.labels)
    for labels, row in rows.items():
        metric.add_metric([str(label) for label in labels], row[0])
    return metric

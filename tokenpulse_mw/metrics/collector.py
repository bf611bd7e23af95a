"""Our families as a collector that prometheus_client knows; one for each registry."""

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

_hidden: ContextVar[bool] = ContextVar("tokenpulse_mw_silent", default=False)


class TablesCollector(Collector):
    """Shows tables to a registry, for whatever else exposes it."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables

    def collect(self) -> Iterator[Metric]:
        """Every family as prometheus_client's own objects."""
        if not _hidden.get():
            self.tables.looked_up.refresh()
            yield from map(_metric, self.tables.series())

    def describe(self) -> Iterator[Metric]:
        """The families without their series, by which a registry finds clashes of names."""
        for rows in self.tables.all:
            yield _metric((rows.family, {}))


@contextmanager
def hidden() -> Iterator[None]:
    """Let our collectors show nothing in this context, though in no other thread's."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


# Workers' files know nothing of registries: all of a process show the same.
_MULTIPROCESS: WeakValueDictionary[str, WorkerTables] = WeakValueDictionary()
_COLLECTORS: WeakKeyDictionary[CollectorRegistry, TablesCollector] = WeakKeyDictionary()


def tables_of(
    registry: CollectorRegistry,
    *,
    most: int,
    buckets: tuple[float, ...] | None = None,
    folder: str | None = None,
) -> Tables:
    """The tables registered on `registry`, made at the first call.

    Args:
        registry: Where they are shown.
        most: Series that each family keeps.
        buckets: Upper bounds of the histograms of durations, in seconds; the default when None.
        folder: Where several workers count together; None for one process.

    Raises:
        ValueError: Somebody else has registered one of our names there, or we have with other
            buckets; or `folder` cannot be used.
    """
    made = TablesCollector(_tables(folder, most=most, buckets=buckets))
    try:
        registry.register(made)
    except ValueError as clash:
        if registry not in _COLLECTORS:
            raise ValueError(f"another collector of this registry has our names: {clash}") from None
        return _checked(_COLLECTORS[registry].tables, buckets)
    _COLLECTORS[registry] = made
    return made.tables


def _tables(folder: str | None, *, most: int, buckets: tuple[float, ...] | None) -> Tables:
    if not folder:
        return Tables(most=most, buckets=buckets or families.DURATION_BUCKETS)
    folder = os.path.realpath(folder)
    tables = _MULTIPROCESS.get(folder)
    if tables is None:
        tables = WorkerTables(folder, most=most, buckets=buckets or families.DURATION_BUCKETS)
        _MULTIPROCESS[folder] = tables
    return _checked(tables, buckets)


def _checked(tables: Tables, buckets: tuple[float, ...] | None) -> Tables:
    """`tables`, if they have these buckets, or no others are asked for."""
    if buckets not in (None, tables.buckets):
        raise ValueError(
            f"our families are there already with buckets {tables.buckets!r}, got {buckets!r}"
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

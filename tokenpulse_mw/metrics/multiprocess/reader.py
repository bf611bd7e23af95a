"""Merges the rows of all workers of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from math import inf
from operator import add
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ...outages import Outages
from ..families import Family
from .entries import HEAD_BYTES, LabelValues, UsedPart, parse_rows, read_used
from .slots import SlotFile, check_locks, is_live, slot_files

_log = logging.getLogger("tokenpulse_mw.metrics")

Rows = dict[LabelValues, list[float]]
Slices = list[tuple[LabelValues, slice]]


class _Index(NamedTuple):
    """Slices of the rows of a file. Rows do not move, so an index only grows."""

    stamp: bytes
    end: int
    slices: dict[Family, Slices]


class Workers:
    """Reader that merges the rows of all worker processes, including those that have ended.

    Counters and histograms always count, gauges only while their worker is alive. Several
    processes and threads may read at the same time.

    Args:
        folder: Folder shared by all workers.

    Raises:
        ValueError: The system does not support `flock`.
    """

    def __init__(self, folder: str | Path) -> None:
        check_locks()
        self._folder = Path(folder)
        self._indexes: dict[str, _Index] = {}  # replaced as a whole: threads may read it
        self._outages = Outages(_log)

    def series(self) -> dict[str, tuple[Family, Rows]]:
        """Return the merged rows of each family by its name.

        Files that cannot be read are logged and left out.
        """
        merged: dict[Family, Rows] = {}
        indexes: dict[str, _Index] = {}
        for file in self._files():
            name = file.path.name
            try:
                used = read_used(file.path)
            except FileNotFoundError:  # gauges of a worker that has just ended
                continue
            except OSError as error:
                self._failed(name, str(error))
                continue
            index = indexes[name] = self._index(file, used)
            doubles = memoryview(used.data).cast("d")
            for family, slices in index.slices.items():
                add_rows(family, merged.setdefault(family, {}), slices, doubles)
            if used.damage is None and index.end == len(used.data):
                self._recovered(name)
        self._indexes = indexes
        return merge_by_name(merged)

    def count(self) -> int:
        """Return the number of live workers that have requests in progress, or had one."""
        return sum(file.kind == "gauge" for file in self._files())

    def _files(self) -> list[SlotFile]:
        """Return the files whose rows count, in a stable order."""
        try:
            files = [f for f in sorted(slot_files(self._folder)) if is_live(self._folder, f)]
        except OSError as error:
            self._failed("", str(error))
            return []
        self._recovered("")
        return files

    def _index(self, file: SlotFile, used: UsedPart) -> _Index:
        name = file.path.name
        index = self._indexes.get(name)
        if index is None or index.stamp != used.stamp or index.end > len(used.data):
            index = _Index(used.stamp, HEAD_BYTES, {})
        if index.end == len(used.data) and used.damage is None:
            return index
        rows, end, damage = parse_rows(used, file.kind, index.end)
        if damage is not None:
            self._failed(name, damage)
        slices = {family: list(known) for family, known in index.slices.items()}
        for row in rows:
            slices.setdefault(row.family, []).append((row.labels, row.values))
        return _Index(used.stamp, end, slices)

    def _failed(self, name: str, problem: str) -> None:
        self._outages.failed(
            name,
            "metrics of workers are missing from the scrape: cannot read path=%s error=%s",
            self._folder / name,
            problem,
        )

    def _recovered(self, name: str) -> None:
        self._outages.recovered(
            name, "metrics of workers are in the scrape again: path=%s", self._folder / name
        )


class _ClientCollector(Collector):
    """Collector of the metrics that prometheus_client itself writes to the folder."""

    def __init__(self, folder: Path, of: CollectorRegistry) -> None:
        self._folder = folder
        self._of = of

    def collect(self) -> Iterable[Metric]:
        paths = (path for path in self._folder.glob("*.db") if not path.match("*-tokenpulse.db"))
        files = list(map(str, paths))
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        if self._of is REGISTRY:
            return metrics
        names = {metric.name for metric in self._of.collect()}
        return [metric for metric in metrics if metric.name in names]


def client_registry(folder: str | Path, of: CollectorRegistry) -> CollectorRegistry:
    """Return a registry of the metrics that prometheus_client itself writes to `folder`.

    The folder has the metrics of all registries of a process. Only those that are also on `of` are
    returned, except for the default registry, which stands for all of them.
    """
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(_ClientCollector(Path(folder), of))
    return registry


def add_rows(family: Family, rows: Rows, slices: Slices, doubles: memoryview[float]) -> None:
    """Merge the rows of a file, given by its `doubles`, into `rows` of `family`."""
    merge = _merge_function(family)
    for labels, values in slices:
        row = doubles[values]
        total = rows.get(labels)
        rows[labels] = list(row) if total is None else list(map(merge, total, row))


def merge_by_name(tables: Mapping[Family, Rows]) -> dict[str, tuple[Family, Rows]]:
    """Merge families of the same name, which workers of different versions may have.

    The result has the labels of all of them (Prometheus treats an empty label as absent) and the
    buckets of all of them (a count stays at its bound). If the types differ, the first one counts.
    """
    families: dict[str, list[Family]] = {}
    for family in tables:
        families.setdefault(family.name, []).append(family)
    return {
        name: (same[0], tables[same[0]]) if len(same) == 1 else _merge(same, tables)
        for name, same in families.items()
    }


def _merge_function(family: Family) -> Callable[[float, float], float]:
    return add if family.merge == "sum" else max


def _merge(families: Iterable[Family], tables: Mapping[Family, Rows]) -> tuple[Family, Rows]:
    first, *_ = families
    same_kind = [family for family in families if family.kind == first.kind]
    union = first._replace(
        labels=tuple(dict.fromkeys(label for family in same_kind for label in family.labels)),
        buckets=tuple(sorted({bound for family in same_kind for bound in family.buckets})),
    )
    rows: Rows = {}
    for family in same_kind:
        for labels, row in tables[family].items():
            pairs = dict(zip(family.labels, labels, strict=True))
            key = tuple(pairs.get(label, "") for label in union.labels)
            cells = dict(zip(_columns(family), row, strict=True))
            values = [cells.get(column, 0.0) for column in _columns(union)]
            total = rows.get(key)
            rows[key] = (
                values if total is None else list(map(_merge_function(union), total, values))
            )
    return union, rows


def _columns(family: Family) -> tuple[float | None, ...]:
    """Return the columns of a row: None for the sum or the value, then the bucket bounds."""
    return (None, *family.buckets, inf) if family.kind == "histogram" else (None,)

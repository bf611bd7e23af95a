"""What all workers of a folder have counted together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from math import inf
from operator import add
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from ...outages import Outages
from ..families import Family
from .entries import HEAD, LabelPairs, Used, contents, read_used
from .slots import SlotFile, check_locks, counts, slot_files

_log = logging.getLogger("tokenpulse_mw.metrics")


class _Index(NamedTuple):
    """Where the rows of a file are. Rows do not move, so this is only ever added to."""

    stamp: bytes
    end: int
    places: dict[Family, Places]


class Workers:
    """Adds up the rows of all worker processes, the living and the dead.

    Counters and histograms count for ever, gauges while their worker lives. Any process may ask,
    and any number of them at the same time.

    Args:
        folder: That of all workers together.

    Raises:
        ValueError: Files cannot be locked here.
    """

    def __init__(self, folder: str | Path) -> None:
        check_locks()
        self._folder = Path(folder)
        self._known: dict[str, _Index] = {}  # replaced whole, so that threads may ask together
        self._outages = Outages(_log)

    def series(self) -> dict[str, tuple[Family, Rows]]:
        """Every family that a worker has counted in, by its name, with its rows.

        What cannot be read is left out and logged.
        """
        sums: dict[Family, Rows] = {}
        known: dict[str, _Index] = {}
        for file in self._files():
            name = file.path.name
            try:
                used = read_used(file.path)
            except FileNotFoundError:  # a gauge's, whose worker has just ended
                continue
            except OSError as error:
                self._failed(name, str(error))
                continue
            index = known[name] = self._index(file, used)
            doubles = memoryview(used.data).cast("d")
            for family, places in index.places.items():
                add_rows(family, sums.setdefault(family, {}), places, doubles)
            if used.damage is None and index.end == len(used.data):
                self._outages.recovered(name, "%s can be read again", file.path)
        self._known = known
        return by_name(sums)

    def _files(self) -> list[SlotFile]:
        """The files whose rows count, in an order that does not change."""
        try:
            files = [f for f in sorted(slot_files(self._folder)) if counts(self._folder, f)]
            self._outages.recovered("", "%s can be read again", self._folder)
            return files
        except OSError as error:
            self._failed("", str(error))
            return []

    def _index(self, file: SlotFile, used: Used) -> _Index:
        name = file.path.name
        known = self._known.get(name)
        if known is None or known.stamp != used.stamp or known.end > len(used.data):
            known = _Index(used.stamp, HEAD, {})
        if known.end == len(used.data) and used.damage is None:
            return known
        found, end, damage = contents(used, file.kind, known.end)
        if damage is not None:
            self._failed(name, damage)
        places = {family: list(rows) for family, rows in known.places.items()}
        for row in found:
            places.setdefault(row.family, []).append((row.labels, row.place))
        return _Index(used.stamp, end, places)

    def _failed(self, name: str, problem: str) -> None:
        self._outages.failed(
            name,
            "the metrics of some workers are missing, %s cannot be read: %s",
            self._folder / name,
            problem,
        )


_OURS = "-tokenpulse.db"


class _Stock(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        files = [str(path) for path in self._folder.glob("*.db") if not path.name.endswith(_OURS)]
        metrics: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return metrics


def stock_registry(folder: str | Path) -> CollectorRegistry:
    """A registry that shows the metrics of prometheus_client's files in `folder`, ours left out."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(_Stock(Path(folder)))
    return registry


Rows = dict[LabelPairs, list[float]]


Places = list[tuple[LabelPairs, slice]]


def add_rows(family: Family, rows: Rows, places: Places, doubles: memoryview[float]) -> None:
    """Add to `rows` of `family` those that a file has among its `doubles`."""
    together = _together(family)
    for labels, place in places:
        row = doubles[place]
        have = rows.get(labels)
        rows[labels] = list(row) if have is None else list(map(together, have, row))


def by_name(sums: Mapping[Family, Rows]) -> dict[str, tuple[Family, Rows]]:
    """One family for each name.

    Where workers have a family in different shapes, the result has the labels of all (one that a
    worker does not know is empty, which Prometheus takes for absent) and the buckets of all (each
    count stays under the bound that it was counted for). Of one name in two types the first is
    taken.
    """
    shapes: dict[str, list[Family]] = {}
    for family in sums:
        shapes.setdefault(family.name, []).append(family)
    return {
        name: (families[0], sums[families[0]]) if len(families) == 1 else _merged(families, sums)
        for name, families in shapes.items()
    }


def _together(family: Family) -> Callable[[float, float], float]:
    return min if family.merge == "min" else add


def _merged(families: Iterable[Family], sums: Mapping[Family, Rows]) -> tuple[Family, Rows]:
    first, *_ = families
    alike = [family for family in families if family.kind == first.kind]
    whole = first._replace(
        labels=tuple(dict.fromkeys(label for family in alike for label in family.labels)),
        buckets=tuple(sorted({bound for family in alike for bound in family.buckets})),
    )
    rows: Rows = {}
    for family in alike:
        for labels, row in sums[family].items():
            named = dict(zip(family.labels, labels, strict=True))
            key = tuple(named.get(label, "") for label in whole.labels)
            valued = dict(zip(_columns(family), row, strict=True))
            values = [valued.get(column, 0.0) for column in _columns(whole)]
            have = rows.get(key)
            rows[key] = values if have is None else list(map(_together(whole), have, values))
    return whole, rows


def _columns(family: Family) -> tuple[float | None, ...]:
    """What each value of a row is: None for the sum or the value, else a bucket's bound."""
    return (None, *family.buckets, inf) if family.kind == "histogram" else (None,)

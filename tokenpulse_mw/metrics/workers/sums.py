"""Rows of several workers added up, also where they come from different versions of a gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from operator import add

from ..families import Family
from .entries import Labels

Rows = dict[Labels, list[float]]
Places = list[tuple[Labels, slice]]


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

"""Rows as Prometheus text, straight from the rows: many times faster than by sample objects.

The format is https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.utils import floatToGoString

from .families import Family
from .rows import Labels


def counter(family: Family, rows: Mapping[Labels, float]) -> Iterator[str]:
    """Lines of a counter or a gauge."""
    yield _head(family)
    for labels, value in list(rows.items()):
        pairs = _pairs(family, labels)
        yield f"{family.name}{'{' + pairs + '}' if pairs else ''} {number(value)}\n"


def histogram(family: Family, rows: Mapping[Labels, list[float]]) -> Iterator[str]:
    """Lines of a histogram: cumulative buckets, count and sum of each series."""
    yield _head(family)
    name = family.name
    bounds = [f'le="{number(bound)}"}} ' for bound in (*family.buckets, float("inf"))]
    for labels, row in list(rows.items()):
        pairs = _pairs(family, labels)
        bucket = f"{name}_bucket{{{pairs}{',' if pairs else ''}"
        totals = list(accumulate(row[1:]))
        for bound, total in zip(bounds, totals, strict=True):
            yield f"{bucket}{bound}{total}.0\n"
        pairs = f"{{{pairs}}}" if pairs else ""
        yield f"{name}_count{pairs} {totals[-1]}.0\n{name}_sum{pairs} {number(row[0])}\n"


def number(value: float) -> str:
    """A sample's value as Go, and so Prometheus, writes it."""
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _head(family: Family) -> str:
    return f"# HELP {family.name} {family.help}\n# TYPE {family.name} {family.kind}\n"


def _pairs(family: Family, labels: Labels) -> str:
    named = zip(family.labels, labels, strict=True)
    return ",".join(f'{name}="{_escaped(str(value))}"' for name, value in named)


def _escaped(value: str) -> str:
    if "\\" in value or "\n" in value or '"' in value:
        return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return value

"""Prometheus text and OpenMetrics, rendered from rows without sample objects.

Specifications: https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format
and https://prometheus.io/docs/specs/om/open_metrics_spec/
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate
from math import inf

from prometheus_client.utils import floatToGoString

from .families import Family
from .rows import Labels, Row, Series

RenderRow = Callable[[Labels, Row], bytes]

# 32 histograms of 16 buckets take 0.25 ms. Their text stays below 128 KiB: malloc maps and unmaps
# larger blocks, which takes half as much time again.
ROWS_PER_CHUNK = 32
_MIN_EXPONENT_VALUE = 1_000_000  # Go writes larger integers with an exponent
_SAMPLES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def render_chunks(
    series: Iterable[Series], *, openmetrics: bool = False, names: Collection[str] = ()
) -> Iterator[bytes]:
    """Yield the text of `series` in chunks of at most `ROWS_PER_CHUNK` whole rows.

    Args:
        series: Families with their rows.
        openmetrics: Render OpenMetrics 1.0.0 without `# EOF` instead of text 0.0.4.
        names: Names of the samples to render, with suffixes such as `_bucket`; all if empty.
            Otherwise families without samples are omitted.
    """
    only = {name.encode() for name in names}
    for family, rows in series:
        labels = list(rows)  # not the items: their tuples would make garbage collections due
        samples = {(family.name + suffix).encode() for suffix in _SAMPLES[family.kind]}
        if only and (not labels or only.isdisjoint(samples)):
            continue
        head, render_row = _head(family, openmetrics), _row_of(family)
        for start in range(0, max(1, len(labels)), ROWS_PER_CHUNK):
            chunk = labels[start : start + ROWS_PER_CHUNK]
            text = b"".join([render_row(values, rows[values]) for values in chunk])
            yield head + (_restricted(text, only) if only else text)
            head = b""


def number(value: float) -> str:
    """Return a sample value as Go, and therefore Prometheus, formats it."""
    if -inf < value < _MIN_EXPONENT_VALUE:
        return repr(float(value))
    return str(floatToGoString(value))  # type: ignore[no-untyped-call]


def _head(family: Family, openmetrics: bool) -> bytes:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    if openmetrics:
        name, text = name.removesuffix("_total"), text.replace('"', r"\"")
    return f"# HELP {name} {text}\n# TYPE {name} {family.kind}\n".encode()


def _row_of(family: Family) -> RenderRow:
    return _histogram_row(family) if family.kind == "histogram" else _simple_row(family)


def _simple_row(family: Family) -> RenderRow:
    pairs_of = _pairs_of(family)
    template = (family.name + ("{%b}" if family.labels else "%b") + " %b\n").encode()

    def render_row(labels: Labels, row: Row) -> bytes:
        return template % (pairs_of(labels), number(row[0]).encode())

    return render_row


def _histogram_row(family: Family) -> RenderRow:
    """Return a function that renders a histogram with one template, in half the time of a join."""
    pairs_of, template = _pairs_of(family), _histogram_template(family)
    integers = template.replace(b"%b", b"%d.0", len(family.buckets) + 2)  # all but the sum

    def render_row(labels: Labels, row: Row) -> bytes:
        totals = list(accumulate(row[1:]))
        total, count = number(row[0]).encode(), totals[-1]
        if 0 <= count < _MIN_EXPONENT_VALUE:
            text = integers % (*totals, count, total)
        else:
            text = template % (*(number(value).encode() for value in (*totals, count)), total)
        # Labels are inserted last, since a label value may contain a placeholder.
        return text.replace(b"\0", pairs_of(labels))

    return render_row


def _histogram_template(family: Family) -> bytes:
    """Return the text of a row with `%b` for each number and a zero byte for the labels."""
    name = family.name
    comma, pairs = ("\0,", "{\0}") if family.labels else ("", "")
    bounds = [number(bound) for bound in (*family.buckets, inf)]
    buckets = "".join(f'{name}_bucket{{{comma}le="{bound}"}} %b\n' for bound in bounds)
    return f"{buckets}{name}_count{pairs} %b\n{name}_sum{pairs} %b\n".encode()


def _pairs_of(family: Family) -> Callable[[Labels], bytes]:
    """Return a function that renders the label pairs of a row, without braces."""
    template = ",".join(f'{name}="%s"' for name in family.labels)

    def pairs_of(labels: Labels) -> bytes:
        text = template % labels
        # Values that need escaping are rare, so check the whole text once.
        if "\\" in text or "\n" in text or text.count('"') != 2 * len(labels):
            text = template % tuple(_escaped(str(value)) for value in labels)
        return text.encode(errors="replace")

    return pairs_of


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _restricted(text: bytes, only: Collection[bytes]) -> bytes:
    """Return only the lines of the samples in `only`."""
    named = ((line.partition(b"{")[0].partition(b" ")[0], line) for line in text.split(b"\n"))
    return b"".join(line + b"\n" for name, line in named if name in only)

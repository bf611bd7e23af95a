"""Test families, and the samples of a folder as read by this package and prometheus_client."""

from __future__ import annotations

from itertools import accumulate
from math import inf
from pathlib import Path

from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.utils import floatToGoString

from tokenpulse_mw.metrics.families import Family
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers
from tokenpulse_mw.metrics.rows import Row

COUNTER = Family("jobs_total", "counter", "Jobs", ("name", "status"))
GAUGE = Family("jobs_running", "gauge", "Running jobs", ("name",))
MAX_GAUGE = Family("begun_seconds", "gauge", "Start time", ("name",), merge="max")
HISTOGRAM = Family("job_seconds", "histogram", "Time", ("name",), (0.5, 1, 1e6))

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def client_samples(folder: Path) -> Samples:
    """Return the samples as read by prometheus_client."""
    metrics = MultiProcessCollector(None, str(folder)).collect()  # type: ignore[no-untyped-call]
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def merged_samples(folder: Path) -> Samples:
    """Return the samples as read by this package, with cumulative buckets."""
    samples: Samples = {}
    for name, (family, rows) in Workers(folder).series().items():
        for labels, row in rows.items():
            pairs = frozenset(zip(family.labels, labels, strict=True))
            if family.kind != "histogram":
                samples[name, pairs] = row[0]
                continue
            bounds = (*family.buckets, inf)
            for bound, total in zip(bounds, accumulate(row[1:]), strict=True):
                samples[f"{name}_bucket", pairs | {("le", text(bound))}] = total
            samples[f"{name}_count", pairs] = sum(row[1:])
            samples[f"{name}_sum", pairs] = row[0]
    return samples


def text(bound: float) -> str:
    """Return a bucket bound as it is exposed."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


def row_of(files: WorkerFiles, family: Family, *labels: object) -> Row:
    """Return the row of `labels`."""
    return files.new_row(family, labels)


def value(folder: Path, family: Family, *labels: str) -> list[float] | None:
    """Return the merged row of `labels`, or None if it does not exist."""
    _, rows = Workers(folder).series().get(family.name, (family, {}))
    return rows.get(labels)

"""What a scrape costs: one process with few and many series, and several workers, some dead."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tokenpulse_mw import Exchange, HttpMetrics
from tokenpulse_mw.metrics.families import DURATION, REQUESTS
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers

SETS = (100, 1000, 5000)  # of labels
DEAD = 100  # workers


def milliseconds(call: Callable[[], object]) -> float:
    """The best of five."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times) * 1000


def ours(sets: int) -> HttpMetrics:
    """Metrics with so many series of the two families of requests."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=max(SETS))
    for route in range(sets):
        metrics(Exchange("GET", 0.0, f"/route/{route}", 200, "claude"))
    return metrics


def peers(sets: int) -> CollectorRegistry:
    """The same two families in prometheus_client's own metrics."""
    registry = CollectorRegistry()
    total = Counter(REQUESTS.name, REQUESTS.help, REQUESTS.labels, registry=registry)
    seconds = Histogram(
        DURATION.name, DURATION.help, DURATION.labels, registry=registry, buckets=DURATION.buckets
    )
    for route in range(sets):
        labels = ("GET", f"/route/{route}", "200", "claude")
        total.labels(*labels).inc()
        seconds.labels(*labels).observe(0.0)
    return registry


def measure_scrape() -> None:
    """How long /metrics takes, by the number of label sets of both families of requests."""
    print("\n/metrics: milliseconds, and prometheus_client's own for the same")
    for sets in SETS:
        metrics, registry = ours(sets), peers(sets)
        theirs = milliseconds(lambda registry=registry: generate_latest(registry))  # type: ignore[misc]
        print(f"  {sets:>5} label sets {milliseconds(metrics.render):8.1f}{theirs:10.1f}")


def count(files: WorkerFiles, sets: int) -> None:
    """Let a worker count in so many series of both families."""
    for route in range(sets):
        labels = ("GET", f"/route/{route}", "200", "claude")
        files.new_row(REQUESTS, labels)[0] += 1
        files.new_row(DURATION, labels)[1] += 1


def measure_workers() -> None:
    """How long a scrape takes to add up several workers with 1,000 label sets each."""
    print("\nadding up workers of 1,000 label sets: milliseconds, and the first time")
    for living, dead in ((1, 0), (4, 0), (4, DEAD)):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(dead):
                files = WorkerFiles(folder)
                count(files, 1000 if number == 0 else 1)
                files.close()
            workers = [WorkerFiles(folder) for _ in range(living)]
            for files in workers:
                count(files, 1000)
            reader = Workers(folder)
            began = time.perf_counter()
            reader.series()
            first = (time.perf_counter() - began) * 1000
            what = f"{living} alive, {dead} dead"
            print(f"  {what:<20}{milliseconds(reader.series):8.1f}{first:10.1f}")
            for files in workers:
                files.close()

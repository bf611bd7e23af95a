"""Time of a scrape, of a single process and of several workers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from tokenpulse_mw import Exchange, HttpMetrics
from tokenpulse_mw.metrics.families import DURATION, REQUESTS
from tokenpulse_mw.metrics.multiprocess import WorkerFiles, Workers

from .report import Cell, Summary, table

SETS = (100, 1000, 5000)  # of labels
ENDED = 100  # workers


def milliseconds(call: Callable[[], object]) -> float:
    """Return the shortest of five times."""
    times = []
    for _ in range(5):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times) * 1000


def ours(sets: int) -> HttpMetrics:
    """Return metrics with `sets` series of each of the two request families."""
    metrics = HttpMetrics(CollectorRegistry(), max_series=max(SETS))
    for route in range(sets):
        metrics(Exchange("GET", 0.0, f"/route/{route}", 200, "claude"))
    return metrics


def peers(sets: int) -> CollectorRegistry:
    """Return a registry with the same series as metrics of prometheus_client."""
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
    """Print the time of `/metrics` by the number of label sets."""
    rows: list[list[Cell]] = []
    for sets in SETS:
        metrics, registry = ours(sets), peers(sets)
        cost = milliseconds(metrics.render)
        reference = milliseconds(lambda registry=registry: generate_latest(registry))  # type: ignore[misc]
        rows.append([f"{sets:,}", cost, reference, cost / reference])
    columns = ("label sets", "CPU in ms", "prometheus_client", "share")
    table("scrape", columns, rows)


def count(files: WorkerFiles, sets: int) -> None:
    """Count in `sets` series of each of the two request families."""
    for route in range(sets):
        labels = ("GET", f"/route/{route}", "200", "claude")
        files.new_row(REQUESTS, labels)[0] += 1
        files.new_row(DURATION, labels)[1] += 1


def measure_workers() -> None:
    """Print the time to merge several workers with 1,000 label sets each."""
    rows: list[list[Cell]] = []
    for live, ended in ((1, 0), (4, 0), (4, ENDED)):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(ended):
                files = WorkerFiles(folder)
                count(files, 1000 if number == 0 else 1)
                files.close()
            workers = [WorkerFiles(folder) for _ in range(live)]
            for files in workers:
                count(files, 1000)
            reader = Workers(folder)
            began = time.thread_time()
            reader.series()
            first = (time.thread_time() - began) * 1000
            rows.append([f"{live} live, {ended} ended", milliseconds(reader.series), first])
            for files in workers:
                files.close()
    columns = ("workers", "CPU in ms", "first scrape")
    table("workers with 1,000 label sets each, merged", columns, rows)


def measure_scrapes() -> Summary:
    """Print the tables of scrapes."""
    measure_scrape()
    measure_workers()
    return []

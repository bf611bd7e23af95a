"""What prometheus_client's own metrics have counted in all workers, beside ours."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

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

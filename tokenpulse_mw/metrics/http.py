"""Observer that counts exchanges."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.openmetrics.exposition import UNDERSCORES

from ..exchange import Exchange, Models
from ..lifespan import background_tasks
from ..validation import check_integer
from .callbacks import Callback
from .collector import hidden, tables_of
from .families import check_buckets
from .multiprocess import folder_variable
from .negotiation import ScrapeRequest, render_body, render_others
from .rows import Series

DEFAULT_MAX_SERIES = 2000

_REFRESH_SECONDS = 1.0
_NANOS = 1e9  # nano-dollars of a US dollar


class HttpMetrics:
    """Observer of exchanges that fills the metric families of a registry.

    Several instances on one registry fill the same families. If PROMETHEUS_MULTIPROC_DIR, or the
    same in lower case, is set, all worker processes count in that folder, and a scrape of any
    worker returns their totals.

    Args:
        registry: Registry of the families; the default registry of prometheus_client if None.
        buckets: Ascending upper bounds of the duration histograms in seconds; 5 ms to 600 s if
            None. The time per output token has separate buckets.
        max_series: Maximum number of series per family. Further label sets are counted in one
            `__overflow__` series. The first instance on a registry sets it.
        folder: Folder in which all worker processes count if PROMETHEUS_MULTIPROC_DIR is not set;
            created if it is missing. Other collectors of the registry are not exposed then.
        models: Models that are counted by name; the first 200 that respond if None. Several workers
            each have their own first models.

    Attributes:
        models: The models that are counted by name.
        is_shared: True if several worker processes count together.

    Raises:
        ValueError: An argument is invalid, or the registry already has other buckets or another
            collector with the same names, or the folder of the workers is not usable.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        buckets: Sequence[float] | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
        folder: str | Path | None = None,
        models: Models | None = None,
    ) -> None:
        check_integer("max_series", max_series)
        self.registry = REGISTRY if registry is None else registry
        if not isinstance(self.registry, CollectorRegistry):
            raise ValueError(f"registry must be a CollectorRegistry, got {registry!r}")
        self.models = Models() if models is None else models
        if not isinstance(self.models, Models):
            raise ValueError(f"models must be Models(...), got {models!r}")
        bounds = None if buckets is None else check_buckets(buckets)
        self._tables = tables_of(
            self.registry,
            max_series=max_series,
            buckets=bounds,
            folder=_shared_folder(folder),
        )
        self.is_shared = self._tables.other_metrics is not None

    def __call__(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        tables = self._tables
        in_progress = tables.in_progress or tables.open_in_progress()
        in_progress[0] -= 1.0
        seconds = exchange.duration
        first_byte = exchange.time_to_first_byte
        kind = (
            exchange.method,
            exchange.route,
            exchange.status,
            exchange.provider,
            exchange.outcome,
            first_byte is None,
        )
        rows = tables.row_cache.get(kind)
        requests, durations, responses, first_bytes = rows or tables.request_rows(kind)
        requests[0] += 1.0
        responses[0] += 1.0
        bucket = 1 + bisect_left(tables.buckets, seconds)
        durations[0] += seconds
        durations[bucket] += 1.0
        if first_byte is not None and first_bytes is not None:
            if first_byte != seconds:  # equal if the response was sent in one piece
                bucket = 1 + bisect_left(tables.buckets, first_byte)
            first_bytes[0] += first_byte
            first_bytes[bucket] += 1.0
        if exchange.fault is not None:
            tables.failures.add((exchange.provider, exchange.fault))
        if exchange.usage_source is not None:
            self._count_usage(exchange)
        if exchange.cost_source is not None:
            self._count_cost(exchange)

    def __eq__(self, other: object) -> bool:
        # Stacked middlewares that fill the same tables count a request once.
        return isinstance(other, HttpMetrics) and other._tables is self._tables

    def __hash__(self) -> int:
        return hash(id(self._tables))

    def on_open(self) -> None:
        """Count an exchange as in progress."""
        in_progress = self._tables.in_progress or self._tables.open_in_progress()
        in_progress[0] += 1.0

    def on_drop(self) -> None:
        """Discard an exchange in progress, such as a probe or a scrape."""
        in_progress = self._tables.in_progress or self._tables.open_in_progress()
        in_progress[0] -= 1.0

    def on_websocket_accept(self) -> None:
        """Count a WebSocket as open."""
        self._tables.websockets.add(())

    def on_websocket_close(self) -> None:
        """Count a WebSocket as closed."""
        self._tables.websockets.add((), -1.0)

    def on_websocket_usage(self, exchange: Exchange) -> None:
        """Count the usage and the cost of a response of a model over a WebSocket."""
        self._count_usage(exchange)
        if exchange.cost_source is not None:
            self._count_cost(exchange)

    def on_error(self, component: str) -> None:
        """Count an error of `component` that did not affect the request."""
        self._tables.internal_errors.add((component,))

    def on_limit(self, policy: str, decision: str) -> None:
        """Count a rate limit decision: `allowed`, `limited`, `shadow` or `error`."""
        self._tables.decisions.add((policy, decision))

    def on_evaluation(self, result: str, seconds: float) -> None:
        """Count an evaluation of the alert rules with its result, `ok` or `error`."""
        self._tables.evaluations.add((result,))
        self._tables.evaluation_duration.observe((result,), seconds)

    def on_delivery(self, sink: str, result: str) -> None:
        """Count a delivery: `ok`, `error`, `timeout`, `rejected` or `dropped`."""
        self._tables.deliveries.add((sink, result))

    def on_heartbeat(self, result: str) -> None:
        """Count a heartbeat of the alert engine: `ok` or `error`."""
        self._tables.heartbeats.add((result,))

    def add_callback(self, name: str, callback: Callback) -> None:
        """Read the values of a family from `callback` at each scrape.

        Args:
            name: One of the families in `families.CALLBACK_FAMILIES`, such as
                `tokenpulse_rate_limit_keys`.
            callback: Returns values by tuples of label values, or None if they are unknown. A
                bound method is held weakly. Values of several callbacks with the same labels are
                added.

        Raises:
            ValueError: `name` is not a family with callbacks.
        """
        self._tables.callbacks.callbacks_of(name).add(callback)

    def refresh(self) -> None:
        """Read the callbacks; call it in the event loop whose tasks are counted.

        With several workers, also write rows that are only in memory because the disk was full.
        """
        self._tables.recover()
        self._tables.callbacks.refresh()

    def clear(self) -> None:
        """Remove all series of the registry's tables, except the requests in progress.

        If workers count together, this does nothing, because their files outlive the process.
        """
        if not self.is_shared:
            self._tables.clear()
            self.models.clear()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Refresh every second if other workers may be scraped; otherwise do nothing."""
        if not self.is_shared:
            yield
            return
        async with background_tasks(self._keep_refreshing):
            yield

    def series(self) -> list[Series]:
        """Return the families of this package with their rows, merged over all workers."""
        return self._tables.series()

    def workers(self) -> int:
        """Return the number of live processes that `series` counts."""
        return self._tables.workers()

    def own_series(self) -> list[Series]:
        """Return the families that this process counts, without the other workers.

        Rows of an earlier worker that this process continues are included from the first call on,
        so differences between two calls are what this process has counted.
        """
        return self._tables.own_series()

    def render_others(
        self, names: Sequence[str] = (), *, openmetrics: bool = False, escaping: str = UNDERSCORES
    ) -> bytes:
        """Render the other collectors of the registry with prometheus_client.

        Args:
            names: Names of the samples to render; all if empty.
            openmetrics: Render OpenMetrics 1.0.0 without `# EOF` instead of Prometheus text.
            escaping: Escaping scheme for names with UTF-8 characters.

        Raises:
            Exception: A collector of the registry raised it.
        """
        with hidden():
            merged = self._tables.other_metrics
            registry = self.registry if merged is None else merged(self.registry)
            return render_others(registry, names, openmetrics=openmetrics, escaping=escaping)

    def render(self) -> bytes:
        """Return the whole registry in the Prometheus text format 0.0.4."""
        self.refresh()
        return b"".join(render_body(self.series(), self.render_others(), ScrapeRequest()))

    async def _keep_refreshing(self) -> None:
        while True:
            self.refresh()
            await anyio.sleep(_REFRESH_SECONDS)

    def _count_usage(self, exchange: Exchange) -> None:
        tables, provider, usage = self._tables, exchange.provider, exchange.usage
        model = self.models.label_of(exchange)
        kind = (provider, model, exchange.usage_source, usage is not None)
        requests, tokens = tables.usage_row_cache.get(kind) or tables.usage_rows(kind)
        requests[0] += 1.0
        if usage is not None:
            inputs, outputs, cache_reads, cache_writes, reasoning = tokens
            inputs[0] += usage.input
            outputs[0] += usage.output
            cache_reads[0] += usage.cache_read
            cache_writes[0] += usage.cache_write
            reasoning[0] += usage.reasoning
        first = exchange.time_to_first_token
        if first is not None:
            tables.first_token.observe((provider, model), first)
            if usage is not None and usage.output > 1 and exchange.outcome == "complete":
                generation = exchange.duration - first
                tables.per_token.observe((provider, model), generation / (usage.output - 1))

    def _count_cost(self, exchange: Exchange) -> None:
        labels = (exchange.provider, self.models.label_of(exchange))
        if exchange.cost_nanos is None:
            self._tables.cost_missing.add(labels)
        else:
            self._tables.cost.add((*labels, exchange.cost_source), exchange.cost_nanos / _NANOS)


def _shared_folder(default: str | Path | None) -> str | None:
    """Return the folder of the workers, or None; prometheus_client has the same variable.

    Raises:
        ValueError: The variable is empty, for which prometheus_client would use the working folder,
            or the default cannot be created.
    """
    name = folder_variable()
    folder = os.environ.get(name)
    if folder == "":
        raise ValueError(f"{name} must be a writable folder, got '': remove the variable")
    if folder is not None or default is None:
        return folder
    try:
        Path(default).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"folder must be a folder that exists or can be created, got {str(default)!r}: "
            f"{error.strerror}"
        ) from None
    return str(default)

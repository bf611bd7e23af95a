"""What is counted of each exchange."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.openmetrics.exposition import UNDERSCORES

from ..exchange import Exchange
from ..lifespan import background_tasks
from .callbacks import Callback
from .collector import hidden, tables_of
from .families import check_buckets
from .negotiation import ScrapeRequest, render_body, render_others
from .rows import Series

DEFAULT_MAX_SERIES = 2000

_REFRESH_SECONDS = 1.0  # seconds
_TOKEN_KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")


class HttpMetrics:
    """An observer of exchanges that fills the metric families of a registry.

    Two of these on one registry fill the same families, so it may be made as often as wanted.
    Where PROMETHEUS_MULTIPROC_DIR is set, as prometheus_client has it, all workers count in that
    folder, and a scrape of any of them shows what they have counted together.

    Args:
        registry: Where the families are registered; prometheus_client's default when None, which
            is also what its own `/metrics` applications expose.
        buckets: Upper bounds of the histograms of durations, in seconds and ascending; 5 ms to
            600 s when None. The time per output token keeps its own.
        max_series: Series that each family keeps; what exceeds them is folded into one series of
            `__overflow__` labels and counted. The first on a registry decides.

    Raises:
        ValueError: An argument is malformed, or the registry has other buckets
            already, or another collector with our names; or the folder of several workers cannot
            be used.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        buckets: Sequence[float] | None = None,
        max_series: int = DEFAULT_MAX_SERIES,
    ) -> None:
        if type(max_series) is not int or max_series < 1:
            raise ValueError(f"max_series must be a whole number of at least 1, got {max_series!r}")
        self.registry = REGISTRY if registry is None else registry
        if not isinstance(self.registry, CollectorRegistry):
            raise ValueError(f"registry must be a CollectorRegistry, got {registry!r}")
        bounds = None if buckets is None else check_buckets(buckets)
        self._tables = tables_of(
            self.registry,
            most=max_series,
            buckets=bounds,
            folder=os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
        )

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
        requests, durations, responses, first_bytes = rows or tables.rows_of(kind)
        requests[0] += 1.0
        responses[0] += 1.0
        bucket = 1 + bisect_left(tables.buckets, seconds)
        durations[0] += seconds
        durations[bucket] += 1.0
        if first_byte is not None and first_bytes is not None:
            if first_byte != seconds:  # it is the same where all came in one piece
                bucket = 1 + bisect_left(tables.buckets, first_byte)
            first_bytes[0] += first_byte
            first_bytes[bucket] += 1.0
        if exchange.usage_source is not None:
            self._count_usage(exchange)

    def __eq__(self, other: object) -> bool:
        # Two that fill the same rows are one observer, so that stacking them counts once.
        return isinstance(other, HttpMetrics) and other._tables is self._tables

    def __hash__(self) -> int:
        return hash(id(self._tables))

    def on_open(self) -> None:
        """An exchange has begun."""
        in_progress = self._tables.in_progress or self._tables.open_in_progress()
        in_progress[0] += 1.0

    def on_drop(self) -> None:
        """An exchange that had begun turned out to be a probe or a scrape."""
        in_progress = self._tables.in_progress or self._tables.open_in_progress()
        in_progress[0] -= 1.0

    def on_error(self, component: str) -> None:
        """A part of this library failed, and the request went on without it."""
        self._tables.self_errors.add((component,))

    def on_limit(self, policy: str, decision: str) -> None:
        """A rate limit policy decided: `allowed`, `limited`, `shadow` or `error`."""
        self._tables.decisions.add((policy, decision))

    def on_evaluation(self, result: str, seconds: float) -> None:
        """A round of the alert rules took `seconds`: `ok` or `error`."""
        self._tables.evaluations.add((result,))
        self._tables.evaluation_duration.observe((result,), seconds)

    def on_delivery(self, sink: str, result: str) -> None:
        """A notification was handed to a sink of alerts: `ok`, `error` or `timeout`."""
        self._tables.deliveries.add((sink, result))

    def add_callback(self, name: str, source: Callback) -> None:
        """Look the values of a family up whenever it is read.

        Args:
            name: `tokenpulse_rate_limit_keys` (labels: policy), `tokenpulse_alerts` (type,
                severity, state), `tokenpulse_active_providers` (provider), or another family that
                is neither counted nor observed.
            source: Gives values by label values. If it is a method, it is asked for as long as
                its object lives. Values that several sources give for the same labels are added.

        Raises:
            ValueError: There is no such family.
        """
        self._tables.looked_up.callbacks(name).add(source)

    def refresh(self) -> None:
        """Bring up to date what is looked up; the tasks are those of the event loop we are in.

        With several workers, also write what is only in memory because the disk was full.
        """
        self._tables.recover()
        self._tables.looked_up.refresh()

    @asynccontextmanager
    async def refreshing(self) -> AsyncIterator[None]:
        """Look up every second, where a scrape may come to another worker; else do nothing."""
        if self._tables.others is None:
            yield
            return
        async with background_tasks(self._keep_refreshing):
            yield

    def series(self) -> list[Series]:
        """All of our families with their rows; with several workers those of all, added up."""
        return self._tables.series()

    def render_others(
        self, names: Sequence[str] = (), *, openmetrics: bool = False, escaping: str = UNDERSCORES
    ) -> bytes:
        """What else the registry holds, rendered by prometheus_client.

        Args:
            names: Only samples of these names; all when empty.
            openmetrics: As OpenMetrics 1.0.0, without its `# EOF`, and not as text.
            escaping: How names with other characters than letters, digits, `_` and `:` are written.

        Raises:
            Exception: Whatever a collector of the registry fails with.
        """
        with hidden():
            registry = self._tables.others or self.registry
            return render_others(registry, names, openmetrics=openmetrics, escaping=escaping)

    def render(self) -> bytes:
        """The whole registry in the Prometheus text format, version 0.0.4."""
        self.refresh()
        return b"".join(render_body(self.series(), self.render_others(), ScrapeRequest()))

    async def _keep_refreshing(self) -> None:
        while True:
            self.refresh()
            await anyio.sleep(_REFRESH_SECONDS)

    def _count_usage(self, exchange: Exchange) -> None:
        tables, provider, usage = self._tables, exchange.provider, exchange.usage
        tables.usage.add((provider, exchange.usage_source))
        if usage is not None:
            for kind in _TOKEN_KINDS:
                tables.tokens.add((provider, kind), getattr(usage, kind))
        first = exchange.time_to_first_token
        if first is not None:
            tables.first_token.observe((provider,), first)
            if usage is not None and usage.output > 1 and exchange.outcome == "complete":
                writing = exchange.duration - first
                tables.per_token.observe((provider,), writing / (usage.output - 1))

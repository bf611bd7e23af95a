"""What is counted of each exchange."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import REGISTRY, CollectorRegistry

from ..exchange import Exchange
from .families import checked_buckets
from .tables import tables_of

DEFAULT_MOST_SERIES = 2000


class HttpMetrics:
    """An observer of exchanges that fills the metric families of a registry.

    Two of these on one registry fill the same families, so it may be made as often as wanted.

    Args:
        registry: Where the families are registered; prometheus_client's default when None, which
            is also what its own `/metrics` applications expose.
        buckets: Upper bounds of the histograms of durations, in seconds and ascending; 5 ms to
            600 s when None. The time per output token keeps its own.
        max_series: Series that each family keeps; what exceeds them is folded into one series of
            `__overflow__` labels and counted. The first on a registry decides.

    Raises:
        ValueError: `buckets` or `max_series` is malformed, or the registry has other buckets
            already, or another collector with our names.
    """

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        buckets: Sequence[float] | None = None,
        max_series: int = DEFAULT_MOST_SERIES,
    ) -> None:
        if type(max_series) is not int or max_series < 1:
            raise ValueError(f"max_series must be a whole number of at least 1, got {max_series!r}")
        self.registry = REGISTRY if registry is None else registry
        bounds = None if buckets is None else checked_buckets(buckets)
        self._tables = tables_of(self.registry, most=max_series, buckets=bounds)

    def __call__(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        tables = self._tables
        tables.in_progress -= 1
        provider, duration = exchange.provider, exchange.duration
        labels = (exchange.method, exchange.route, exchange.status, provider)
        tables.duration.observe(labels, duration)
        tables.responses.add((provider, exchange.outcome))
        if exchange.time_to_first_byte is not None:
            tables.first_byte.observe((exchange.route, provider), exchange.time_to_first_byte)
        if exchange.usage_source is not None:
            self._count_usage(exchange)

    def __eq__(self, other: object) -> bool:
        # Two that fill the same rows are one observer, so that stacking them counts once.
        return isinstance(other, HttpMetrics) and other._tables is self._tables

    def __hash__(self) -> int:
        return hash(id(self._tables))

    def opened(self) -> None:
        """An exchange has begun."""
        self._tables.in_progress += 1

    def dropped(self) -> None:
        """An exchange that had begun turned out to be a probe or a scrape."""
        self._tables.in_progress -= 1

    def failed(self, component: str) -> None:
        """A part of this library failed, and the request went on without it."""
        self._tables.self_errors.add((component,))

    def decided(self, policy: str, decision: str) -> None:
        """A rate limit policy decided: `allowed`, `limited`, `shadow` or `error`."""
        self._tables.decisions.add((policy, decision))

    def render(self) -> bytes:
        """The whole registry in the Prometheus text format, version 0.0.4."""
        return self._tables.render(self.registry)

    def _count_usage(self, exchange: Exchange) -> None:
        tables, provider, usage = self._tables, exchange.provider, exchange.usage
        tables.usage.add((provider, exchange.usage_source))
        if usage is not None:
            for kind in ("input", "output", "cache_read", "cache_write", "reasoning"):
                tables.tokens.add((provider, kind), getattr(usage, kind))
        first = exchange.time_to_first_token
        if first is not None:
            tables.first_token.observe((provider,), first)
            if usage is not None and usage.output > 1 and exchange.outcome == "complete":
                writing = exchange.duration - first
                tables.per_token.observe((provider,), writing / (usage.output - 1))

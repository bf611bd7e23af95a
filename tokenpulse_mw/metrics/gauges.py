"""Gauges of requests in progress and of the providers' rate limits, read at each scrape."""

from __future__ import annotations

from collections.abc import Mapping

from ..exchange import RequestsInProgress, UpstreamQuotas
from .http import HttpMetrics


class ExchangeGauges:
    """Values of requests in progress and of the providers' rate limits.

    Metrics hold the methods weakly, so keep a reference to this object.

    Args:
        in_progress: The requests in progress.
        quotas: The providers' rate limits.
    """

    def __init__(self, in_progress: RequestsInProgress, quotas: UpstreamQuotas) -> None:
        self._in_progress = in_progress
        self._quotas = quotas

    def show_in(self, metrics: HttpMetrics) -> None:
        """Add the callbacks to `metrics`."""
        metrics.add_callback("tokenpulse_http_oldest_request_seconds", self._oldest)
        metrics.add_callback("tokenpulse_http_longest_idle_seconds", self._longest_idle)
        metrics.add_callback("tokenpulse_upstream_remaining_requests", self._requests)
        metrics.add_callback("tokenpulse_upstream_remaining_tokens", self._tokens)
        metrics.add_callback("tokenpulse_upstream_remaining_ratio", self._ratio)

    def _oldest(self) -> Mapping[tuple[()], float]:
        return {(): self._in_progress.oldest()}

    def _longest_idle(self) -> Mapping[tuple[str], float]:
        return {(phase,): seconds for phase, seconds in self._in_progress.longest_idle().items()}

    def _requests(self) -> Mapping[tuple[str], float]:
        return self._remaining("requests")

    def _tokens(self) -> Mapping[tuple[str], float]:
        return self._remaining("tokens")

    def _remaining(self, unit: str) -> Mapping[tuple[str], float]:
        lowest = self._quotas.lowest().values()
        return {(pool.provider,): pool.remaining for pool in lowest if pool.unit == unit}

    def _ratio(self) -> Mapping[tuple[str, str], float]:
        return {
            (pool.provider, pool.unit): pool.share
            for pool in self._quotas.lowest().values()
            if pool.share is not None
        }

"""What the metrics show that is not told by exchanges, and is looked up when they are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from ..alerts import AlertEngine
from ..health import HealthRouter
from ..metrics import HttpMetrics
from ..ratelimit import Limiter, Policy

logger = logging.getLogger("tokenpulse_mw")


class Gauges:
    """Gives the values of the limits, the alerts and the providers.

    Metrics ask a method for as long as its object lives, so this has to be held.

    Args:
        engine: Watches for alerts.
        policies: The limits.
        health: Knows the providers.

    Attributes:
        running: What runs in the background does.
    """

    def __init__(
        self, engine: AlertEngine, policies: Sequence[Policy], health: HealthRouter
    ) -> None:
        self.running = False
        self._engine = engine
        self._policies = policies
        self._health = health
        self._warned = False

    def show_in(self, metrics: HttpMetrics) -> None:
        """Let `metrics` look them up."""
        metrics.add_callback("tokenpulse_alerts", self._engine.counts)
        metrics.add_callback("tokenpulse_alert_last_evaluation_timestamp_seconds", self._last_round)
        metrics.add_callback(
            "tokenpulse_alert_notification_queue_length", self._engine.queue_length
        )
        metrics.add_callback("tokenpulse_alert_subject_overflow_total", self._engine.overflow)
        metrics.add_callback("tokenpulse_active_providers", self._health.active_providers)
        metrics.add_callback("tokenpulse_rate_limit_keys", self._keys)
        metrics.add_callback("tokenpulse_rate_limit_evictions_total", self._evictions)

    def _last_round(self) -> Mapping[tuple[()], float]:
        if not self.running and not self._warned:
            self._warned = True
            logger.warning(
                "a scrape finds that TokenPulse does not run, so no alert is evaluated and SIGTERM "
                "is not waited for: let the server run the application's lifespan, or, where the "
                "application is mounted, enter running() in the lifespan of the outermost one"
            )
        return self._engine.last_evaluation()

    def _keys(self) -> Mapping[tuple[str], int]:
        return {(name,): len(table) for name, table in self._tables()}

    def _evictions(self) -> Mapping[tuple[str], int]:
        return {(name,): table.evictions for name, table in self._tables()}

    def _tables(self) -> Iterator[tuple[str, Limiter]]:
        for policy in self._policies:
            if isinstance(policy.limiter, Limiter):
                yield policy.name, policy.limiter

"""Gauges of limits, alerts and providers, read at each scrape."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

from ..alerts import AlertEngine
from ..health import HealthRouter
from ..metrics import HttpMetrics
from ..ratelimit import Limiter, Policy

logger = logging.getLogger("tokenpulse_mw")


class Gauges:
    """Values of the limits, the alerts and the providers.

    Metrics hold the methods weakly, so keep a reference to this object.

    Args:
        engine: The alert engine.
        policies: The limits.
        health: Health of the providers.

    Attributes:
        running: Locked while the background tasks run.
    """

    def __init__(
        self, engine: AlertEngine, policies: Sequence[Policy], health: HealthRouter
    ) -> None:
        self.running = Lock()
        self._engine = engine
        self._policies = policies
        self._health = health
        self._warned = False

    def show_in(self, metrics: HttpMetrics) -> None:
        """Add the callbacks to `metrics`."""
        metrics.add_callback("tokenpulse_alerts", self._engine.counts)
        metrics.add_callback(
            "tokenpulse_alert_last_evaluation_timestamp_seconds", self._last_evaluation
        )
        metrics.add_callback(
            "tokenpulse_alert_notification_queue_length", self._engine.queue_length
        )
        metrics.add_callback("tokenpulse_alert_subject_overflow_total", self._engine.overflow)
        metrics.add_callback("tokenpulse_alert_fleet_leader", self._engine.fleet_leader)
        metrics.add_callback("tokenpulse_alert_fleet_members", self._engine.fleet_members)
        metrics.add_callback("tokenpulse_alert_fleet_behind_seconds", self._engine.fleet_behind)
        metrics.add_callback("tokenpulse_alert_late_total", self._engine.late)
        metrics.add_callback("tokenpulse_active_providers", self._health.active_providers)
        metrics.add_callback("tokenpulse_rate_limit_keys", self._keys)
        metrics.add_callback("tokenpulse_rate_limit_evictions_total", self._evictions)

    def _last_evaluation(self) -> Mapping[tuple[()], float]:
        if not self.running.locked() and not self._warned:
            self._warned = True
            logger.warning(
                "TokenPulse does not run, so alerts are not evaluated and SIGTERM does not drain "
                "(logged once): enable the lifespan protocol of the server, or, if the "
                "application is mounted, use `lifespan=pulse.lifespan` in the outermost one"
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

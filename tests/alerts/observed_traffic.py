"""Traffic of one process, counted as soon as it is observed."""

from __future__ import annotations

from collections.abc import Iterable

from tokenpulse_mw import Exchange
from tokenpulse_mw.alerts import Thresholds, Traffic
from tokenpulse_mw.alerts.steps import Steps, finish
from tokenpulse_mw.alerts.traffic.aggregator import TrafficAggregator
from tokenpulse_mw.alerts.traffic.bucket import PROTOCOL, Bucket, decode_bucket, encode_bucket


def begin_evaluation(traffic: Traffic) -> None:
    """Reset the counts since the last evaluation; call it after all rules."""
    finish(traffic.prepare_next_evaluation())()


class ObservedTraffic(Traffic):
    """Traffic of a process that sends its buckets to itself."""

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        super().__init__(thresholds, max_subjects=max_subjects)
        self.aggregator = TrafficAggregator(
            thresholds, max_subjects=max_subjects, sealed=self._receive
        )

    def observe(self, exchange: Exchange, now: float) -> None:
        """Observe one exchange that ended at `now`."""
        self.observe_all([exchange], now)

    def observe_all(self, exchanges: Iterable[Exchange], now: float) -> None:
        """Observe exchanges that ended at `now`."""
        for exchange in exchanges:
            self.aggregator.observe(exchange, now)
        self.aggregator.seal(now, partial=True)

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds from now on."""
        self.aggregator.set_thresholds(thresholds)
        return super().set_thresholds(thresholds)

    def _receive(self, bucket: Bucket) -> None:
        finish(self.apply(decode_bucket(encode_bucket(bucket), PROTOCOL)))

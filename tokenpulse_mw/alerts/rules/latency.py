"""Rule for the latency of providers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.statistics import confident_share
from ..traffic.traffic import Traffic
from .rule import display_name, duration_text, subject_of

_SLOWEST = 0.05  # share above the 95th percentile


def high_latency(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Find providers whose 95th percentile of times to the first byte is too high, for 5 minutes.

    More than 5 % of the responses, failed ones included, then took longer; without a body, their
    duration counts. A stream may take any time after its first byte. The comparison is exact,
    because the threshold is a bucket bound. Requests without a known provider count for the
    gateway. A provider without requests keeps its latencies until the window is empty; then the
    alert ends.
    """
    threshold = thresholds.provider_latency_p95
    if threshold is None:
        return
    bounds = traffic.counts.bounds
    for provider, buckets in _histograms(traffic, len(bounds) + 1).items():
        slow = sum(buckets[bisect_left(bounds, threshold) + 1 :])
        above_resolve = sum(
            buckets[bisect_left(bounds, threshold * thresholds.resolve_ratio) + 1 :]
        )
        requests = sum(buckets)
        if above_resolve / requests <= _SLOWEST:
            continue
        fires = confident_share(slow, requests, thresholds) > _SLOWEST
        p95 = _least_p95(buckets, bounds)
        subject = subject_of("provider", provider)
        yield Finding(
            type="high_latency",
            subject=subject,
            severity="warning" if fires else None,
            title=f"{display_name(subject)} responds slowly (p95 over {p95:g} s)",
            message=f"{display_name(subject)} took longer than {threshold:g} s to the first byte "
            f"of {slow} of {requests} responses in the last "
            f"{duration_text(thresholds.error_window)}; p95 is over {p95:g} s",
            value=p95,
            metadata={"requests": requests, "slow": slow, "threshold": threshold},
            hold_for=thresholds.provider_latency_hold,
            keep_firing=thresholds.keep_firing,
            window=thresholds.error_window,
        )


def _histograms(traffic: Traffic, buckets: int) -> dict[str, list[int]]:
    histograms: dict[str, list[int]] = {}
    for (provider, bucket), requests, _ in traffic.counts.latencies.items():
        histograms.setdefault(provider, [0] * buckets)[bucket] += requests
    return histograms


def _least_p95(buckets: list[int], bounds: tuple[float, ...]) -> float:
    """Return the lower bound of the bucket of the 95th percentile."""
    rank = sum(buckets) * (1 - _SLOWEST)
    bucket = next(n for n, total in enumerate(accumulate(buckets)) if total >= rank)
    return bounds[bucket - 1] if bucket else 0.0

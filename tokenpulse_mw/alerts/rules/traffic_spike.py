"""Rule for the traffic of the gateway and of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic import OVERFLOW
from ..traffic.traffic import GATEWAY, Traffic
from ..traffic.windows import ARRIVAL_SECONDS
from .rule import Steps, display_name, severity_for, subject_of


class _Metric(NamedTuple):
    name: str
    short: str
    unit: str
    window: str
    seconds: float


_QPS = _Metric(
    "global_qps",
    "QPS",
    f"requests a second (over {ARRIVAL_SECONDS} s)",
    "realtime",
    ARRIVAL_SECONDS,
)


_RPM = _Metric("master_rpm", "RPM", "requests in a minute", "1m", 60)


_TPM = _Metric("master_tpm", "TPM", "tokens in a minute", "1m", 60)


_RPD = _Metric("master_rpd", "RPD", "requests in 24 hours", "24h", 86_400)


_TPD = _Metric("master_tpd", "TPD", "tokens in 24 hours", "24h", 86_400)


def traffic_spike(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding | None]:
    """Find traffic above its threshold; critical from `critical_factor` times the threshold.

    `global_qps` is averaged over 10 s, so that a single page load is not a spike. The rule
    compares the highest value since the last evaluation. Requests rejected by the gateway's limit
    count, preflights do not. Without requests the alert ends.

    Tenants beyond `max_subjects` are counted together, and are at most a warning.
    """
    counts = traffic.counts
    for _, requests, _ in counts.request_rate.maxima():
        yield from _finding(_QPS, GATEWAY, requests / ARRIVAL_SECONDS, thresholds)
    for tenant, requests, tokens in counts.minute.maxima():
        yield from _finding(_RPM, tenant, requests, thresholds)
        yield from _finding(_TPM, tenant, tokens, thresholds)
    for tenant, requests, tokens in counts.day.maxima():
        yield from _finding(_RPD, tenant, requests, thresholds)
        yield from _finding(_TPD, tenant, tokens, thresholds)


def _finding(
    metric: _Metric, tenant: str, value: float, thresholds: Thresholds
) -> Iterator[Finding | None]:
    fires_at, ratio = thresholds.fires_at(metric.name), thresholds.resolve_ratio
    if value < fires_at * ratio:
        yield None
        return
    threshold = getattr(thresholds, metric.name)
    numbers = {"value": value, "threshold": threshold, "window": metric.window}
    steps, subject = _steps(metric.name, tenant, thresholds), subject_of("master", tenant)
    name = "Masters beyond max_subjects, combined" if tenant == OVERFLOW else display_name(subject)
    yield Finding(
        type="traffic_spike",
        subject=subject,
        severity=severity_for(value, steps) if value >= fires_at else None,
        keeps=severity_for(value, steps, ratio),
        title=f"{name}: {metric.short} threshold exceeded ({value} >= {threshold})",
        message=f"{name} had {value} {metric.unit}, threshold is {threshold}",
        metric=metric.name,
        value=value,
        metadata={"metric": metric.name, **numbers},
        keep_firing=thresholds.keep_firing,
        window=metric.seconds,
    )


def _steps(metric: str, tenant: str, thresholds: Thresholds) -> Steps:
    warning: Steps = ((thresholds.fires_at(metric), "warning"),)
    critical_at = getattr(thresholds, metric) * thresholds.critical_factor
    return warning if tenant == OVERFLOW else ((critical_at, "critical"), *warning)

"""Rule for the traffic of the gateway and of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..lifecycle import GLOBAL, Finding, Subject
from ..thresholds import Thresholds
from ..traffic import OVERFLOW
from ..traffic.traffic import Traffic
from ..traffic.windows import ARRIVAL_SECONDS
from .rule import Steps, display_name, name_with_id, severity_for, subject_of


class _Metric(NamedTuple):
    name: str
    short: str
    sentence: str  # with the name of the subject and the value
    window: str
    seconds: float


_QPS = _Metric("global_qps", "QPS", "System-wide QPS is {value}", "realtime", ARRIVAL_SECONDS)
_RPM = _Metric("master_rpm", "RPM", "{name} has {value} requests in the last minute", "1m", 60)
_TPM = _Metric("master_tpm", "TPM", "{name} used {value} tokens in the last minute", "1m", 60)
_DAY = 86_400
_RPD = _Metric("master_rpd", "RPD", "{name} has {value} requests in the last 24 hours", "24h", _DAY)
_TPD = _Metric("master_tpd", "TPD", "{name} used {value} tokens in the last 24 hours", "24h", _DAY)


def traffic_spike(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding | None]:
    """Find traffic above its threshold; critical from `critical_factor` times the threshold.

    `global_qps` is averaged over 10 s, so that a single page load is not a spike. The rule
    compares the highest value since the last evaluation. Requests rejected by the gateway's limit
    count, preflights do not.

    Tenants beyond `max_subjects` are counted together, and are at most a warning.
    """
    counts, names = traffic.counts, traffic.tenant_names
    for _, requests, _ in counts.request_rate.maxima():
        qps = requests / ARRIVAL_SECONDS
        yield from _finding(_QPS, GLOBAL, int(qps) if qps.is_integer() else qps, thresholds)
    for tenant, requests, tokens in counts.minute.maxima():
        subject = subject_of("master", tenant, names.get(tenant, ""))
        yield from _finding(_RPM, subject, requests, thresholds)
        yield from _finding(_TPM, subject, tokens, thresholds)
    for tenant, requests, tokens in counts.day.maxima():
        subject = subject_of("master", tenant, names.get(tenant, ""))
        yield from _finding(_RPD, subject, requests, thresholds)
        yield from _finding(_TPD, subject, tokens, thresholds)


def _finding(
    metric: _Metric, subject: Subject, value: float, thresholds: Thresholds
) -> Iterator[Finding | None]:
    fires_at, ratio = thresholds.fires_at(metric.name), thresholds.resolve_ratio
    if value < fires_at * ratio:
        yield None
        return
    threshold = getattr(thresholds, metric.name)
    numbers = {"value": value, "threshold": threshold, "window": metric.window}
    steps = _steps(metric.name, subject, thresholds)
    title, name = f"{display_name(subject)} {metric.short}", name_with_id(subject)
    if subject == GLOBAL:
        title = "Global QPS" if metric == _QPS else metric.short
        name = "Traffic without a tenant"
    sentence = metric.sentence.format(name=name, value=value)
    yield Finding(
        type="traffic_spike",
        subject=subject,
        severity=severity_for(value, steps) if value >= fires_at else None,
        keeps=severity_for(value, steps, ratio),
        title=f"{title} threshold exceeded ({value} >= {threshold})",
        message=f"{sentence}, threshold is {threshold}",
        metric=metric.name,
        value=value,
        metadata={"metric": metric.name, **numbers},
        keep_firing=thresholds.traffic_keep_firing,
        window=metric.seconds,
    )


def _steps(metric: str, subject: Subject, thresholds: Thresholds) -> Steps:
    warning: Steps = ((thresholds.fires_at(metric), "warning"),)
    critical_at = getattr(thresholds, metric) * thresholds.critical_factor
    return warning if subject.id == OVERFLOW else ((critical_at, "critical"), *warning)

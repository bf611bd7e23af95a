"""Rules for rate-limited tenants, and for responses with 429 by provider."""

from __future__ import annotations

from collections.abc import Iterator

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.traffic import GATEWAY, Traffic
from .rule import display_name, name_with_id, subject_of


def rate_limit(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Find tenants that were limited since the last evaluation; without tenants, the gateway.

    The alert ends after `traffic_keep_firing` seconds without limited requests. The current QPS is
    the average of the last minute.
    """
    for tenant, times in traffic.limited.items():
        subject = subject_of("master", tenant, traffic.tenant_names.get(tenant, ""))
        title, sentence = f"{display_name(subject)} is", f"{name_with_id(subject)} is"
        if tenant == GATEWAY:
            title, sentence = "Clients are", "Clients of the gateway are"
        qps = round(traffic.counts.minute.get(tenant)[0] / 60, 2)
        yield Finding(
            type="rate_limit",
            subject=subject,
            severity="warning",
            title=f"{title} rate limited",
            message=f"{sentence} currently being rate limited. Current QPS: {qps:.2f}",
            value=times,
            metadata={"limited": times, "qps": qps},
            keep_firing=thresholds.traffic_keep_firing,
        )


def rate_limit_exceeded(
    traffic: Traffic, thresholds: Thresholds, now: float
) -> Iterator[Finding | None]:
    """Find providers with too many 429 responses in a minute, for two minutes.

    Responses of the provider and of the gateway's own limit count; without a known provider they
    count for the gateway. The rule compares the highest value since the last evaluation.
    """
    threshold = thresholds.provider_429_rpm
    if threshold is None:
        return
    for provider, responses, ours in traffic.counts.rate_limited.maxima():
        if responses < threshold * thresholds.resolve_ratio:
            yield None
            continue
        subject = subject_of("provider", provider)
        yield Finding(
            type="rate_limit_exceeded",
            subject=subject,
            severity="warning" if responses > threshold else None,
            title=f"{display_name(subject)} responds with 429 ({responses} in a minute)",
            message=f"{display_name(subject)} had {responses} responses with 429 in a minute "
            f"({ours} of them from the gateway's own limit), more than {threshold:g}",
            value=responses,
            metadata={"refused": responses, "ours": ours, "threshold": threshold, "window": "1m"},
            hold_for=thresholds.provider_429_hold,
            keep_firing=thresholds.traffic_keep_firing,
        )

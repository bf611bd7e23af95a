"""Limits that were hit: a master's, and a provider's."""

from __future__ import annotations

from collections.abc import Iterator

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.traffic import Traffic
from .rule import display_name, subject_of


def rate_limit(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """A master (without masters: the gateway) was limited since the last round.

    However short it was, it is found; a round in which nobody was limited ends it.
    """
    for master, times in traffic.limited.items():
        subject = subject_of("master", master)
        yield Finding(
            type="rate_limit",
            subject=subject,
            severity="warning",
            title=f"{display_name(subject)} is rate limited",
            message=f"{display_name(subject)} was rate limited {times} times since the last round",
            value=times,
            metadata={"limited": times},
            keep_firing=thresholds.keep_firing,
        )


def rate_limit_exceeded(
    traffic: Traffic, thresholds: Thresholds, now: float
) -> Iterator[Finding | None]:
    """Too many requests to a provider were answered with 429 in a minute, for two minutes.

    By the provider or by our own limit; where the provider is not known it is the gateway's. What
    is compared is the worst minute since the last round. No requests are no 429s: that ends it.
    """
    threshold = thresholds.provider_429_rpm
    if threshold is None:
        return
    for provider, refused, ours in traffic.counts.rate_limited.maxima():
        if refused < threshold * thresholds.resolve_ratio:
            yield None
            continue
        subject = subject_of("provider", provider)
        yield Finding(
            type="rate_limit_exceeded",
            subject=subject,
            severity="warning" if refused > threshold else None,
            title=f"{display_name(subject)} answers with 429 ({refused} in a minute)",
            message=f"{display_name(subject)} had {refused} answers of 429 in a minute "
            f"({ours} by our own limit), more than {threshold:g}",
            value=refused,
            metadata={"refused": refused, "ours": ours, "threshold": threshold, "window": "1m"},
            hold_for=thresholds.provider_429_hold,
            keep_firing=thresholds.keep_firing,
        )

"""What is worth an alert: each rule looks at the traffic and gives its findings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from .lifecycle import Finding, Severity, Subject
from .thresholds import Thresholds
from .traffic import GATEWAY, Traffic

Rule = Callable[[Traffic, Thresholds, float], Iterable[Finding]]

_CERTAINTY = 1.6449  # the normal quantile for 95 % on one side


def default_rules() -> list[Rule]:
    """The rules of an engine that is given none."""
    return [rate_limit, error_spike, provider_down]


def rate_limit(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """A master (without masters: the gateway) was limited since the last round."""
    for master, times in traffic.limited.items():
        subject = _subject("master", master)
        yield Finding(
            type="rate_limit",
            subject=subject,
            severity="warning",
            title=f"{_called(subject)} is rate limited",
            message=f"{_called(subject)} was rate limited {times} times since the last round",
            value=times,
            metadata={"limited": times},
        )


def error_spike(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Too large a share of a key's requests failed.

    From 10 % (the threshold) it is info, from 25 % warning, from 50 % critical.
    """
    threshold = thresholds.error_rate
    if threshold is None:
        return
    for key, requests, failures in traffic.errors.failing():
        rate = failures / requests
        if rate < threshold * thresholds.resolve_ratio:
            continue
        surely = wilson_lower_bound(failures, requests) if thresholds.error_evidence else rate
        fires = requests >= thresholds.error_min_requests and surely >= threshold
        subject = _subject("key", key)
        yield Finding(
            type="error_spike",
            subject=subject,
            severity=_error_severity(rate) if fires else None,
            title=f"High error rate detected ({rate:.1%})",
            message=f"{_called(subject)} has {rate:.1%} error rate "
            f"({failures}/{requests} requests) in the last {thresholds.error_window:g} s",
            value=rate,
            metadata={"requests": requests, "errors": failures, "threshold": threshold},
        )


def provider_down(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """A credential (or a provider) failed many times in a row, and at least half of late.

    It ends with the first success. A provider that gets no more traffic stays down: that nobody
    asks it any longer is no sign of health.
    """
    threshold = thresholds.provider_failures
    if threshold is None:
        return
    for (kind, identity), streak in traffic.upstreams.failing():
        provider = streak.name or "of unknown name"
        fires = streak.failures >= threshold and streak.failed_lately * 2 >= streak.seen
        subject = Subject(kind, identity, streak.name)
        called = f"API key {identity!r} of {provider}" if kind == "apikey" else provider
        yield Finding(
            type="provider_down",
            subject=subject,
            severity="critical" if fires else None,
            title=f"Provider {provider} failing ({streak.failures} failures)",
            message=f"{called} failed {streak.failures} times in a row",
            value=streak.failures,
            metadata={"failures": streak.failures, "threshold": threshold},
        )


def wilson_lower_bound(hits: int, tries: int) -> float:
    """The least share that would give `hits` of `tries` with any likelihood (95 %, one-sided).

    Wilson's score interval, https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval
    """
    share, square = hits / tries, _CERTAINTY**2
    spread = _CERTAINTY * math.sqrt(share * (1 - share) / tries + square / (4 * tries**2))
    return (share + square / (2 * tries) - spread) / (1 + square / tries)


def _error_severity(rate: float) -> Severity:
    if rate >= 0.5:
        return "critical"
    return "warning" if rate >= 0.25 else "info"


def _subject(kind: str, identity: str) -> Subject:
    return Subject("system", "0", "gateway") if identity == GATEWAY else Subject(kind, identity)


def _called(subject: Subject) -> str:
    return "The gateway" if subject.kind == "system" else f"{subject.kind.title()} {subject.id!r}"

"""Shares of requests that failed: of a key's, and of a provider's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product

from ..counts import Blame
from ..lifecycle import Finding
from ..shares import sure_share
from ..thresholds import Thresholds
from ..traffic import GATEWAY, Traffic
from .rule import Steps, called, reached, subject_of

_MOST_BLAMED = 5  # upstreams that a finding names
_STEPS: Steps = ((0.5, "critical"), (0.25, "warning"), (0, "info"))

Blamed = Mapping[str, Counter[str]]


def error_spike(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Too large a share of a key's requests failed.

    From 10 % (the threshold) it is info, from 25 % warning, from 50 % critical. A key without
    requests keeps its share until they have left the window, then nothing is known of it and
    the alert ends: a tenant that gave up would keep it for ever.
    """
    threshold = thresholds.error_rate
    if threshold is None:
        return
    worst = traffic.errors.worst(threshold * thresholds.resolve_ratio)
    blamed = _blamed(traffic, "key", {key for key, *_ in worst})
    for key, requests, failures in worst:
        rate = failures / requests
        subject = subject_of("key", key)
        fires = sure_share(failures, requests, thresholds) >= threshold
        yield Finding(
            type="error_spike",
            subject=subject,
            severity=reached(rate, _STEPS) if fires else None,
            keeps=reached(rate, _STEPS, thresholds.resolve_ratio),
            title=f"High error rate detected ({rate:.1%})",
            message=f"{called(subject)} has {rate:.1%} error rate "
            f"({failures}/{requests} requests) in the last {thresholds.error_window:g} s",
            value=rate,
            metadata=_numbers(requests, failures, threshold, blamed[key]),
            keep_firing=thresholds.keep_firing,
            window=thresholds.error_window,
        )


def high_error_rate(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
    """Too large a share of a provider's requests failed, for five minutes.

    Clients' own errors are never among them. What no known provider answered is left to
    `error_spike`. A provider without requests keeps its share until they have left the window,
    then the alert ends; one that is down and therefore no longer asked is `provider_down`'s.
    """
    threshold = thresholds.provider_error_rate
    if threshold is None:
        return
    worst = _worst_providers(traffic, threshold * thresholds.resolve_ratio)
    blamed = _blamed(traffic, "provider", worst)
    for provider, (requests, failures) in worst.items():
        rate = failures / requests
        fires = sure_share(failures, requests, thresholds) > threshold
        subject = subject_of("provider", provider)
        yield Finding(
            type="high_error_rate",
            subject=subject,
            severity="critical" if fires else None,
            title=f"{called(subject)} has a high error rate ({rate:.1%})",
            message=f"{called(subject)} failed {failures} of {requests} requests ({rate:.1%}) "
            f"in the last {thresholds.error_window:g} s",
            value=rate,
            metadata=_numbers(requests, failures, threshold, blamed[provider]),
            hold_for=thresholds.provider_error_hold,
            keep_firing=thresholds.keep_firing,
            window=thresholds.error_window,
        )


def _worst_providers(traffic: Traffic, share: float) -> dict[str, tuple[int, int]]:
    """Requests and failures of each provider of whose requests at least `share` have failed."""
    found: dict[str, tuple[int, int]] = {}
    for (provider, _), requests, failures in traffic.counts.answers.items():
        known = found.get(provider, (0, 0))
        found[provider] = known[0] + requests, known[1] + failures
    return {
        provider: (requests, failures)
        for provider, (requests, failures) in found.items()
        if provider != GATEWAY and failures and failures / requests >= share
    }


def _blamed(traffic: Traffic, kind: str, identities: Collection[str]) -> Blamed:
    """Failures of these keys or providers, by the upstream that they came from."""
    found: dict[str, Counter[str]] = {identity: Counter() for identity in identities}
    blame, upstreams = traffic.counts.blame, list(traffic.counts.upstreams)
    named: Iterable[Blame] = product((kind,), identities, upstreams)
    if len(identities) * len(upstreams) > len(blame):  # what takes fewer steps
        named = (each for each in blame if each[0] == kind and each[1] in identities)
    for each in named:
        failures, _ = blame.get(each)
        if failures:
            found[each[1]][":".join(each[2])] = failures
    return found


def _numbers(
    requests: int, failures: int, threshold: float, blamed: Counter[str]
) -> dict[str, object]:
    numbers: dict[str, object] = {"requests": requests, "errors": failures, "threshold": threshold}
    if blamed:
        numbers["upstreams"] = dict(blamed.most_common(_MOST_BLAMED))
    return numbers

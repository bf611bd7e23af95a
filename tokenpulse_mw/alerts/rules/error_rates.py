"""Rules for the error rates of keys and providers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.statistics import confident_share
from ..traffic.traffic import GATEWAY, Traffic, Upstream
from .rule import (
    Steps,
    display_name,
    duration_text,
    name_with_id,
    owner_of,
    severity_for,
    subject_of,
)

_MAX_UPSTREAMS_SHOWN = 5  # upstreams that a finding names


_STEPS: Steps = ((0.5, "critical"), (0.25, "warning"), (0, "info"))


def error_spike(traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding | None]:
    """Find keys with a high error rate.

    The severity is info from the threshold (10 %), warning from 25 % and critical from 50 %. A
    key without requests keeps its error rate until the window is empty; then the alert ends.
    """
    threshold = thresholds.error_rate
    if threshold is None:
        return
    resolve_at = threshold * thresholds.resolve_ratio
    upstreams = _FailuresByUpstream(traffic, "key", len(traffic.errors))
    yield from upstreams.prepare()
    for key, requests, failures in traffic.errors.candidates():
        rate = failures / requests if failures else 0.0
        if rate < resolve_at:
            yield None
            continue
        owner = owner_of(traffic, key)
        subject = subject_of("key", key, owner.name)
        fires = confident_share(failures, requests, thresholds) >= threshold
        yield Finding(
            type="error_spike",
            subject=subject,
            severity=severity_for(rate, _STEPS) if fires else None,
            keeps=severity_for(rate, _STEPS, thresholds.resolve_ratio),
            title=f"High error rate detected ({rate:.1%})",
            message=f"{name_with_id(subject)}{owner.suffix(key)} has {rate:.1%} error rate "
            f"({failures}/{requests} requests) in the last "
            f"{duration_text(thresholds.error_window)}",
            value=rate,
            metadata={
                **_numbers(requests, failures, threshold),
                **upstreams.metadata(key),
                **owner.metadata,
            },
            keep_firing=thresholds.keep_firing,
            window=thresholds.error_window,
        )


def high_error_rate(
    traffic: Traffic, thresholds: Thresholds, now: float
) -> Iterator[Finding | None]:
    """Find providers with a high error rate, for five minutes.

    Client errors never count. Requests without a known provider are left to `error_spike`. A
    provider without requests keeps its error rate until the window is empty; then the alert ends.
    """
    threshold = thresholds.provider_error_rate
    if threshold is None:
        return
    worst = _worst_providers(traffic, threshold * thresholds.resolve_ratio)
    upstreams = _FailuresByUpstream(traffic, "provider", len(worst))
    yield from upstreams.prepare()
    for provider, (requests, failures) in worst.items():
        rate = failures / requests
        fires = confident_share(failures, requests, thresholds) > threshold
        subject = subject_of("provider", provider)
        yield Finding(
            type="high_error_rate",
            subject=subject,
            severity="critical" if fires else None,
            title=f"{display_name(subject)} has a high error rate ({rate:.1%})",
            message=f"{display_name(subject)} "
            f"failed {failures} of {requests} requests ({rate:.1%}) "
            f"in the last {duration_text(thresholds.error_window)}",
            value=rate,
            metadata={
                **_numbers(requests, failures, threshold),
                **upstreams.metadata(provider),
            },
            hold_for=thresholds.provider_error_hold,
            keep_firing=thresholds.keep_firing,
            window=thresholds.error_window,
        )


def _worst_providers(traffic: Traffic, share: float) -> dict[str, tuple[int, int]]:
    """Return requests and failures of each provider with an error rate of at least `share`."""
    counts: dict[str, tuple[int, int]] = {}
    for (provider, _), requests, failures in traffic.counts.latencies.items():
        known = counts.get(provider, (0, 0))
        counts[provider] = known[0] + requests, known[1] + failures
    return {
        provider: (requests, failures)
        for provider, (requests, failures) in counts.items()
        if provider != GATEWAY and failures and failures / requests >= share
    }


class _FailuresByUpstream:
    """Failures of keys or providers by upstream.

    Either each key is looked up with each upstream, or all failures are first grouped by key,
    whichever takes fewer steps.

    Args:
        traffic: The counts.
        kind: "key" or "provider".
        identities: Maximum number of keys or providers to look up.
    """

    def __init__(self, traffic: Traffic, kind: str, identities: int) -> None:
        self._kind = kind
        self._streaks = traffic.upstreams
        self._failures = traffic.counts.failures_by_upstream
        self._upstreams = list(traffic.counts.upstreams)
        self._is_grouped = identities * len(self._upstreams) > len(self._failures)
        self._groups: dict[str, list[Upstream]] = {}

    def prepare(self) -> Iterator[None]:
        """Group the failures, with a pause after each entry."""
        for kind, identity, upstream in self._failures if self._is_grouped else ():
            if kind == self._kind:
                self._groups.setdefault(identity, []).append(upstream)
            yield None

    def metadata(self, identity: str) -> dict[str, object]:
        """Return the upstreams with the most failures of a key or provider, with their groups."""
        upstreams = self._groups.get(identity, []) if self._is_grouped else self._upstreams
        failures_of: Counter[Upstream] = Counter()
        for upstream in upstreams:
            failures, _ = self._failures.get((self._kind, identity, upstream))
            if failures:
                failures_of[upstream] = failures
        worst = sorted(failures_of.items(), key=lambda item: (-item[1], ":".join(item[0])))
        shown = worst[:_MAX_UPSTREAMS_SHOWN]
        metadata: dict[str, object] = {}
        if shown:
            metadata["upstreams"] = {":".join(upstream): count for upstream, count in shown}
        groups = {":".join(upstream): self._group_of(upstream) for upstream, _ in shown}
        if any(groups.values()):
            metadata["upstream_groups"] = {name: group for name, group in groups.items() if group}
        return metadata

    def _group_of(self, upstream: Upstream) -> str:
        streak = self._streaks.get(upstream)
        return "" if streak is None else streak.group


def _numbers(requests: int, failures: int, threshold: float) -> dict[str, object]:
    return {"requests": requests, "errors": failures, "threshold": threshold}

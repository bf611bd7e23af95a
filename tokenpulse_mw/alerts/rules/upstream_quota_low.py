"""Rule for rate limits of providers that are nearly used up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ...exchange import UpstreamQuotas
from ..lifecycle import Finding, Severity, Subject
from ..thresholds import Thresholds
from ..traffic.bucket import ReportKey, Usage, merge_reports
from ..traffic.classification import valid_text
from ..traffic.traffic import Traffic
from .rule import escaped
from .source import near_limit


class _Limit(NamedTuple):
    """A rate limit of a provider, as processes report it."""

    provider: str
    credential: str
    group: str
    model: str
    unit: str


_LIMITS = msgspec.json.Decoder(_Limit)


class UpstreamQuotaLow:
    """The rule that `upstream_quota_low` returns.

    Attributes:
        upstream: The limits that this process has seen.
    """

    name = "upstream_quota_low"

    def __init__(self, upstream: UpstreamQuotas) -> None:
        self.upstream = upstream

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        """Return a finding for each provider or credential, and unit, with little left."""
        threshold = thresholds.upstream_quota
        if threshold is None:
            return
        lowest: dict[tuple[str, str, str], tuple[float, _Limit, Usage]] = {}
        reported = {key: usage for key, usage in traffic.reports.items() if key.rule == self.name}
        merge_reports(reported, self._own())
        for (_, _, key), usage in reported.items():
            try:
                limit = _LIMITS.decode(key)
            except msgspec.DecodeError:  # damaged, or of another version
                continue
            share = (usage[1] - usage[0]) / usage[1]
            # The group of a credential is not annotated in all requests, and is no part of its id.
            identity = (*_identity(limit), limit.unit)
            known = lowest.get(identity)
            if 0 <= share <= 1 and (known is None or share < known[0]):
                lowest[identity] = share, limit, usage
        for share, limit, usage in lowest.values():
            if share * thresholds.resolve_ratio <= threshold:
                yield _finding(limit, share, usage, threshold, thresholds)
            else:
                yield None

    async def report(self) -> dict[ReportKey, Usage]:
        """Return use and limit of the providers' limits of which at least half is used."""
        return self._own()

    def _own(self) -> dict[ReportKey, Usage]:
        usages: dict[ReportKey, Usage] = {}
        for pool in self.upstream.pools():
            size = pool.limit
            if size is None and pool.remaining == 0:
                size = 1
            if size is not None:
                # Applications may annotate texts of clients, such as the model, unchecked.
                texts = (pool.provider, pool.credential, pool.credential_group, pool.model)
                provider, credential, group, model = map(valid_text, texts)
                limit = _Limit(provider, credential, group, model, pool.unit)
                key = ReportKey(self.name, pool.unit, msgspec.json.encode(limit).decode())
                usages[key] = (float(size - pool.remaining), float(size), 0.0)
        return near_limit(usages.items())


def upstream_quota_low(upstream: UpstreamQuotas | None = None) -> UpstreamQuotaLow:
    """Return a rule that fires when at most `upstream_quota` of a provider's rate limit is left.

    It is critical when nothing is left. The limits are those that the responses of the provider
    report, by credential if `annotate()` names it. Processes that do not lead report limits of
    which half is used to the leader once in an interval.

    Args:
        upstream: The limits that this process has seen; new ones if None. `AlertMiddleware` and
            `TokenPulse` fill those of their engine; otherwise pass them to `ExchangeMiddleware`.

    Raises:
        ValueError: `upstream` has another type.
    """
    if upstream is None:
        upstream = UpstreamQuotas()
    if not isinstance(upstream, UpstreamQuotas):
        raise ValueError(f"upstream must be UpstreamQuotas(...), got {upstream!r}")
    return UpstreamQuotaLow(upstream)


def _identity(limit: _Limit) -> tuple[str, str]:
    """Return kind and id of the subject of a limit."""
    return ("apikey", limit.credential) if limit.credential else ("provider", limit.provider)


def _finding(
    limit: _Limit,
    share: float,
    usage: Usage,
    threshold: float,
    thresholds: Thresholds,
) -> Finding:
    severity: Severity | None = None
    if share <= threshold:
        severity = "warning" if share else "critical"
    used, size = round(usage[0]), round(usage[1])
    name = f"Provider {limit.provider!r}"
    if limit.credential:
        group = f" in group {limit.group!r}" if limit.group else ""
        name = f"API Key ID {escaped(limit.credential)}{group} of provider {limit.provider!r}"
    model = f" for model {limit.model!r}" if limit.model else ""
    return Finding(
        type="upstream_quota_low",
        subject=Subject(*_identity(limit), (limit.credential and limit.group) or limit.provider),
        metric=limit.unit,
        severity=severity,
        keeps=severity or "warning",
        title=f"{share:.0%} of the provider's {limit.unit} left",
        message=f"{name} has {size - used} of {size} {limit.unit} left ({share:.1%}){model}, as "
        "its last response reports",
        value=share,
        metadata={
            "remaining": size - used,
            "limit": size,
            "provider": limit.provider,
            "model": limit.model or None,
            "threshold": threshold,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # the next response reports it again
    )

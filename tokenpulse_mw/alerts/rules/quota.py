"""The rule for quotas of keys, whose use an external source counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from ..lifecycle import Finding
from ..thresholds import Thresholds
from ..traffic.bucket import ReportKey, Usage
from ..traffic.traffic import Traffic
from .rule import Owner, Steps, escaped, name_with_id, owner_of_limit, severity_for, subject_of
from .source import Kind, PolledSource, Source, near_limit, parse_identity, parse_number

_KIND = Kind(
    "quota",
    "(key, used, limit) or (key, used, limit, tenant, unit), with key and tenant as strings or "
    "integers, and used and limit as numbers",
    "[Quota('k1', used=95, limit=100)]",
)


class Quota(NamedTuple):
    """The use of one key's quota.

    Attributes:
        key: The key's id.
        used: The use so far, in the unit of the quota.
        limit: The quota; None or a number not above 0 if the key has no quota.
        tenant: The key's tenant, if known.
        unit: The unit of the quota, in the plural.
    """

    key: str
    used: float
    limit: float | None
    tenant: str | None = None
    unit: str = "tokens"


class QuotaExceeded:
    """The rule that `quota_exceeded` returns.

    Attributes:
        name: The rule's name.
        per_process: Processes that do not lead refresh too, and report their quotas.
    """

    name = "quota_exceeded"

    def __init__(self, source: PolledSource[Quota], *, per_process: bool) -> None:
        self.per_process = per_process
        self._source = source

    @property
    def quotas(self) -> tuple[Quota, ...]:
        """The quotas of the last successful refresh."""
        return self._source.rows

    async def refresh(self) -> None:
        """Call the source; if it fails, keep the last quotas.

        Raises:
            TimeoutError: The source took too long.
            ValueError: The source returned too many quotas, or an invalid one. Valid quotas next to
                it are used; a key with an invalid quota keeps its last one.
        """
        await self._source.refresh()

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        """Return a finding for each key near or above its quota."""
        threshold = thresholds.quota_warning
        if threshold is None:
            return
        self._source.check()
        for quota in (*self.quotas, *self._reported(traffic)):
            # Compare the share: the rounding of limit x threshold could miss the exact threshold.
            share = quota.used / quota.limit if quota.limit and quota.limit > 0 else 0.0
            if share >= threshold * thresholds.resolve_ratio:
                yield _finding(quota, _owner(traffic, quota), share, threshold, thresholds)
            else:
                yield None

    async def report(self) -> dict[ReportKey, Usage]:
        """Refresh, and return use and limit of the keys near their quota; at most 1,000.

        Raises:
            TimeoutError, ValueError: See `refresh`.
        """
        if not self.per_process:
            return {}
        await self.refresh()
        return near_limit(
            (ReportKey(self.name, "", quota.key), (quota.used, quota.limit, 0.0))
            for quota in self.quotas
            if quota.limit is not None
        )

    def _reported(self, traffic: Traffic) -> Iterator[Quota]:
        if self.per_process:
            for (rule, _, key), (used, limit, _) in traffic.reports.items():
                if rule == self.name:
                    yield Quota(key, used, limit)


def quota_exceeded(
    source: Source | None,
    *,
    timeout: float = 5,
    max_keys: int = 100_000,
    per_process: bool = False,
) -> QuotaExceeded:
    """Return a rule that fires when a key has used 90 % of its quota; critical from 100 %.

    The engine calls the source before each evaluation. A key that the source no longer returns
    no longer has an alert. While the source fails, all alerts stay as they are; from its third
    failure in a row on, the rule and so the evaluation fail too.

    Args:
        source: A function without arguments, async or not, that returns the quotas. One that is
            not async must not block. None: there are no quotas.
        timeout: Seconds that an async source may take.
        max_keys: Maximum number of quotas; a source may return only those near their limit.
        per_process: The source knows only the usage in its own process, such as that of a limiter
            in memory. Every process of the fleet then calls it, and reports the keys that have used
            half of their quota to the leader once in an interval; their largest share counts.

    Raises:
        ValueError: An argument is invalid.
    """
    polled = PolledSource(source, _quota, _key, _KIND, timeout=timeout, max_keys=max_keys)
    return QuotaExceeded(polled, per_process=per_process)


def _quota(row: Any) -> Quota:
    key, used, limit, tenant, unit = Quota(*row)
    return Quota(
        parse_identity(key),
        parse_number(used),
        None if limit is None else parse_number(limit),
        None if tenant is None else parse_identity(tenant),
        parse_identity(unit),
    )


def _key(row: Any) -> str:
    return parse_identity(row[0])


def _owner(traffic: Traffic, quota: Quota) -> Owner:
    """Return the tenant of the quota's key: that of the source, else that of the traffic."""
    if quota.tenant:
        return Owner(quota.tenant, traffic.tenant_names.get(quota.tenant, ""))
    return owner_of_limit(traffic, quota.key)


def _finding(
    quota: Quota, owner: Owner, share: float, threshold: float, thresholds: Thresholds
) -> Finding:
    suffix = owner.suffix(quota.key)
    steps: Steps = ((1, "critical"), (threshold, "warning"))
    subject = subject_of("key", quota.key, owner.name)
    return Finding(
        type="quota_exceeded",
        subject=subject,
        severity=severity_for(share, steps),
        keeps=severity_for(share, steps, thresholds.resolve_ratio),
        title="Quota exceeded" if share >= 1 else f"Quota at {share:.0%}",
        message=f"{name_with_id(subject)}{suffix} has used {quota.used}/{quota.limit} "
        f"{escaped(quota.unit)} ({share:.1%})",
        value=share,
        metadata={
            "used": quota.used,
            "limit": quota.limit,
            "master": quota.tenant,
            "threshold": threshold,
            **owner.metadata,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # the source is complete at once after a restart
    )

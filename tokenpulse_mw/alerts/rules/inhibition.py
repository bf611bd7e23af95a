"""Inhibition of findings that an outage explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..lifecycle import Finding

_INHIBITED = ("error_spike", "high_error_rate")
_MIN_SHARE = 0.9  # of the failures; the rest may be the usual errors


def outages(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the fingerprint of the outage alert of each upstream, by `kind:id`."""
    return {
        f"{finding.subject.kind}:{finding.subject.id}": finding.fingerprint
        for finding in findings
        if finding.type == "provider_down" and finding.severity is not None
    }


def inhibited(findings: Iterable[Finding], *, down: Mapping[str, str]) -> list[Finding]:
    """Return the findings, without severity if an outage explains them.

    An outage explains an error rate if at least 90 % of the failures came from upstreams that are
    down, or were down while the failures were counted. An inhibited finding does not fire, and
    does not resolve a firing alert. Its metadata lists the causes as `inhibited_by`.

    Args:
        findings: Findings of any rules.
        down: Upstreams that are down, from `outages`.
    """
    return [
        _inhibit(finding, down) if finding.type in _INHIBITED else finding for finding in findings
    ]


def _inhibit(finding: Finding, down: Mapping[str, str]) -> Finding:
    numbers = finding.metadata
    blamed = {name: count for name, count in numbers.get("upstreams", {}).items() if name in down}
    if not blamed or sum(blamed.values()) < _MIN_SHARE * numbers["errors"]:
        return finding
    causes = [down[name] for name in blamed]
    return replace(finding, severity=None, metadata={**numbers, "inhibited_by": causes})

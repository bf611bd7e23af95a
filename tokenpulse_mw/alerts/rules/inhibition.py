"""Inhibition of findings that an outage explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..lifecycle import Finding

_INHIBITED = ("error_spike", "high_error_rate")
_NEARLY_ALL = 0.9  # of the failures; the rest is what fails on any day


def outages(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the fingerprint of the outage alert of each upstream, by `kind:id`."""
    return {
        f"{each.subject.kind}:{each.subject.id}": each.fingerprint
        for each in findings
        if each.type == "provider_down" and each.severity is not None
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
    return [_inhibit(each, down) if each.type in _INHIBITED else each for each in findings]


def _inhibit(finding: Finding, down: Mapping[str, str]) -> Finding:
    numbers = finding.metadata
    blamed = {name: count for name, count in numbers.get("upstreams", {}).items() if name in down}
    if not blamed or sum(blamed.values()) < _NEARLY_ALL * numbers["errors"]:
        return finding
    causes = [down[name] for name in blamed]
    return replace(finding, severity=None, metadata={**numbers, "inhibited_by": causes})

"""Findings that say no more than another one that names their cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from ..lifecycle import Finding

_INHIBITED = ("error_spike", "high_error_rate")
_NEARLY_ALL = 0.9  # of the failures; the rest is what fails on any day


def outages(findings: Iterable[Finding]) -> dict[str, str]:
    """The upstreams that are down, as `kind:id`, and the fingerprint of the alert that says so."""
    return {
        f"{each.subject.kind}:{each.subject.id}": each.fingerprint
        for each in findings
        if each.type == "provider_down" and each.severity is not None
    }


def inhibited(findings: Iterable[Finding], *, down: Mapping[str, str]) -> list[Finding]:
    """The same findings of a round, those without severity that an outage explains.

    A key's or a provider's error rate is explained where at least 90 % of its failures came from
    upstreams that are down, or were so while the failures were counted. It does not fire then,
    and an alert that fires already does not end. Its metadata says what explains it, as
    `inhibited_by`.

    Args:
        findings: Of all rules together.
        down: Those upstreams, as `outages` gives them.
    """
    return [_inhibit(each, down) if each.type in _INHIBITED else each for each in findings]


def _inhibit(finding: Finding, down: Mapping[str, str]) -> Finding:
    numbers = finding.metadata
    blamed = {name: count for name, count in numbers.get("upstreams", {}).items() if name in down}
    if not blamed or sum(blamed.values()) < _NEARLY_ALL * numbers["errors"]:
        return finding
    causes = [down[name] for name in blamed]
    return replace(finding, severity=None, metadata={**numbers, "inhibited_by": causes})

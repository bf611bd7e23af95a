"""Findings that say no more than another one that names their cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..lifecycle import Finding

_INHIBITED = ("error_spike", "high_error_rate")
_NEARLY_ALL = 0.9  # of the failures; the rest is what fails on any day


def inhibited(findings: Iterable[Finding]) -> list[Finding]:
    """The same findings of a round, those without severity that an outage explains.

    A key's or a provider's error rate is explained where at least 90 % of its failures came from
    upstreams that are down now. It does not fire then, and an alert that fires already does not
    end. Its metadata says what explains it, as `inhibited_by`.
    """
    every = list(findings)
    down = {
        f"{each.subject.kind}:{each.subject.id}": each.fingerprint
        for each in every
        if each.type == "provider_down" and each.severity is not None
    }
    return [_inhibit(each, down) if each.type in _INHIBITED else each for each in every]


def _inhibit(finding: Finding, down: dict[str, str]) -> Finding:
    numbers = finding.metadata
    blamed = {name: count for name, count in numbers.get("upstreams", {}).items() if name in down}
    if not blamed or sum(blamed.values()) < _NEARLY_ALL * numbers["errors"]:
        return finding
    causes = [down[name] for name in blamed]
    return replace(finding, severity=None, metadata={**numbers, "inhibited_by": causes})

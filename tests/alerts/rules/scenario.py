"""Traffic that a test describes, and its evaluation by a rule."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenpulse_mw.alerts import Finding, Rule, Thresholds, Traffic

from ..exchanges import exchange
from ..observed_traffic import ObservedTraffic, begin_evaluation


class Scenario:
    """Traffic and thresholds of a test.

    Args:
        max_subjects: Maximum number of subjects counted separately.
        thresholds: Thresholds that differ from the default.
    """

    def __init__(self, max_subjects: int = 5, **thresholds: Any) -> None:
        self.thresholds = Thresholds(**thresholds)
        self.traffic = ObservedTraffic(self.thresholds, max_subjects=max_subjects)

    def observe(self, times: int = 1, *, now: float = 0, **fields: Any) -> None:
        """Observe `times` exchanges with these fields."""
        self.traffic.observe_all((exchange(**fields) for _ in range(times)), now)

    def evaluate(self, rule: Rule, now: float = 0) -> list[Finding]:
        """Return the findings of `rule` in an evaluation."""
        self.traffic.advance(now)
        findings = findings_of(rule, self.traffic, self.thresholds, now)
        begin_evaluation(self.traffic)
        return findings


def findings_of(
    rule: Rule, traffic: Traffic, thresholds: Thresholds, now: float = 0
) -> list[Finding]:
    """Return the findings of `rule`, without None."""
    return [finding for finding in rule(traffic, thresholds, now) if finding is not None]


def severities(findings: Iterable[Finding]) -> dict[str, str | None]:
    """Return the severity of each finding by its fingerprint."""
    return {finding.fingerprint: finding.severity for finding in findings}

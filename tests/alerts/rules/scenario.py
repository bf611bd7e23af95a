"""Traffic that rules are shown, made of exchanges."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenpulse_mw.alerts import Finding, Rule, Thresholds, Traffic

from ..exchanges import exchange


class Scenario:
    """Traffic under some thresholds, and what a rule finds in it.

    Args:
        max_subjects: Subjects that are told apart.
        chosen: Thresholds.
    """

    def __init__(self, max_subjects: int = 5, **chosen: Any) -> None:
        self.thresholds = Thresholds(**chosen)
        self.traffic = Traffic(self.thresholds, max_subjects=max_subjects)

    def observe(self, times: int = 1, *, now: float = 0, **fields: Any) -> None:
        """Let so many exchanges end now."""
        for _ in range(times):
            self.traffic.observe(exchange(**fields), now)

    def evaluate(self, rule: Rule, now: float = 0) -> list[Finding]:
        """Return what `rule` finds in an evaluation."""
        self.traffic.roll(now)
        found = findings_of(rule, self.traffic, self.thresholds, now)
        self.traffic.begin_evaluation()
        return found


def findings_of(
    rule: Rule, traffic: Traffic, thresholds: Thresholds, now: float = 0
) -> list[Finding]:
    """What `rule` finds, without the subjects that it finds nothing of."""
    return [each for each in rule(traffic, thresholds, now) if each is not None]


def severities(findings: Iterable[Finding]) -> dict[str, str | None]:
    """How bad each of the findings is, by its fingerprint."""
    return {each.fingerprint: each.severity for each in findings}

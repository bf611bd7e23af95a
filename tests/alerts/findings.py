"""Findings that a test makes up, a rule that finds them, and a sink that keeps what it hears."""

from __future__ import annotations

from typing import Any

from tokenpulse_mw.alerts import AlertEvent, Finding, Severity, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.steps import Steps


def finding(
    severity: Severity | None = "warning",
    *,
    type: str = "trouble",
    subject: str = "k1",
    window: float = 0,
    **fields: Any,
) -> Finding:
    """What a rule finds of a key that is in trouble; it knows so at once."""
    return Finding(
        type=type,
        subject=Subject("key", subject),
        severity=severity,
        title="",
        message="",
        window=window,
        **fields,
    )


def never_silenced(finding: Finding, at: float) -> Steps[bool]:
    """No silence matches."""
    yield from ()
    return False


class FixedRule:
    """A rule that finds what a test puts into `findings`."""

    def __init__(self, *found: Finding, name: str = "planned") -> None:
        self.name = name
        self.findings = list(found)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        return self.findings


class RecordingSink:
    """A sink that keeps what it is told."""

    name = "heard"

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []

    async def __call__(self, event: AlertEvent) -> None:
        self.events.append(event)

    @property
    def transitions(self) -> list[str]:
        """What happened, in order."""
        return [each.transition for each in self.events]

    def transitions_of(self, fingerprint: str) -> list[str]:
        """What happened to one alert, reminders apart."""
        return [
            each.transition
            for each in self.events
            if each.fingerprint == fingerprint and each.transition != "reminded"
        ]

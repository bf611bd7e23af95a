"""Findings, a rule with fixed findings, and a sink that records its events."""

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
    """Return a finding of a key, by a rule that needs no window."""
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
    """Return False: no silence matches."""
    yield from ()
    return False


class FixedRule:
    """A rule that returns `findings`."""

    def __init__(self, *findings: Finding, name: str = "planned") -> None:
        self.name = name
        self.findings = list(findings)

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> list[Finding]:
        return self.findings


class RecordingSink:
    """A sink that records its events."""

    name = "recorder"

    def __init__(self) -> None:
        self.events: list[AlertEvent] = []

    async def __call__(self, event: AlertEvent) -> None:
        self.events.append(event)

    @property
    def transitions(self) -> list[str]:
        """The transitions of all events, in order."""
        return [event.transition for event in self.events]

    def transitions_of(self, fingerprint: str) -> list[str]:
        """Return the transitions of one alert, without reminders."""
        return [
            event.transition
            for event in self.events
            if event.fingerprint == fingerprint and event.transition != "reminded"
        ]

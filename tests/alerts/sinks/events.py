"""Events for tests of sinks."""

from __future__ import annotations

from typing import Any

from tokenpulse_mw.alerts import AlertEvent, Finding, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import Transition

AT = 1_767_323_045.678  # 2026-01-02T03:04:05.678Z


def event(
    transition: Transition = "fired",
    severity: Severity | None = "warning",
    *,
    at: float = AT,
    subject: Subject | None = None,
    previous: Severity | None = None,
    fired_at: float | None = None,
    **fields: Any,
) -> AlertEvent:
    """Return an event of an alert on the error rate of key k1; `fields` are the finding's."""
    defaults: dict[str, Any] = {
        "type": "error_spike",
        "subject": subject or Subject("key", "k1"),
        "title": "High error rate",
        "message": "Key 'k1' has 30.0% error rate",
        "value": 0.3,
    }
    finding = Finding(severity=severity, **(defaults | fields))
    return AlertEvent(transition, finding, at, previous=previous, fired_at=fired_at)

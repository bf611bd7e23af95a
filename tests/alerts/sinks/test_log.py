"""LogSink."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, LogSink, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import Transition


def event(transition: Transition, severity: Severity | None) -> AlertEvent:
    """Return an event of the alert on the errors of key k1."""
    finding = Finding(
        type="error_spike",
        subject=Subject("key", "k1"),
        severity=severity,
        title="High error rate",
        message="Key 'k1' has 30.0% error rate",
    )
    return AlertEvent(transition, finding, at=1.7e9)


@pytest.mark.parametrize(
    ("transition", "severity", "level", "text"),
    [
        ("fired", "info", logging.INFO, "[info]: Key 'k1' has 30.0% error rate"),
        ("deescalated", "warning", logging.WARNING, "[warning]: Key 'k1' has 30.0% error rate"),
        ("reminded", "critical", logging.ERROR, "[critical]: Key 'k1' has 30.0% error rate"),
        ("resolved", "critical", logging.INFO, "[critical]: High error rate"),
        ("fired", None, logging.INFO, "[None]: Key 'k1' has 30.0% error rate"),
    ],
)
@pytest.mark.anyio
async def test_event_is_logged_at_the_level_of_its_severity(
    transition: Transition,
    severity: Severity | None,
    level: int,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A resolution is logged at INFO and has the title, not the outdated message."""
    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.alerts")

    await LogSink()(event(transition, severity))

    line = f"{transition} error_spike:key:k1 {text}"
    assert caplog.record_tuples == [("tokenpulse_mw.alerts", level, line)]


def test_all_events_of_an_alert_have_its_fingerprint() -> None:
    """Neither the transition nor the severity is part of the fingerprint."""
    assert event("fired", "info").fingerprint == "error_spike:key:k1"
    assert event("resolved", "critical").fingerprint == "error_spike:key:k1"

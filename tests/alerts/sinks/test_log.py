"""LogSink."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, LogSink, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import GLOBAL, Transition


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


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (Subject("apikey", "c1", "claude-prod"), "Provider API key failing (claude-prod)"),
        (Subject("master", "7", "Provider API"), "Provider API key failing"),
        (Subject("provider", "claude", "claude"), "Provider API key failing"),
        (GLOBAL, "Provider API key failing"),
        (Subject("apikey", "c1", "a\nforged line"), "Provider API key failing (a forged line)"),
    ],
)
@pytest.mark.anyio
async def test_resolution_has_the_name_of_its_subject(
    subject: Subject, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The title of some alerts has no name, and the fingerprint only the id."""
    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.alerts")
    finding = Finding(
        type="provider_down",
        subject=subject,
        severity="critical",
        title="Provider API key failing",
        message="",
    )

    await LogSink()(AlertEvent("resolved", finding, at=1.7e9))

    (line,) = caplog.messages
    assert line.endswith(f" [critical]: {text}")


def test_all_events_of_an_alert_have_its_fingerprint() -> None:
    """Neither the transition nor the severity is part of the fingerprint."""
    assert event("fired", "info").fingerprint == "error_spike:key:k1"
    assert event("resolved", "critical").fingerprint == "error_spike:key:k1"

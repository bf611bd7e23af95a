"""Sinks: what is written to the log."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.alerts import AlertEvent, Finding, LogSink, Severity, Subject
from tokenpulse_mw.alerts.lifecycle import Transition


def event(transition: Transition, severity: Severity | None) -> AlertEvent:
    """Something that happened to the alert on the errors of key k1."""
    finding = Finding(
        type="error_spike",
        subject=Subject("key", "k1"),
        severity=severity,
        title="High error rate",
        message="Key 'k1' has 30.0% error rate",
    )
    return AlertEvent(transition, finding, at=1.7e9)


@pytest.mark.parametrize(
    ("transition", "severity", "level", "line"),
    [
        (
            "fired",
            "info",
            logging.INFO,
            "fired error_spike:key:k1 [info]: Key 'k1' has 30.0% error rate",
        ),
        (
            "deescalated",
            "warning",
            logging.WARNING,
            "deescalated error_spike:key:k1 [warning]: Key 'k1' has 30.0% error rate",
        ),
        (
            "reminded",
            "critical",
            logging.ERROR,
            "reminded error_spike:key:k1 [critical]: Key 'k1' has 30.0% error rate",
        ),
        (
            "resolved",
            "critical",
            logging.INFO,
            "resolved error_spike:key:k1 [critical]: High error rate",
        ),
        (
            "fired",
            None,
            logging.INFO,
            "fired error_spike:key:k1 [None]: Key 'k1' has 30.0% error rate",
        ),
    ],
)
@pytest.mark.anyio
async def test_an_event_is_one_line_of_its_severitys_level(
    transition: Transition,
    severity: Severity | None,
    level: int,
    line: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A resolved alert is information, and its line does not claim what is no longer so."""
    caplog.set_level(logging.DEBUG, logger="tokenpulse_mw.alerts")

    await LogSink()(event(transition, severity))

    assert caplog.record_tuples == [("tokenpulse_mw.alerts", level, line)]


def test_an_event_is_known_by_its_alerts_fingerprint() -> None:
    """All events of one alert share it."""
    assert event("fired", "info").fingerprint == "error_spike:key:k1"
    assert event("resolved", "critical").fingerprint == "error_spike:key:k1"

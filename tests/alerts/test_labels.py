"""Labels: what alerts are sorted and silenced by."""

from __future__ import annotations

from typing import Any

import pytest

from tests.alerts.findings import finding
from tokenpulse_mw.alerts import Finding, Subject
from tokenpulse_mw.alerts.labels import NAMES, labels_of


def test_every_alert_has_every_label() -> None:
    """Those that it has not are empty, so that a matcher can ask for that."""
    labels = labels_of(finding("critical"), "warning")

    assert tuple(labels) == NAMES
    assert labels == {
        "alertname": "trouble",
        "severity": "warning",
        "subject_kind": "key",
        "subject_id": "k1",
        "metric": "",
        "provider": "",
    }


def test_an_alert_without_severity_has_an_empty_one() -> None:
    """None is no text."""
    assert labels_of(finding(None), None)["severity"] == ""


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude", "Claude"), {}, "claude"),
        (Subject("apikey", "c1", "claude"), {}, "claude"),
        (Subject("key", "k1", "claude"), {}, ""),
        (Subject("key", "k1"), {"provider": "gemini"}, "gemini"),
        (Subject("key", "k1"), {"provider": 5}, ""),
        (Subject("provider", "claude"), {"provider": "gemini"}, "claude"),
    ],
)
def test_the_provider_is_whom_it_is_about_or_what_the_rule_says(
    subject: Subject, metadata: dict[str, Any], provider: str
) -> None:
    """A credential is named for its provider; of others only the rule can know."""
    found = Finding(
        type="t", subject=subject, severity="info", title="", message="", metadata=metadata
    )

    assert labels_of(found, "info")["provider"] == provider


def test_a_metric_is_a_label() -> None:
    """Spikes of one master are told apart by it."""
    assert labels_of(finding(metric="master_rpm"), "info")["metric"] == "master_rpm"

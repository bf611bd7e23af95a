"""Alerts in the form that Alertmanager takes."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.alerts.sinks.events import AT, event
from tokenpulse_mw.alerts import Subject
from tokenpulse_mw.alerts.sinks import AlertmanagerSink
from tokenpulse_mw.alerts.sinks.am_alert import Form, alerts_of

FORM = Form({}, "", 240)
URL = "http://alertmanager.test:9093"


def test_an_alert_is_known_by_its_labels() -> None:
    """And what may change while it lasts is in its annotations; it ends if not sent again."""
    form = Form({"cluster": "eu-1"}, "http://gateway.test/alerts", 240)
    told = event(metric="rate", fired_at=AT - 60, metadata={"provider": "claude"})

    assert alerts_of(told, form, AT) == [
        {
            "labels": {
                "cluster": "eu-1",
                "alertname": "error_spike",
                "severity": "warning",
                "subject_kind": "key",
                "subject_id": "k1",
                "metric": "rate",
                "provider": "claude",
            },
            "annotations": {
                "summary": "High error rate",
                "description": "Key 'k1' has 30.0% error rate",
                "value": "0.3",
            },
            "startsAt": "2026-01-02T03:03:05.678Z",
            "endsAt": "2026-01-02T03:08:05.678Z",
            "generatorURL": "http://gateway.test/alerts",
        }
    ]


def test_what_is_resolved_has_ended_when_it_did() -> None:
    """However much later it is told."""
    (alert,) = alerts_of(event("resolved", fired_at=AT - 60), FORM, AT + 1000)

    assert alert["startsAt"] == "2026-01-02T03:03:05.678Z"
    assert alert["endsAt"] == "2026-01-02T03:04:05.678Z"


def test_a_change_of_severity_ends_one_alert_and_begins_another() -> None:
    """To Alertmanager they are two, since their labels differ."""
    old, new = alerts_of(event("escalated", "critical", previous="warning"), FORM, AT)

    assert (old["labels"]["severity"], old["endsAt"]) == ("warning", "2026-01-02T03:04:05.678Z")
    assert (new["labels"]["severity"], new["endsAt"]) == ("critical", "2026-01-02T03:08:05.678Z")
    assert len(alerts_of(event("reminded", previous="warning"), FORM, AT)) == 1


@pytest.mark.parametrize(
    ("subject", "metadata", "provider"),
    [
        (Subject("provider", "claude"), {}, "claude"),
        (Subject("apikey", "c1", "gemini"), {"provider": "claude"}, "gemini"),
        (Subject("apikey", "c1"), {}, None),
        (Subject("key", "k1", "claude"), {"provider": 7}, None),
        (Subject("key", "k1"), {"provider": "codex"}, "codex"),
    ],
)
def test_an_alert_says_which_provider_it_is_about(
    subject: Subject, metadata: dict[str, Any], provider: str | None
) -> None:
    """Where it is about one; an empty label would be none at all."""
    (alert,) = alerts_of(event(subject=subject, metadata=metadata), FORM, AT)

    assert alert["labels"].get("provider") == provider
    assert alert["annotations"].get("subject_name") == (subject.name or None)


@given(st.text(), st.text(), st.text(), st.floats(0, 4e9), st.floats(0, 4e9))
def test_whatever_it_is_about_alertmanager_takes_it(
    identity: str, name: str, metric: str, at: float, fired_at: float
) -> None:
    """Names of labels are words, values are text and not empty, and it ends after it begins."""
    told = event(
        "resolved", at=at, fired_at=fired_at, subject=Subject("key", identity, name), metric=metric
    )
    (alert,) = alerts_of(told, FORM, at)

    msgspec.json.encode(alert)
    for label, value in alert["labels"].items():
        assert re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", label)
        assert 1 <= len(value) <= 200
    starts, ends = (datetime.fromisoformat(alert[each]) for each in ("startsAt", "endsAt"))
    assert starts <= ends


@given(st.lists(st.text(alphabet="ab\n\ud800\u202e", max_size=4), unique=True))
def test_two_subjects_are_never_one(ids: list[str]) -> None:
    """Also where their ids cannot be sent as they are."""
    ids = [*ids, "x" * 300 + "1", "x" * 300 + "2"]
    sent = [
        alerts_of(event(subject=Subject("key", identity)), FORM, AT)[0]["labels"].get("subject_id")
        for identity in ids
    ]

    assert len(set(sent)) == len(ids)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"bad-name": "x"}, r"must match \[a-zA-Z_\]"),
        ({"": "x"}, "must match"),
        ({1: "x"}, "must match"),
        ({"severity": "page"}, "choose another name"),
        ({"cluster": ""}, "1 to 200"),
        ({"cluster": "a\nb"}, "1 to 200"),
        ({"cluster": "x" * 201}, "1 to 200"),
        ({"cluster": 7}, "1 to 200"),
    ],
)
def test_labels_that_would_be_refused_are_refused_at_once(labels: Any, message: str) -> None:
    """Before one of them spoils a batch of alerts."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(URL, labels=labels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"urls": []}, "at least one"),
        ({"urls": "alertmanager:9093"}, "^url must be"),
        ({"urls": [URL, None]}, "^url must be"),
        ({"generator_url": "/alerts"}, "^generator_url must be"),
        (
            {"resend_every": 0},
            "^resend_every must be .* above 0 and at most 86400, got 0$",
        ),
        ({"timeout": -1}, "^timeout must be a number of seconds above 0 and at most 600, got -1$"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    """When the sink is built."""
    with pytest.raises(ValueError, match=message):
        AlertmanagerSink(**({"urls": URL} | settings))

"""SlackSink: readable messages without markup or mentions from names of tenants."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Severity, Subject
from tokenpulse_mw.alerts.lifecycle import Transition
from tokenpulse_mw.alerts.sinks import SlackSink
from tokenpulse_mw.alerts.sinks.slack import message

from ...support.receiver import Receiver
from .events import AT, event


@pytest.mark.anyio
async def test_message_has_the_colour_of_the_severity() -> None:
    """The receiver gets the body of an incoming webhook, with the colour of the severity."""
    with Receiver() as receiver:
        sink = SlackSink(receiver.url + "/services/T0/B0/x")
        await sink(event(severity="critical", fired_at=AT - 60))
        await sink.aclose()

    assert receiver.received[0].json == {
        "text": "[CRITICAL] High error rate",
        "mrkdwn": False,
        "attachments": [
            {
                "color": "#a30200",
                "fallback": "[CRITICAL] High error rate",
                "text": "Key 'k1' has 30.0% error rate",
                "fields": [
                    {"title": "Severity", "value": "critical", "short": True},
                    {"title": "Subject", "value": "key k1", "short": True},
                    {"title": "Since", "value": "2026-01-02T03:03:05.678Z", "short": True},
                ],
                "footer": "error_spike:key:k1",
                "ts": 1767323045,
                "mrkdwn_in": [],
            }
        ],
    }


def parts(transition: Transition, severity: Severity | None, **fields: Any) -> tuple[str, ...]:
    """Return the text, colour, message and severity of a message."""
    body = message(event(transition, severity, **fields))
    (attachment,) = body["attachments"]
    values = (attachment["color"], attachment["text"], attachment["fields"][0]["value"])
    return (body["text"], *values)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (Subject("master", "7", "Acme"), "master 7 (Acme)"),
        (Subject("provider", "claude", "claude"), "provider claude"),
        (Subject("key", "k1"), "key k1"),
    ],
)
def test_subject_has_its_name_unless_it_is_the_id(subject: Subject, text: str) -> None:
    """A provider is not named twice."""
    body = message(event(subject=subject))

    assert body["attachments"][0]["fields"][1]["value"] == text


@pytest.mark.parametrize(
    ("url", "is_shown"),
    [
        ("https://wiki.example/ai#error_spike", True),
        ("javascript:alert(1)", False),
        ("https://wiki.example/ai page", False),
        ("https://wiki.example/\u202e", False),
        (7, False),
    ],
)
def test_message_links_to_the_runbook(url: Any, is_shown: bool) -> None:
    """If the metadata has the URL of a page, and while the alert fires."""
    metadata = {"runbook_url": url}
    shown = {"title": "Runbook", "title_link": url}

    [firing] = message(event(metadata=metadata))["attachments"]
    [resolved] = message(event("resolved", metadata=metadata))["attachments"]

    assert (firing | shown == firing) is is_shown
    assert "title_link" not in resolved


def test_resolved_alert_is_green_without_its_message() -> None:
    """A resolved alert has no message, because its problem is over."""
    assert parts("resolved", "critical") == (
        "[RESOLVED] High error rate",
        "#2eb886",
        "",
        "critical",
    )


def test_changed_severity_is_shown_with_the_previous_one() -> None:
    """A message about a changed severity has both severities and the colour of the new one."""
    text, colour, _, severity = parts("escalated", "critical", previous="warning")

    assert (text, colour) == ("[ESCALATED] High error rate", "#a30200")
    assert severity == "warning to critical"


def test_event_without_severity_is_shown_as_info() -> None:
    """An event without a severity has the label and the colour of info."""
    assert parts("fired", None)[:2] == ("[INFO] High error rate", "#439fe0")


def test_markup_and_mentions_in_names_are_escaped() -> None:
    """A name cannot add a link, a mention or a line."""
    body = message(
        event(
            title="<!channel> & <http://evil|bank>\n[CRITICAL] x",
            subject=Subject("key", "k1", "@here @channels @Everyone"),
        )
    )

    assert body["text"] == (
        "[WARNING] &lt;!channel&gt; &amp; &lt;http://evil|bank&gt; [CRITICAL] x"
    )
    subject = body["attachments"][0]["fields"][1]["value"]
    assert subject == "key k1 (@\u200bhere @channels @\u200bEveryone)"


@given(st.text(alphabet=st.sampled_from("&<>@here \n\ud800x"), max_size=400), st.integers(1, 20))
def test_long_text_is_escaped_and_truncated(text: str, times: int) -> None:
    """Any text is escaped, and truncated to the limits of Slack."""
    long = text * times
    body = message(event(title=long, message=long, subject=Subject("key", long, long)))
    (attachment,) = body["attachments"]
    texts = [body["text"], attachment["text"], attachment["footer"]]
    texts += [field["value"] for field in attachment["fields"]]

    assert len(body["text"]) <= 180
    assert len(attachment["text"]) <= 3000
    for shown in texts:
        assert not re.search(r"[<>\n\ud800]|&(?!(?:amp|lt|gt);)|@here\b", shown)

"""SlackSink: messages that people read, and that names of tenants cannot abuse."""

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
async def test_an_alert_is_a_message_in_the_colour_of_its_severity() -> None:
    """A real server is sent what Slack's incoming webhooks take."""
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


def parts(transition: Transition, severity: Severity | None, **more: Any) -> tuple[str, ...]:
    """The text, colour, message and severity of what is told."""
    body = message(event(transition, severity, **more))
    (attachment,) = body["attachments"]
    values = (attachment["color"], attachment["text"], attachment["fields"][0]["value"])
    return (body["text"], *values)


def test_what_is_resolved_is_green_and_claims_nothing() -> None:
    """The message is about what is no longer so."""
    assert parts("resolved", "critical") == (
        "[RESOLVED] High error rate",
        "#2eb886",
        "",
        "critical",
    )


def test_a_change_of_severity_says_from_what_to_what() -> None:
    """And has the colour of what it is now."""
    text, colour, _, severity = parts("escalated", "critical", previous="warning")

    assert (text, colour) == ("[ESCALATED] High error rate", "#a30200")
    assert severity == "warning to critical"


def test_an_event_without_a_severity_is_for_information() -> None:
    """As one that a rule of one's own may give."""
    assert parts("fired", None)[:2] == ("[INFO] High error rate", "#439fe0")


def test_a_name_is_text_and_nothing_else() -> None:
    """It neither links, nor mentions, nor calls everybody, nor begins a line of its own."""
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
def test_a_message_is_as_long_as_slack_takes_it(text: str, times: int) -> None:
    """However long the text is, and however much of it has to be written otherwise."""
    long = text * times
    body = message(event(title=long, message=long, subject=Subject("key", long, long)))
    (attachment,) = body["attachments"]
    shown = [body["text"], attachment["text"], attachment["footer"]]
    shown += [field["value"] for field in attachment["fields"]]

    assert len(body["text"]) <= 180
    assert len(attachment["text"]) <= 3000
    for each in shown:
        assert not re.search(r"[<>\n\ud800]|&(?!(?:amp|lt|gt);)|@here\b", each)

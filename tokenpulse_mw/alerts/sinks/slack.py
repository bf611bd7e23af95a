"""Sink that posts alerts to an incoming webhook of Slack or a compatible service."""

from __future__ import annotations

import re
from typing import Any

from ...web.text import single_line
from .event import AlertEvent, rfc3339
from .http import HttpSink, to_json

_COLOURS = {"info": "#439fe0", "warning": "#daa038", "critical": "#a30200"}
_RESOLVED = "#2eb886"
_MAX_CHARS = {"title": 150, "message": 3000, "field": 300}
_MENTIONS = re.compile(r"@(?=(?:all|channel|everyone|here)\b)", re.IGNORECASE)


class SlackSink(HttpSink):
    """Posts a message for each event, in the colour of its severity; green if resolved.

    The message has `text` and one attachment, which Slack, Mattermost and Rocket.Chat support.
    Markup, links and mentions in names of tenants are escaped.

    Args:
        url: URL of the incoming webhook. It is a secret: logs and errors show only its origin.
        timeout: Seconds for one attempt.
        headers: Additional headers.
        allow_private: As in `WebhookSink`.
        transport: As in `WebhookSink`.
        wall: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is invalid, or httpx2 is not installed.
    """

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt.

        Raises:
            Rejected: The receiver will never accept this event.
            RetryLater: The receiver did not accept it now.
        """
        await self._client.post(to_json(lambda: message(event)))


def message(event: AlertEvent) -> dict[str, Any]:
    """Return the body for an incoming webhook; a resolved alert has no message of its problem."""
    finding, subject = event.finding, event.finding.subject
    resolved = event.transition == "resolved"
    severity = finding.severity or "info"
    name = "" if subject.name in ("", subject.id) else f" ({subject.name})"
    fields = {
        "Severity": f"{event.previous} to {severity}" if event.previous else severity,
        "Subject": f"{subject.kind} {subject.id}{name}",
        "Since": rfc3339(event.began),
    }
    label = severity if event.transition == "fired" else event.transition
    text = f"[{label.upper()}] {_escape(finding.title, 'title')}"
    attachment = {
        "color": _RESOLVED if resolved else _COLOURS[severity],
        "fallback": text,
        "text": "" if resolved else _escape(finding.message, "message"),
        "fields": [
            {"title": name, "value": _escape(value, "field"), "short": True}
            for name, value in fields.items()
        ],
        "footer": _escape(event.fingerprint, "field"),
        "ts": int(event.at),
        "mrkdwn_in": [],
    }
    if finding.runbook_url and not resolved:
        attachment |= {"title": "Runbook", "title_link": finding.runbook_url}
    return {"text": text, "mrkdwn": False, "attachments": [attachment]}


def _escape(text: str, kind: str) -> str:
    """Return `text` without markup, links and mentions, truncated to the maximum of its kind."""
    max_chars = _MAX_CHARS[kind]
    text = _MENTIONS.sub("@\u200b", single_line(text, max_chars))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"&[a-z]*\Z", "", text[:max_chars])  # removes a truncated entity

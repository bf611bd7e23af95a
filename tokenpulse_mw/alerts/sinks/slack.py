"""The sink that posts alerts to an incoming webhook of Slack, or of who speaks like it."""

from __future__ import annotations

import re
from typing import Any

from .event import AlertEvent, rfc3339
from .http import HttpSink, to_json
from .text import single_line

_COLOURS = {"info": "#439fe0", "warning": "#daa038", "critical": "#a30200"}
_RESOLVED = "#2eb886"
_LONGEST = {"title": 150, "message": 3000, "field": 300}  # characters
_CALLS = re.compile(r"@(?=(?:all|channel|everyone|here)\b)", re.IGNORECASE)


class SlackSink(HttpSink):
    """Posts a message for each event, coloured by severity, green when it is resolved.

    It is written with `text` and one attachment, which Slack, Mattermost and Rocket.Chat read.
    Names of tenants stand in it as they are: they cannot format the message, link, or call
    anybody.

    Args:
        url: The incoming webhook. It is a secret: logs and errors only show its host.
        timeout: Seconds for one attempt.
        headers: Sent as well.
        allow_private: As in `WebhookSink`.
        transport: As in `WebhookSink`.
        wall: Seconds since the epoch.

    Raises:
        ValueError: One of the settings cannot be, or httpx2 is not installed.
    """

    async def __call__(self, event: AlertEvent) -> None:
        """Make one attempt.

        Raises:
            Rejected: The receiver will never take this event.
            Later: The receiver did not take it now.
        """
        await self._poster.post(to_json(lambda: message(event)))


def message(event: AlertEvent) -> dict[str, Any]:
    """The body of an incoming webhook; what is resolved does not claim what is no longer so."""
    finding, subject = event.finding, event.finding.subject
    resolved = event.transition == "resolved"
    severity = finding.severity or "info"
    fields = {
        "Severity": f"{event.previous} to {severity}" if event.previous else severity,
        "Subject": f"{subject.kind} {subject.id}" + (f" ({subject.name})" if subject.name else ""),
        "Since": rfc3339(event.began),
    }
    label = severity if event.transition == "fired" else event.transition
    text = f"[{label.upper()}] {_harmless(finding.title, 'title')}"
    attachment = {
        "color": _RESOLVED if resolved else _COLOURS[severity],
        "fallback": text,
        "text": "" if resolved else _harmless(finding.message, "message"),
        "fields": [
            {"title": name, "value": _harmless(value, "field"), "short": True}
            for name, value in fields.items()
        ],
        "footer": _harmless(event.fingerprint, "field"),
        "ts": int(event.at),
        "mrkdwn_in": [],
    }
    return {"text": text, "mrkdwn": False, "attachments": [attachment]}


def _harmless(text: str, kind: str) -> str:
    """`text` as what it is: no markup, no link, no mention, and no longer than its kind may be."""
    longest = _LONGEST[kind]
    text = _CALLS.sub("@\u200b", single_line(text, longest))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"&[a-z]*\Z", "", text[:longest])  # half an entity would not be one

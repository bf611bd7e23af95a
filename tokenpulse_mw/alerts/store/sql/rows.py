"""Records as rows of the tables, and rows as records."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row

from ..records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Matcher,
    Notification,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
    json_text,
)

Values = dict[str, Any]


def alert_values(alert: AlertRecord) -> Values:
    """The row of an alert."""
    return {
        **{name: getattr(alert, name) for name in AlertRecord.__slots__},
        "subject": alert.subject,
        "finding": json_text(f"finding of {alert.fingerprint!r}", alert.finding),
        "ack": ack_text(alert.ack),
    }


def ack_text(ack: Ack | None) -> str | None:
    """Who has seen an alert, as in its row."""
    return None if ack is None else json_text("ack", asdict(ack))


def alert_of(row: Row[Any]) -> AlertRecord:
    """The alert of a row."""
    values = {name: row._mapping[name] for name in AlertRecord.__slots__}
    values["finding"] = json.loads(values["finding"])
    values["ack"] = values["ack"] and Ack(**json.loads(values["ack"]))
    return AlertRecord(**values)


def transition_values(transition: TransitionRecord) -> Values:
    """The row of a transition."""
    return asdict(transition)


def transition_of(row: Row[Any]) -> TransitionRecord:
    """The transition of a row."""
    return TransitionRecord(*(row._mapping[name] for name in TransitionRecord.__slots__))


def notification_values(notification: Notification) -> Values:
    """The row of a notification."""
    return {
        **{name: getattr(notification, name) for name in Notification.__slots__},
        "event": json_text(f"event of {notification.fingerprint!r}", notification.event),
    }


def notification_of(row: Row[Any]) -> Notification:
    """The notification of a row."""
    values = {name: row._mapping[name] for name in Notification.__slots__}
    return Notification(**{**values, "event": json.loads(values["event"])})


def dead_letter_of(row: Row[Any]) -> DeadLetter:
    """The dead letter of a row."""
    notification = notification_of(row)
    return DeadLetter(notification, row._mapping["dead_at"], notification.last_error or "")


def silence_values(silence: Silence) -> Values:
    """The row of a silence."""
    values = {name: getattr(silence, name) for name in Silence.__slots__}
    return {**values, "matchers": json_text("matchers", silence.matchers)}


def silence_of(row: Row[Any]) -> Silence:
    """The silence of a row."""
    values = {name: row._mapping[name] for name in Silence.__slots__}
    matchers = tuple(Matcher(*each) for each in json.loads(values["matchers"]))
    return Silence(**{**values, "matchers": matchers})


def thresholds_values(version: ThresholdsVersion) -> Values:
    """The row of a version of the thresholds."""
    values = {name: getattr(version, name) for name in ThresholdsVersion.__slots__}
    return {**values, "values": json_text("values", version.values)}


def thresholds_of(row: Row[Any]) -> ThresholdsVersion:
    """The version of the thresholds of a row."""
    values = {name: row._mapping[name] for name in ThresholdsVersion.__slots__}
    return ThresholdsVersion(**{**values, "values": json.loads(values["values"])})

"""Conversion between records and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

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

Values = dict[str, Any]  # a row to write, by column
Row = Mapping[str, Any]  # a row that was read, by column


def alert_values(alert: AlertRecord) -> Values:
    """Return the row of an alert."""
    return {
        **{name: getattr(alert, name) for name in AlertRecord.__slots__},
        "subject": alert.subject,
        "finding": json_text(f"finding of {alert.fingerprint!r}", alert.finding),
        "ack": ack_text(alert.ack),
    }


def ack_text(ack: Ack | None) -> str | None:
    """Return the column of an acknowledgement."""
    return None if ack is None else json_text("ack", asdict(ack))


def alert_of(row: Row) -> AlertRecord:
    """Return the alert of a row."""
    values = {name: row[name] for name in AlertRecord.__slots__}
    values["finding"] = json.loads(values["finding"])
    values["ack"] = values["ack"] and Ack(**json.loads(values["ack"]))
    return AlertRecord(**values)


def transition_values(transition: TransitionRecord) -> Values:
    """Return the row of a transition."""
    return asdict(transition)


def transition_of(row: Row) -> TransitionRecord:
    """Return the transition of a row."""
    return TransitionRecord(*(row[name] for name in TransitionRecord.__slots__))


def notification_values(notification: Notification) -> Values:
    """Return the row of a notification."""
    return {
        **{name: getattr(notification, name) for name in Notification.__slots__},
        "event": json_text(f"event of {notification.fingerprint!r}", notification.event),
    }


def notification_of(row: Row) -> Notification:
    """Return the notification of a row."""
    values = {name: row[name] for name in Notification.__slots__}
    return Notification(**{**values, "event": json.loads(values["event"])})


def dead_letter_of(row: Row) -> DeadLetter:
    """Return the dead letter of a row."""
    notification = notification_of(row)
    return DeadLetter(notification, row["dead_at"], notification.last_error or "")


def silence_values(silence: Silence) -> Values:
    """Return the row of a silence."""
    values = {name: getattr(silence, name) for name in Silence.__slots__}
    return {**values, "matchers": json_text("matchers", silence.matchers)}


def silence_of(row: Row) -> Silence:
    """Return the silence of a row."""
    values = {name: row[name] for name in Silence.__slots__}
    matchers = tuple(Matcher(*matcher) for matcher in json.loads(values["matchers"]))
    return Silence(**{**values, "matchers": matchers})


def thresholds_values(version: ThresholdsVersion) -> Values:
    """Return the row of a version of the thresholds."""
    values = {name: getattr(version, name) for name in ThresholdsVersion.__slots__}
    return {**values, "values": json_text("values", version.values)}


def thresholds_of(row: Row) -> ThresholdsVersion:
    """Return the version of the thresholds of a row."""
    values = {name: row[name] for name in ThresholdsVersion.__slots__}
    return ThresholdsVersion(**{**values, "values": json.loads(values["values"])})

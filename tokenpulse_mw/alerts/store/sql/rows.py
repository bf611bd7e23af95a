"""Rows, and their conversion to and from records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from ...steps import batches, in_steps, mapped
from ..records import (
    Ack,
    AlertRecord,
    DeadLetter,
    Matcher,
    Member,
    Notification,
    Process,
    Silence,
    ThresholdsVersion,
    TransitionRecord,
    json_text,
)

Values = dict[str, Any]  # a row to write, by column
Row = Mapping[str, Any]  # a row that was read, by column
# SQLAlchemy is an extra, imported when a store is created; this is its `AsyncConnection`.
Connection = Any

_Record = TypeVar("_Record")


async def fetch(
    connection: Connection, convert: Callable[[Row], _Record], query: Any, **values: Any
) -> list[_Record]:
    """Return the records of a query."""
    result = await connection.execute(query, values)
    return await in_steps(mapped(convert, result.mappings()))


async def execute_many(connection: Connection, statement: Any, rows: Iterable[Values]) -> None:
    """Execute a statement for each of `rows`."""
    for batch in batches(rows):
        await connection.execute(statement, batch)


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


def queue_length_of(row: Row) -> tuple[str, int]:
    """Return the sink and the number of notifications of a row."""
    return row["sink"], row["waiting"]


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


def process_values(process: Process) -> Values:
    """Return the columns of a process."""
    values = {name: getattr(process, name) for name in Process.__slots__}
    return {
        **values,
        "rules": json_text("rules", process.rules),
        "sinks": json_text("sinks", process.sinks),
    }


def member_of(row: Row) -> Member:
    """Return the member of a row."""
    values = {name: row[name] for name in Process.__slots__}
    values |= {name: tuple(json.loads(values[name])) for name in ("rules", "sinks")}
    return Member(Process(**values), row["seen_at"], row["pushed"], row["through"])


def setting_of(row: Row) -> tuple[str, Any]:
    """Return the name and value of a setting."""
    return row["name"], json.loads(row["value"])

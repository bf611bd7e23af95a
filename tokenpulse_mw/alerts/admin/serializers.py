"""Conversion of stored records to bodies of responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from .. import lifecycle
from ..controls import Controls
from ..serialization import finding_from_dict, finding_to_dict, number
from ..store import records
from . import schemas

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799  # years 1 to 9999


def to_datetime(seconds: float) -> datetime:
    """Return a stored time as a date, limited to the years 1 to 9999."""
    return _EPOCH + timedelta(seconds=min(max(seconds, _MIN_SECONDS), _MAX_SECONDS))


def to_datetime_or_none(seconds: float | None) -> datetime | None:
    """Return a stored time as a date, or None."""
    return None if seconds is None else to_datetime(seconds)


def alert(record: records.AlertRecord, controls: Controls) -> schemas.Alert:
    """Return the body of an alert."""
    return schemas.Alert(
        id=record.id,
        fingerprint=record.fingerprint,
        rule=record.rule,
        type=record.type,
        severity=record.severity,
        state=record.state,
        **_finding_fields(record),
        started_at=to_datetime(record.started_at),
        fired_at=to_datetime_or_none(record.fired_at),
        resolved_at=to_datetime_or_none(record.resolved_at),
        resolve_reason=record.resolve_reason,
        since=to_datetime(record.since),
        ack=_ack(record.ack),
        silenced_by=_silenced_by(record, controls),
    )


def details(
    record: records.AlertRecord, controls: Controls, transitions: Iterable[records.TransitionRecord]
) -> schemas.AlertDetails:
    """Return the body of an alert with its transitions."""
    return schemas.AlertDetails(
        **msgspec.structs.asdict(alert(record, controls)),
        transitions=[
            schemas.Transition(
                transition.transition,
                transition.severity,
                transition.value,
                to_datetime(transition.at),
            )
            for transition in transitions
        ],
    )


def finding(result: lifecycle.Finding) -> schemas.Finding:
    """Return the body of a finding."""
    values = finding_to_dict(result)
    subject = schemas.Subject(**{name: str(text) for name, text in values["subject"].items()})
    names = ("type", "metric", "severity", "title", "message", "value", "metadata", "hold_for")
    return schemas.Finding(
        fingerprint=result.fingerprint, subject=subject, **{name: values[name] for name in names}
    )


def silence(record: records.Silence) -> schemas.Silence:
    """Return the body of a silence."""
    return schemas.Silence(
        record.id,
        [schemas.Matcher(*matcher) for matcher in record.matchers],
        to_datetime(record.starts_at),
        to_datetime(record.ends_at),
        record.created_by,
        record.comment,
    )


def _silenced_by(record: records.AlertRecord, controls: Controls) -> str | None:
    """Return the id of an active silence that matches an open alert, or None."""
    if record.state == "resolved":
        return None
    try:
        return controls.silenced_by(finding_from_dict(record.finding))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # the stored finding is malformed; the engine has logged it


def _finding_fields(record: records.AlertRecord) -> dict[str, Any]:
    """Return the fields of the finding; other versions may have stored it without some."""
    values = record.finding
    kind, _, identity = record.subject.partition(":")
    subject, value, metadata = values.get("subject"), values.get("value"), values.get("metadata")
    name = subject.get("name") if isinstance(subject, Mapping) else ""
    return {
        **{field: _text(values.get(field)) for field in ("metric", "title", "message")},
        "subject": schemas.Subject(kind, identity, _text(name)),
        "value": number(value) if isinstance(value, int | float) else None,
        "metadata": metadata if isinstance(metadata, dict) else {},
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _ack(ack: records.Ack | None) -> schemas.Acknowledgement | None:
    return None if ack is None else schemas.Acknowledgement(ack.by, to_datetime(ack.at), ack.note)

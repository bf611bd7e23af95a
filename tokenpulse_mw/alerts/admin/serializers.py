"""Conversion of stored records to bodies of responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from .. import lifecycle
from ..controls import Controls
from ..serialization import finding_from_dict, finding_to_dict, number, replace_surrogates
from ..store import records
from . import schemas

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MIN_SECONDS, _MAX_SECONDS = -62_135_596_800, 253_402_300_799  # years 1 to 9999

Covers = Callable[[records.AlertRecord], str | None]


def as_json(value: object) -> bytes:
    """Return `value` as JSON; lone surrogates, as in the name of a tenant, are replaced."""
    plain = msgspec.to_builtins(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return replace_surrogates(text).encode()


def when(seconds: float) -> datetime:
    """Return a stored time as a date, limited to the years 1 to 9999."""
    return _EPOCH + timedelta(seconds=min(max(seconds, _MIN_SECONDS), _MAX_SECONDS))


def when_if(seconds: float | None) -> datetime | None:
    """Return a stored time as a date, or None."""
    return None if seconds is None else when(seconds)


def alert(record: records.AlertRecord, covers: Covers) -> schemas.Alert:
    """Return the body of an alert."""
    return schemas.Alert(
        id=record.id,
        fingerprint=record.fingerprint,
        rule=record.rule,
        type=record.type,
        severity=record.severity,
        state=record.state,
        **_finding_fields(record),
        started_at=when(record.started_at),
        fired_at=when_if(record.fired_at),
        resolved_at=when_if(record.resolved_at),
        resolve_reason=record.resolve_reason,
        since=when(record.since),
        ack=_ack(record.ack),
        silenced_by=covers(record),
    )


def details(
    record: records.AlertRecord, covers: Covers, transitions: Iterable[records.TransitionRecord]
) -> schemas.AlertDetails:
    """Return the body of an alert with its transitions."""
    return schemas.AlertDetails(
        **msgspec.structs.asdict(alert(record, covers)),
        transitions=[
            schemas.Transition(
                transition.transition, transition.severity, transition.value, when(transition.at)
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
        when(record.starts_at),
        when(record.ends_at),
        record.created_by,
        record.comment,
    )


def covered(controls: Controls) -> Covers:
    """Return a function that returns the id of an active silence that matches an open alert."""

    def covers(record: records.AlertRecord) -> str | None:
        if record.state == "resolved":
            return None
        try:
            return controls.silenced_by(finding_from_dict(record.finding))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None  # the stored finding is malformed; the engine has logged it

    return covers


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
    return None if ack is None else schemas.Acknowledgement(ack.by, when(ack.at), ack.note)

"""What is kept, as the API shows it."""

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


_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # seconds, from year 1 to year 9999


Covers = Callable[[records.AlertRecord], str | None]


def as_json(value: object) -> bytes:
    """`value` as JSON; half a surrogate pair, as a tenant may have in its name, is replaced."""
    plain = msgspec.to_builtins(value)
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return replace_surrogates(text).encode()


def when(seconds: float) -> datetime:
    """A time of the store, as far as years have four digits."""
    return _EPOCH + timedelta(seconds=min(max(seconds, _FIRST), _LAST))


def when_if(seconds: float | None) -> datetime | None:
    """The same of a time that may be none."""
    return None if seconds is None else when(seconds)


def alert(record: records.AlertRecord, covers: Covers) -> schemas.Alert:
    """An alert, and the silence that covers it."""
    return schemas.Alert(
        id=record.id,
        fingerprint=record.fingerprint,
        rule=record.rule,
        type=record.type,
        severity=record.severity,
        state=record.state,
        **_found(record),
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
    """An alert, and what happened to it."""
    shown = msgspec.structs.asdict(alert(record, covers))
    happened = [
        schemas.Transition(each.transition, each.severity, each.value, when(each.at))
        for each in transitions
    ]
    return schemas.AlertDetails(**shown, transitions=happened)


def finding(found: lifecycle.Finding) -> schemas.Finding:
    """What a rule has found."""
    kept = finding_to_dict(found)
    subject = schemas.Subject(**{name: str(each) for name, each in kept["subject"].items()})
    names = ("type", "metric", "severity", "title", "message", "value", "metadata", "hold_for")
    return schemas.Finding(
        fingerprint=found.fingerprint, subject=subject, **{name: kept[name] for name in names}
    )


def silence(kept: records.Silence) -> schemas.Silence:
    """A silence."""
    return schemas.Silence(
        kept.id,
        [schemas.Matcher(*each) for each in kept.matchers],
        when(kept.starts_at),
        when(kept.ends_at),
        kept.created_by,
        kept.comment,
    )


def covered(controls: Controls) -> Covers:
    """Tells of an alert which silence covers it now; one that is over needs none."""

    def covers(record: records.AlertRecord) -> str | None:
        if record.state == "resolved":
            return None
        try:
            return controls.silenced_by(finding_from_dict(record.finding))
        except (AttributeError, KeyError, TypeError, ValueError):
            return None  # what was kept cannot be read; the engine has logged it

    return covers


def _found(record: records.AlertRecord) -> dict[str, Any]:
    """What the rule found; of what another version has kept, something may be missing."""
    kept = record.finding
    kind, _, identity = record.subject.partition(":")
    subject, value, metadata = kept.get("subject"), kept.get("value"), kept.get("metadata")
    name = subject.get("name") if isinstance(subject, Mapping) else ""
    return {
        **{each: _text(kept.get(each)) for each in ("metric", "title", "message")},
        "subject": schemas.Subject(kind, identity, _text(name)),
        "value": number(value) if isinstance(value, int | float) else None,
        "metadata": metadata if isinstance(metadata, dict) else {},
    }


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _ack(ack: records.Ack | None) -> schemas.Acknowledgement | None:
    return None if ack is None else schemas.Acknowledgement(ack.by, when(ack.at), ack.note)

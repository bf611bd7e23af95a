"""Alerts as Alertmanager has them: known by their labels, and over when their end has passed."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..labels import NAMES, labels_of
from ..lifecycle import Finding, Severity
from ..portable import number
from .event import AlertEvent, rfc3339
from .text import plain

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_LONGEST_LABEL, _LONGEST_ANNOTATION = 200, 2000  # characters

Alert = dict[str, Any]


class Form(NamedTuple):
    """What all alerts of a sink have in common.

    Attributes:
        labels: Added to every alert.
        generator_url: Where its reader may look closer, empty for nowhere.
        lifetime: Seconds after which an alert that is not sent again is over.
    """

    labels: Mapping[str, str]
    generator_url: str
    lifetime: float


def alerts_of(event: AlertEvent, form: Form, now: float) -> list[Alert]:
    """What to send of an event; of a change of severity the end of the old alert comes first.

    Severity is a label, so to Alertmanager each severity is an alert of its own.
    """
    if event.transition == "resolved":
        return [_alert(event, event.finding.severity, form, ends=event.at)]
    alerts = [firing(event, form, now)]
    if event.previous not in (None, event.finding.severity):
        alerts.insert(0, _alert(event, event.previous, form, ends=event.at))
    return alerts


def firing(event: AlertEvent, form: Form, now: float) -> Alert:
    """An alert that ends by itself if it is not sent again."""
    return _alert(event, event.finding.severity, form, ends=now + form.lifetime)


def check_labels(labels: Mapping[str, str] | None) -> dict[str, str]:
    """The labels that a user adds.

    Raises:
        ValueError: One has a name or value that Alertmanager would not take, or the name of ours.
    """
    for name, value in (labels or {}).items():
        if not isinstance(name, str) or not _LABEL.fullmatch(name):
            raise ValueError(f"the name of a label must match {_LABEL.pattern}, got {name!r}")
        if name in NAMES:
            raise ValueError(f"the label {name!r} is set by the sink: choose another name")
        if not isinstance(value, str) or not value or value != _identity(value):
            raise ValueError(
                f"the value of the label {name!r} must be text of 1 to {_LONGEST_LABEL} "
                f"printable characters, got {value!r}"
            )
    return dict(labels or {})


def _alert(event: AlertEvent, severity: Severity | None, form: Form, *, ends: float) -> Alert:
    alert = {
        "labels": dict(form.labels) | _labels(event.finding, severity),
        "annotations": _annotations(event.finding),
        # One that begins after its end is refused.
        "startsAt": rfc3339(min(event.began, ends)),
        "endsAt": rfc3339(ends),
    }
    return alert | ({"generatorURL": form.generator_url} if form.generator_url else {})


def _labels(finding: Finding, severity: Severity | None) -> dict[str, str]:
    """What tells this alert from all others; an empty value would be no label at all."""
    labels = labels_of(finding, severity)
    return {name: text for name, value in labels.items() if (text := _identity(value))}


def _annotations(finding: Finding) -> dict[str, str]:
    annotations = {
        "summary": finding.title,
        "description": finding.message,
        "value": f"{number(finding.value) or 0.0:g}",
    }
    if finding.subject.name:
        annotations["subject_name"] = finding.subject.name
    return {name: plain(text, _LONGEST_ANNOTATION) for name, text in annotations.items()}


def _identity(value: str) -> str:
    """A label's value; what had to be changed is told apart by a digest of what it was."""
    value = str(value)
    text = plain(value, _LONGEST_LABEL)
    if text == value:
        return text
    digest = hashlib.sha256(value.encode("utf-8", "backslashreplace")).hexdigest()[:16]
    return f"{text[: _LONGEST_LABEL - len(digest) - 1]}-{digest}"

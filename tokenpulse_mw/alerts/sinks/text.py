"""Sanitized text of alerts."""

from __future__ import annotations

from ...web.text import single_line
from ..lifecycle import GLOBAL, Subject

LONGEST_FINGERPRINT = 300  # characters in a log line

_MAX_NAME_CHARS = 256


def name_of(subject: Subject) -> str:
    """Return the name of a subject as one line; empty if it is the id or the whole gateway."""
    if subject == GLOBAL or subject.name == subject.id:
        return ""
    return single_line(str(subject.name or ""), _MAX_NAME_CHARS)

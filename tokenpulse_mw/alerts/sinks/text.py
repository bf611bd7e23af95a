"""Sanitized text of alerts: tenants and clients choose names that appear in it."""

from __future__ import annotations

from ..lifecycle import GLOBAL, Subject
from ..serialization import replace_surrogates

LONGEST_FINGERPRINT = 300  # characters in a log line

# Control characters could forge a log line, and bidirectional ones reorder a whole text.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
_BIDIRECTIONAL = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REPLACEMENTS = _CONTROLS | dict.fromkeys(_BIDIRECTIONAL, "")
_ELLIPSIS = "..."
_MAX_NAME_CHARS = 256


def name_of(subject: Subject) -> str:
    """Return the name of a subject as one line; empty if it is the id or the whole gateway."""
    if subject == GLOBAL or subject.name == subject.id:
        return ""
    return single_line(str(subject.name or ""), _MAX_NAME_CHARS)


def single_line(text: str, max_chars: int) -> str:
    """Return `text` without control characters, truncated to `max_chars` characters."""
    text = replace_surrogates(text[: 2 * max_chars]).translate(_REPLACEMENTS).strip()
    return text if len(text) <= max_chars else text[: max_chars - len(_ELLIPSIS)] + _ELLIPSIS

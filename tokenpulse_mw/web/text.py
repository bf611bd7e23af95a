"""Sanitized text: tenants and clients choose names that operators read."""

from __future__ import annotations

# Control characters could forge a log line, and bidirectional ones reorder a whole text.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 0x2028, 0x2029), " ")
_BIDIRECTIONAL = (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_REPLACEMENTS = _CONTROLS | dict.fromkeys(_BIDIRECTIONAL, "")
_ELLIPSIS = "..."


def replace_surrogates(text: str) -> str:
    """Return `text` as valid UTF-8: each lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def single_line(text: str, max_chars: int) -> str:
    """Return `text` without control characters, truncated to `max_chars` characters."""
    text = replace_surrogates(text[: 2 * max_chars]).translate(_REPLACEMENTS).strip()
    return text if len(text) <= max_chars else text[: max_chars - len(_ELLIPSIS)] + _ELLIPSIS

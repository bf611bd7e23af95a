"""Values as JSON can have them, and findings that are read back from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .lifecycle import Finding, Subject

_FIELDS = tuple(field.name for field in fields(Finding) if field.init)


_SECONDS = ("hold_for", "keep_firing", "window")


_MAX_DEPTH = 5  # levels of metadata


_WHOLE = 1 << 63  # beyond it many a reader of JSON has no integers


def replace_surrogates(text: str) -> str:
    """`text` as UTF-8 can have it: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def json_safe(value: Any, depth: int = 0) -> Any:
    """`value`, or what comes closest to it of what JSON knows.

    Text is valid UTF-8, numbers are finite or None, and what JSON does not know is text; so is an
    integer of more than 64 bits.
    """
    if isinstance(value, str):
        return replace_surrogates(value)
    if value is None or (isinstance(value, int) and -_WHOLE <= value < _WHOLE):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {_text(name): json_safe(each, depth + 1) for name, each in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [json_safe(each, depth + 1) for each in value]
    return _text(value)


def number(value: Any) -> float | None:
    """A number as JSON has it: finite, and an integer of more than 64 bits rounded; else None."""
    try:
        whole = isinstance(value, int) and -_WHOLE <= value < _WHOLE
        rounded = value if whole else float(value)
        return rounded if math.isfinite(rounded) else None
    except (TypeError, ValueError, OverflowError):
        return None


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it."""
    values = {name: json_safe(getattr(finding, name)) for name in _FIELDS}
    numbers = {name: number(getattr(finding, name)) for name in ("value", *_SECONDS)}
    return {**values, **numbers, "subject": json_safe(finding.subject._asdict())}


def _text(value: object) -> str:
    try:
        return replace_surrogates(str(value))
    except Exception:  # noqa: BLE001 - it is a rule's own, or an integer that is too long
        return f"<{type(value).__name__}>"


def finding_from_dict(kept: Mapping[str, Any]) -> Finding:
    """The finding that `finding_to_dict` gave this of.

    Raises:
        KeyError, TypeError, ValueError: `kept` is none.
    """
    values = {name: kept[name] for name in _FIELDS if name in kept}
    # JSON has no infinity, and no NaN.
    values |= {name: math.inf for name in _SECONDS if values.get(name, 0) is None}
    value = math.nan if kept["value"] is None else kept["value"]
    return Finding(**{**values, "subject": Subject(**kept["subject"]), "value": value})

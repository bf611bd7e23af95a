"""Conversion of findings and their metadata to and from JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from .lifecycle import Finding, Subject

_FIELDS = tuple(field.name for field in dataclasses.fields(Finding) if field.init)


_SECONDS = ("hold_for", "keep_firing", "window")


_MAX_DEPTH = 5  # levels of metadata


_MAX_INTEGER = 1 << 63  # many JSON parsers have no larger integers


def replace_surrogates(text: str) -> str:
    """Return `text` as valid UTF-8: each lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def json_safe(value: Any, depth: int = 0) -> Any:
    """Return the nearest JSON value.

    Text is valid UTF-8 and numbers are finite or None. Other types, and integers of more than 64
    bits, become text.
    """
    if isinstance(value, str):
        return replace_surrogates(value)
    if value is None or (isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {_text(name): json_safe(item, depth + 1) for name, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [json_safe(item, depth + 1) for item in value]
    return _text(value)


def number(value: Any) -> float | None:
    """Return a finite JSON number, or None; an integer of more than 64 bits becomes a float."""
    try:
        fits = isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER
        rounded = value if fits else float(value)
        return rounded if math.isfinite(rounded) else None
    except (TypeError, ValueError, OverflowError):
        return None


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    values = {name: json_safe(getattr(finding, name)) for name in _FIELDS}
    numbers = {name: number(getattr(finding, name)) for name in ("value", *_SECONDS)}
    return {**values, **numbers, "subject": json_safe(finding.subject._asdict())}


def _text(value: object) -> str:
    try:
        return replace_surrogates(str(value))
    except Exception:  # noqa: BLE001 - str of foreign objects, or of huge integers, may raise
        return f"<{type(value).__name__}>"


def finding_from_dict(values: Mapping[str, Any]) -> Finding:
    """Return the finding of the values that `finding_to_dict` returned.

    Raises:
        KeyError, TypeError, ValueError: The values are invalid.
    """
    fields = {name: values[name] for name in _FIELDS if name in values}
    # JSON has neither infinity nor NaN.
    fields |= {name: math.inf for name in _SECONDS if fields.get(name, 0) is None}
    value = math.nan if values["value"] is None else values["value"]
    return Finding(**{**fields, "subject": Subject(**values["subject"]), "value": value})

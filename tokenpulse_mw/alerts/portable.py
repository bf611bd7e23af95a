"""Values as JSON can have them, and findings that are read back from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .lifecycle import Finding, Subject

_SECONDS = ("hold_for", "keep_firing", "window")
_DEEPEST = 5  # levels of metadata


def valid(text: str) -> str:
    """`text` as UTF-8 can have it: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def portable(value: Any, depth: int = 0) -> Any:
    """`value`, or what comes closest to it of what JSON knows.

    Text is valid UTF-8, numbers are finite or None, and what JSON does not know is text.
    """
    if isinstance(value, str):
        return valid(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if depth < _DEEPEST and isinstance(value, Mapping):
        return {valid(str(name)): portable(each, depth + 1) for name, each in value.items()}
    if depth < _DEEPEST and isinstance(value, list | tuple | set | frozenset):
        return [portable(each, depth + 1) for each in value]
    return valid(str(value))


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON has it."""
    values = {each.name: portable(getattr(finding, each.name)) for each in fields(Finding)}
    return {**values, "subject": portable(finding.subject._asdict())}


def finding_from_dict(kept: Mapping[str, Any]) -> Finding:
    """The finding that `finding_to_dict` gave this of.

    Raises:
        KeyError, TypeError, ValueError: `kept` is none.
    """
    values = {each.name: kept[each.name] for each in fields(Finding) if each.name in kept}
    # JSON has no infinity, and no NaN.
    values |= {name: math.inf for name in _SECONDS if values.get(name, 0) is None}
    value = math.nan if kept["value"] is None else kept["value"]
    return Finding(**{**values, "subject": Subject(**kept["subject"]), "value": value})

"""Thresholds as a request gives them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Raw

from ...problems import Error, invalid
from ..thresholds import InvalidThresholds, Thresholds

_LONGEST = 100  # characters of a number


def changed(thresholds: Thresholds, body: Raw, *, complete: bool = False) -> Thresholds:
    """A copy of `thresholds` with those that a request gives: all, where it is to be `complete`.

    Raises:
        RefusedError: Tells of every name that is none or missing, and of every wrong value.
    """
    try:
        given = msgspec.json.decode(body, type=dict[str, Raw])
    except msgspec.ValidationError:
        raise invalid((("thresholds",), "must be an object")) from None
    names = Thresholds.fields()
    problems = [(name, "is no threshold") for name in given if name not in names]
    problems += [(name, "is missing") for name in names if complete and name not in given]
    try:
        made = thresholds.changed(**{name: _value(given[name]) for name in names if name in given})
    except InvalidThresholds as error:
        problems += error.problems
    if problems:
        raise invalid(*(_error(name, problem) for name, problem in problems))
    return made


def _value(raw: Raw) -> Any:
    """A number, a bool or None; of anything else its text, which no threshold is."""
    given = bytes(raw)
    if len(given) <= _LONGEST:
        with suppress(ValueError):
            value = msgspec.json.decode(given, type=int | float | bool | None)
            # JSON does not tell 1.0 from 1.
            return int(value) if isinstance(value, float) and value.is_integer() else value
    return given[:_LONGEST].decode(errors="replace")


def _error(name: str, problem: str) -> Error:
    return ("thresholds", name), problem.replace("or None to", "or null to")

"""Thresholds as a request gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
from msgspec import NODEFAULT, Raw, Struct

from ...problems import Error, invalid
from ..thresholds import InvalidThresholds, Thresholds

_LONGEST = 100  # characters of a number

Body = dict[str, Raw]


class Change(NamedTuple):
    """What a request makes of the thresholds, and who it says it is from."""

    thresholds: Thresholds
    by: str


def changed(
    thresholds: Thresholds, body: Body, takes: type[Struct], *, complete: bool = False
) -> Change:
    """A copy of `thresholds` with those that a request gives: all, where it is to be `complete`.

    Raises:
        RefusedError: Tells of every field that is not as `takes` has it, of every threshold that
            is none or missing, and of every wrong value.
    """
    errors = list(_wrong(body, takes))
    if "thresholds" in body:
        thresholds, wrong = _made(thresholds, body["thresholds"], complete=complete)
        errors += wrong
    if errors:
        raise invalid(*errors)
    return Change(thresholds, msgspec.json.decode(body.get("by", b'""'), type=str))


def _wrong(body: Body, takes: type[Struct]) -> Iterator[Error]:
    """What is wrong with the fields of a body, one by one."""
    fields = {each.name: each for each in msgspec.structs.fields(takes)}
    yield from (((name,), "there is no such field") for name in body if name not in fields)
    for name, field in fields.items():
        if name in body:
            try:
                msgspec.json.decode(body[name], type=field.type)
            except ValueError as error:  # or no UTF-8
                yield (name,), str(error)
        elif field.default is NODEFAULT and field.default_factory is NODEFAULT:
            yield (name,), "is missing"


def _made(thresholds: Thresholds, raw: Raw, *, complete: bool) -> tuple[Thresholds, list[Error]]:
    try:
        given = msgspec.json.decode(raw, type=Body)
    except ValueError:  # or no UTF-8
        return thresholds, [(("thresholds",), "must be an object")]
    names = Thresholds.fields()
    problems = [(name, "is no threshold") for name in given if name not in names]
    problems += [(name, "is missing") for name in names if complete and name not in given]
    try:
        thresholds = thresholds.changed(
            **{name: _value(given[name]) for name in names if name in given}
        )
    except InvalidThresholds as error:
        problems += error.problems
    return thresholds, [_error(name, problem) for name, problem in problems]


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

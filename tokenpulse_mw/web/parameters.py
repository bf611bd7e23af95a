"""Query parameters of an API for operators."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from .problems import Error, invalid

Schema = dict[str, Any]

_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_MAX_VALUE_CHARS = 100  # of an invalid value in an error


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter.

    Attributes:
        name: Name in the query.
        description: Description in OpenAPI.
        schema: JSON Schema in OpenAPI.
        read: Returns the value of the text, or raises `ValueError` with the expected value.
        default: Value if the parameter is missing.
    """

    name: str
    description: str
    schema: Schema
    read: Callable[[str], Any]
    default: Any = None


def choice(name: str, description: str, choices: Sequence[str]) -> Parameter:
    """Return a parameter that is one of `choices`."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return Parameter(name, description, {"type": "string", "enum": list(choices)}, read)


def integer(name: str, description: str, *, maximum: int, default: int) -> Parameter:
    """Return a parameter that is an integer from 1 to `maximum`."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        if not 1 <= number <= maximum:
            raise ValueError(f"must be an integer from 1 to {maximum}")
        return number

    schema = {"type": "integer", "minimum": 1, "maximum": maximum, "default": default}
    return Parameter(name, description, schema, read, default)


def number(name: str, description: str, *, maximum: float, default: float) -> Parameter:
    """Return a parameter that is a number from 0 to `maximum`."""

    def read(text: str) -> float:
        value = float(text) if _NUMBER.fullmatch(text) else -1.0
        if not 0 <= value <= maximum:
            raise ValueError(f"must be a number from 0 to {maximum:g}")
        return value

    schema = {"type": "number", "minimum": 0, "maximum": maximum, "default": default}
    return Parameter(name, description, schema, read, default)


def text(name: str, description: str) -> Parameter:
    """Return a parameter that is any string."""
    return Parameter(name, description, {"type": "string"}, str)


def read_query(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the value of each parameter.

    Raises:
        ProblemError: A parameter is invalid, repeated or unknown. If a misspelled filter were
            ignored, its page would be misleading.
    """
    query, known = request.query_params, {parameter.name: parameter for parameter in parameters}
    names = ", ".join(known) or "none"
    errors: list[Error] = [
        (("query", name), f"is not a known parameter (known parameters: {names})")
        for name in query
        if name not in known
    ]
    values = {parameter.name: parameter.default for parameter in parameters}
    for name in known.keys() & query.keys():
        try:
            (text,) = query.getlist(name)
        except ValueError:
            errors.append((("query", name), "must not be repeated"))
            continue
        try:
            values[name] = known[name].read(text)
        except ValueError as error:
            errors.append((("query", name), f"{error}, got {text[:_MAX_VALUE_CHARS]!r}"))
    if errors:
        raise invalid(*errors)
    return values

"""What may stand in a query, and what was asked for by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from ...web.problems import Error, invalid
from ..store.paging import from_cursor
from .schemas import Schema

_LONGEST_SHOWN = 100  # characters of a wrong value


@dataclass(frozen=True, slots=True)
class Parameter:
    """One name of a query.

    Attributes:
        name: In the query.
        about: What it asks for.
        schema: What it may be.
        read: Gives its value, or raises a `ValueError` that says what was expected.
        default: Its value where it is left out.
    """

    name: str
    about: str
    schema: Schema
    read: Callable[[str], Any]
    default: Any = None


def choice(name: str, about: str, choices: Sequence[str]) -> Parameter:
    """One of some words."""

    def read(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return Parameter(name, about, {"type": "string", "enum": list(choices)}, read)


def integer(name: str, about: str, *, most: int, default: int) -> Parameter:
    """A number from 1 on."""

    def read(text: str) -> int:
        number = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
        if not 1 <= number <= most:
            raise ValueError(f"must be a whole number from 1 to {most}")
        return number

    schema = {"type": "integer", "minimum": 1, "maximum": most, "default": default}
    return Parameter(name, about, schema, read, default)


def text(name: str, about: str) -> Parameter:
    """Anything."""
    return Parameter(name, about, {"type": "string"}, str)


def subject(name: str, about: str) -> Parameter:
    """Somebody, as `kind:id`."""

    def read(text: str) -> str:
        if ":" not in text:
            raise ValueError("must be the kind and the id, such as provider:claude")
        return text

    return Parameter(name, about, {"type": "string", "pattern": ":"}, read)


def cursor(name: str, about: str) -> Parameter:
    """Where a page begins."""

    def read(text: str) -> str:
        try:
            from_cursor(text)
        except ValueError:
            raise ValueError(
                "must be the `next` of the page before; leave it out to begin with the newest"
            ) from None
        return text

    return Parameter(name, about, {"type": "string"}, read)


def read_query(request: Request, parameters: Sequence[Parameter]) -> dict[str, Any]:
    """The value of each parameter.

    Raises:
        RefusedError: One is wrong, or there twice, or there is no such parameter: whoever
            misspells a filter must not believe that nothing is wrong.
    """
    given, known = request.query_params, {each.name: each for each in parameters}
    errors: list[Error] = [
        (("query", name), f"is no parameter: there are {', '.join(known) or 'none'}")
        for name in given
        if name not in known
    ]
    values = {each.name: each.default for each in parameters}
    for name in known.keys() & given.keys():
        try:
            (only,) = given.getlist(name)
        except ValueError:
            errors.append((("query", name), "must be given once"))
            continue
        try:
            values[name] = known[name].read(only)
        except ValueError as error:
            errors.append((("query", name), f"{error}, got {only[:_LONGEST_SHOWN]!r}"))
    if errors:
        raise invalid(*errors)
    return values

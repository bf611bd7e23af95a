"""Checks of arguments and settings: each returns the valid value or raises ValueError."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from inspect import isclass, signature
from typing import Any, TypeVar

T = TypeVar("T")

# A URL without a user, which people would see, and without a fragment.
LINK = r"^https?://[^\s/?#@\x00-\x1f\x7f]+([/?][^\s#\x00-\x1f\x7f]*)?$"


def check_seconds(
    name: str, seconds: Any, *, zero: bool = False, maximum: float | None = None
) -> None:
    """Raise ValueError unless `seconds` is a finite number above 0.

    Args:
        name: Name of the parameter, for the error.
        seconds: Value to check; a bool is rejected.
        zero: Accept 0.
        maximum: Largest number that is accepted; without one, any finite number is.
    """
    if type(seconds) in (int, float):
        above = seconds >= 0 if zero else seconds > 0
        if above and (seconds < math.inf if maximum is None else seconds <= maximum):
            return
    least = ", 0 or more" if zero else " above 0"
    most = "" if maximum is None else f" and at most {maximum:g}"
    raise ValueError(f"{name} must be a number of seconds{least}{most}, got {seconds!r}")


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless all `numbers`, given by parameter name, are above 0."""
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")


def check_integer(name: str, value: Any, *, minimum: int = 1, maximum: int | None = None) -> int:
    """Return `value` if it is an integer from `minimum` to `maximum`; a bool is rejected."""
    if type(value) is int and value >= minimum and (maximum is None or value <= maximum):
        return value
    span = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    raise ValueError(f"{name} must be an integer {span}, got {value!r}")


def check_bool(name: str, value: Any) -> bool:
    """Return `value` if it is True or False; a string such as "false" is rejected."""
    if type(value) is not bool:
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return value


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")
    return value


def check_strings(name: str, values: Iterable[str], example: str) -> tuple[str, ...]:
    """Return the strings of an iterable; a single string is rejected.

    Args:
        name: Name of the parameter, for the error.
        values: Value to check.
        example: A valid value, such as `["openai", "anthropic"]`, for the error.
    """
    if not isinstance(values, str | bytes) and isinstance(values, Iterable):
        strings = tuple(values)
        if all(isinstance(string, str) for string in strings):
            return strings
    raise ValueError(f"{name} must be a list of strings, such as {example}, got {values!r}")


def check_functions(functions: Iterable[T], takes: int, expected: str) -> tuple[T, ...]:
    """Return the functions of an iterable, each callable with `takes` arguments.

    Args:
        functions: Value to check.
        takes: Number of positional arguments.
        expected: Beginning of the error, such as "sinks must be a list of functions".
    """
    if isinstance(functions, str) or not isinstance(functions, Iterable):
        raise ValueError(f"{expected}, got {describe(functions)} instead of a list")
    checked = tuple(functions)
    for function in checked:
        if isclass(function) or not (callable(function) and _accepts(function, takes)):
            raise ValueError(f"{expected}, got {describe(function)} among them")
    return checked


def _accepts(function: Callable[..., object], number: int) -> bool:
    """Return True if `function` accepts `number` arguments, or has an unknown signature."""
    try:
        parameters = signature(function)
    except ValueError:  # a builtin has no signature
        return True
    try:
        parameters.bind(*range(number))
    except TypeError:
        return False
    return True


def describe(value: Any) -> str:
    """Return the kind of `value` for an error, without its text: a URL may hold a password."""
    if value is None:
        return "None"
    if isclass(value):
        return f"the class {value.__name__} (not called)"
    if hasattr(value, "__name__"):
        return f"the function {value.__name__}"
    return f"a {type(value).__name__}"

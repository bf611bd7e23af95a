"""Times as they are given: numbers of seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from inspect import isclass, signature
from typing import Any, TypeVar


def check_seconds(
    name: str, seconds: Any, *, zero: bool = False, maximum: float | None = None
) -> None:
    """Refuse what nobody could wait for.

    Args:
        name: What it is called where it was given.
        seconds: What was given.
        zero: 0 is a time too.
        maximum: The longest that there may be; without one, any that ends.

    Raises:
        ValueError: `seconds` is no number above 0, or more than `maximum`.
    """
    if type(seconds) in (int, float):  # a bool is no time
        above = seconds >= 0 if zero else seconds > 0
        if above and (seconds < math.inf if maximum is None else seconds <= maximum):
            return
    least = ", 0 or more" if zero else " above 0"
    most = "" if maximum is None else f" and at most {maximum:g}"
    raise ValueError(f"{name} must be a number of seconds{least}{most}, got {seconds!r}")


_Kind = TypeVar("_Kind")


def check_numbers(**numbers: float) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        ValueError: One is not.
    """
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")


def check_functions(given: Iterable[_Kind], takes: int, expected: str) -> tuple[_Kind, ...]:
    """Return the functions of an iterable, each of which takes so many arguments.

    Raises:
        ValueError: It is not an iterable of such functions.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{expected}, got {describe(given)} and no list")
    functions = tuple(given)
    for each in functions:
        if isclass(each) or not (callable(each) and _accepts(each, takes)):
            raise ValueError(f"{expected}, got {describe(each)} among them")
    return functions


def _accepts(function: Callable[..., object], number: int) -> bool:
    """Whether `function` can be called with so many arguments, as far as it says."""
    try:
        expected = signature(function)
    except ValueError:  # it is not written in Python
        return True
    try:
        expected.bind(*range(number))
    except TypeError:
        return False
    return True


def describe(given: Any) -> str:
    """What was given, without its text: that of a URL may be secret."""
    if given is None:
        return "None"
    if isclass(given):
        return f"the class {given.__name__} (not called)"
    if hasattr(given, "__name__"):
        return f"the function {given.__name__}"
    return f"a {type(given).__name__}"

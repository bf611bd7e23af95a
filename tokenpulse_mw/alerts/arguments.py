"""What an engine is given, refused at once where it would fail in each round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import isclass, signature
from typing import Any, TypeVar

from .rules import Rule, default_rules
from .sinks import LogSink, Sink
from .store import AlertStore, MemoryAlertStore
from .thresholds import Thresholds

_Kind = TypeVar("_Kind")

_RULES = (
    "rules must be a list of functions of (traffic, thresholds, now), such as default_rules() or "
    "[*default_rules(), my_rule]"
)
_SINKS = (
    "sinks must be a list of functions of an AlertEvent, such as [LogSink()] or [WebhookSink(url)]"
)


def check_numbers(**numbers: float) -> None:
    """Refuse numbers that are not above 0.

    Raises:
        ValueError: One is not.
    """
    for name, value in numbers.items():
        if not (isinstance(value, int | float) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")


def checked_rules(rules: Iterable[Rule] | None) -> tuple[Rule, ...]:
    """Those that are to be asked.

    Raises:
        ValueError: One cannot be, or they are no list.
    """
    return _functions(default_rules() if rules is None else rules, 3, _RULES)


def checked_sinks(sinks: Iterable[Sink] | None) -> tuple[Sink, ...]:
    """Those that are to be told.

    Raises:
        ValueError: One cannot be, or they are no list.
    """
    return _functions([LogSink()] if sinks is None else sinks, 1, _SINKS)


def checked_store(store: AlertStore | None, wall: Callable[[], float]) -> AlertStore:
    """The one that is to keep what happens; in memory, where there is none.

    Raises:
        ValueError: It keeps nothing, such as the URL of a database.
    """
    if store is None:
        return MemoryAlertStore(wall=wall)
    if isclass(store) or not callable(getattr(store, "commit", None)):
        raise ValueError(
            "store must be an AlertStore, such as SQLAlertStore(url) or MemoryAlertStore(), got "
            f"{_named(store)}"
        )
    return store


def checked_thresholds(thresholds: Thresholds | None) -> Thresholds:
    """Those that hold.

    Raises:
        ValueError: They are something else, such as a mapping.
    """
    if thresholds is None:
        return Thresholds()
    if not isinstance(thresholds, Thresholds):
        raise ValueError(
            "thresholds must be Thresholds, such as Thresholds(error_rate=0.2), or "
            f"Thresholds(**values) of a dict, got {_named(thresholds)}"
        )
    return thresholds


def _functions(given: Iterable[_Kind], takes: int, expected: str) -> tuple[_Kind, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{expected}, got {_named(given)} and no list")
    functions = tuple(given)
    for each in functions:
        if isclass(each) or not (callable(each) and _takes(each, takes)):
            raise ValueError(f"{expected}, got {_named(each)} among them")
    return functions


def _takes(function: Callable[..., object], number: int) -> bool:
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


def _named(given: Any) -> str:
    """What was given, without its text: that of a URL may be secret."""
    if given is None:
        return "None"
    if isclass(given):
        return f"the class {given.__name__} (not called)"
    if hasattr(given, "__name__"):
        return f"the function {given.__name__}"
    return f"a {type(given).__name__}"

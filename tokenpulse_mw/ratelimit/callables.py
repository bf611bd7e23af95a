"""Functions that users pass to policies: called on every request, and never awaited."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from inspect import iscoroutinefunction
from itertools import islice
from typing import TypeVar

from starlette.types import Scope

from ..exchange import MAX_TEXT_CHARS

# Returns the key that a request is counted under; a request with the key None is not limited.
KeyFunction = Callable[[Scope], Hashable | None]

T = TypeVar("T")
Factory = TypeVar("Factory", bound=Callable[..., object])

MAX_CACHED = 4096  # entries
_DROPPED = 256  # entries; one at a time would be slow, since a dict passes over its deleted entries

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # safe in a structured field, a label and a key


def factory(function: Factory) -> Factory:
    """Mark a function that returns key functions, so that a forgotten call is detected."""
    function.is_factory = True  # type: ignore[attr-defined]
    return function


def reading_model(function: T) -> T:
    """Mark a function of the scope that needs the model of the request, which has to be read."""
    function.reads_model = True  # type: ignore[attr-defined]
    return function


def reads_model(*functions: object) -> bool:
    """Return True if one of `functions` needs the model of the request."""
    return any(getattr(function, "reads_model", False) for function in functions)


def estimating_tokens(function: T) -> T:
    """Mark a function of the scope that needs the model and the maximum of tokens of the request.

    Its result is an estimate, so a request reserves at most the limit.
    """
    function.reads_tokens = True  # type: ignore[attr-defined]
    return reading_model(function)


def reads_tokens(function: object) -> bool:
    """Return True if `function` needs the maximum of tokens of the request."""
    return bool(getattr(function, "reads_tokens", False))


def check_function(name: str, function: object) -> None:
    """Check that `function` can be called on every request.

    Raises:
        ValueError: `function` is not callable, is async, or is a factory that was not called.
    """
    is_async = iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that acts as a function
    )
    if is_async or not callable(function):
        raise ValueError(f"{name} must be a function that is not async, got {function!r}")
    if getattr(function, "is_factory", False):
        factory_name = getattr(function, "__name__", "factory")
        raise ValueError(
            f"{name} must be a function, got the uncalled factory {factory_name}: "
            f"call it, as in {name}={factory_name}(...)"
        )


def check_name(parameter: str, name: str) -> str:
    """Return `name` if it is valid in headers, metrics and storages.

    Raises:
        ValueError: `name` is not valid.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f"{parameter} must be 1 to 64 letters, digits, '_', '.', ':' or '-', got {name!r}"
        )
    return name


def cached(memo: dict[str, T], text: str, value: T) -> T:
    """Return `value` and store it in `memo`, unless `text` is long.

    A full memo drops its oldest entries, a few at a time.
    """
    if len(text) <= MAX_TEXT_CHARS:
        if len(memo) >= MAX_CACHED:
            for oldest in list(islice(memo, _DROPPED)):
                memo.pop(oldest, None)
        memo[text] = value
    return value

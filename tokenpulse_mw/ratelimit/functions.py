"""Functions that users hand us: called on every request, so never to be waited for."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from inspect import iscoroutinefunction

from starlette.types import Scope

# Who is asking, as the key that its limit is counted under; None is not limited.
KeyFunction = Callable[[Scope], Hashable | None]


def check_function(name: str, function: object) -> None:
    """Refuse what is no function, or must be waited for.

    Raises:
        ValueError: `function` cannot be called, or what it gives has to be awaited.
    """
    is_async = iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that acts as a function
    )
    if is_async or not callable(function):
        raise ValueError(f"{name} must be a function, and not async, got {function!r}")

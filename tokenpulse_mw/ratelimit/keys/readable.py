"""Key functions of the application whose keys are not secret."""

from __future__ import annotations

from typing import TypeVar

from ..callables import factory
from ..key_kinds import name_of_function, text_kind, with_kind

T = TypeVar("T")


@factory
def readable(function: T, *, name: str | None = None) -> T:
    """Mark a key function, or a dependency that returns the key, whose keys are not secret.

    The admin API shows these keys as text, and finds them by it. Without the mark, it shows a part
    of a hash, since the keys of a function of the application may be secret. Can be used as a
    decorator.

    Args:
        function: A function, such as one that returns the id of a tenant.
        name: Words for the keys, such as "project"; the name of the function when None.

    Raises:
        ValueError: `function` is not callable, or cannot be marked.
    """
    if not callable(function):
        raise ValueError(f"function must be callable, got {function!r}")
    try:
        return with_kind(function, text_kind(name_of_function(function) if name is None else name))
    except AttributeError:
        raise ValueError(
            f"function must be a plain function, got {function!r}: mark a function that calls it"
        ) from None

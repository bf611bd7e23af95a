"""Functions that users hand us: called on every request, so never to be waited for."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from inspect import iscoroutinefunction
from typing import TypeVar

from starlette.types import Scope

from ..exchange import MAX_TEXT_CHARS

# Who is asking, as the key that its limit is counted under; None is not limited.
KeyFunction = Callable[[Scope], Hashable | None]


Maker = TypeVar("Maker", bound=Callable[..., object])


_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")  # safe in a structured field, a label and a key


def factory(maker: Maker) -> Maker:
    """Mark a function that only makes those which are wanted: to forget its call is easy."""
    maker.makes_functions = True  # type: ignore[attr-defined]
    return maker


def check_function(name: str, function: object) -> None:
    """Refuse what is no function, must be waited for, or only makes functions.

    Raises:
        ValueError: `function` is one of these.
    """
    is_async = iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that acts as a function
    )
    if is_async or not callable(function):
        raise ValueError(f"{name} must be a function that is not async, got {function!r}")
    if getattr(function, "makes_functions", False):
        made = getattr(function, "__name__", "it")
        raise ValueError(f"{name} must be what {made}() gives: call it, as in {name}={made}(...)")


def check_name(what: str, name: str) -> str:
    """`name`, if headers, metrics and storages can all have it.

    Raises:
        ValueError: They cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r} must be 1 to 64 letters, digits, '_', '.', ':' or '-'")
    return name


T = TypeVar("T")


MAX_CACHED = 4096  # texts


def cached(memo: dict[str, T], text: str, value: T) -> T:
    """`value`, which `memo` has from now on for `text`; what is long is not kept."""
    if len(text) <= MAX_TEXT_CHARS:
        if len(memo) >= MAX_CACHED:
            memo.clear()  # it only saves work
        memo[text] = value
    return value

"""Paths that are never limited, such as probes and the scrape."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from starlette.types import Scope

from ..exchange import path_in_app

# What an application behind us might take for something else than a part of a plain path.
_AMBIGUOUS = re.compile(r"\.\.|[%;\\]|//")


def exempt_paths(patterns: Iterable[str]) -> Callable[[Scope], bool]:
    """A test for requests whose path matches one of `patterns`.

    A pattern is a path, or one followed by `*` for the path and all that lies below it: `/health*`
    is `/health` and `/health/live`, but not `/healthy`. Below it, a path with anything in it that
    could be resolved to elsewhere matches none.

    Raises:
        ValueError: A pattern is not of this form.
    """
    if isinstance(patterns, str):
        raise ValueError(f"exempt must be a list of paths, got the single string {patterns!r}")
    exact: set[str] = set()
    below: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("/") or "*" in pattern[:-1]:
            raise ValueError(
                f"exempt path {pattern!r} must begin with '/' and may have '*' only at its end"
            )
        path = pattern.removesuffix("*")
        if pattern.endswith("*"):
            below.append(path.rstrip("/") + "/")
        if not pattern.endswith("/*"):
            exact.add(path)
    beginnings = tuple(below)

    def matches(scope: Scope) -> bool:
        path = path_in_app(scope)
        return path in exact or (path.startswith(beginnings) and not _AMBIGUOUS.search(path))

    return matches

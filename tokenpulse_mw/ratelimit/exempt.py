"""Paths that are never limited, such as probes and the scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.types import Scope

from ..exchange import path_in_app


def exempt_paths(patterns: Iterable[str]) -> Callable[[Scope], bool]:
    """A test for requests whose path matches one of `patterns`.

    A pattern is a path, or the beginning of one followed by `*`. A path with `..` in it matches
    none: an application behind us might resolve it to something else.

    Raises:
        ValueError: A pattern is not of this form.
    """
    if isinstance(patterns, str):
        raise ValueError(f"exempt must be a list of paths, got the single string {patterns!r}")
    exact: set[str] = set()
    prefixes: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("/") or "*" in pattern[:-1]:
            raise ValueError(
                f"exempt path {pattern!r} must begin with '/' and may have '*' only at its end"
            )
        if pattern.endswith("*"):
            prefixes.append(pattern[:-1])
        else:
            exact.add(pattern)
    beginnings = tuple(prefixes)

    def matches(scope: Scope) -> bool:
        path = path_in_app(scope)
        return path in exact or (path.startswith(beginnings) and ".." not in path)

    return matches

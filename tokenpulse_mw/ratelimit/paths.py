"""Which requests a limit is meant for, told by their path and method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from posixpath import normpath

from starlette.types import Scope

from ..exchange import path_in_app

Condition = Callable[[Scope], bool]

# What an application behind us might take for something else than a part of a plain path.
_AMBIGUOUS = re.compile(r"\.\.|[%;\\]|//")


def exempt_paths(patterns: Iterable[str]) -> Condition:
    """A test for requests whose path matches one of `patterns`, and surely means just that path.

    A pattern is a path, or one followed by `*` for the path and all that lies below it: `/health*`
    is `/health` and `/health/live`, but not `/healthy`. Below it, a path with anything in it that
    could be resolved to elsewhere matches none.

    Raises:
        ValueError: A pattern is not of this form.
    """
    if isinstance(patterns, str):
        raise ValueError(f"exempt must be a list of paths, got the single string {patterns!r}")
    exact, beginnings = _read(patterns, "exempt path")

    def matches(scope: Scope) -> bool:
        path = path_in_app(scope) if scope.get("root_path") else scope["path"]
        return path in exact or (path.startswith(beginnings) and not _AMBIGUOUS.search(path))

    return matches


def requests_to(*paths: str, methods: Iterable[str] | None = None) -> Condition:
    """A test for requests to one of `paths`, for the `when` of a `Policy`.

    Every way to write a path that an application might take for one of `paths` counts as it:
    doubled or trailing slashes, and dots.

    Args:
        paths: Paths, or paths followed by `*` for them and all that lies below them.
        methods: HTTP methods; any when None. A WebSocket handshake is a GET.

    Raises:
        ValueError: A path or a method is malformed, or there is no path.
    """
    exact, beginnings = _read(paths, "path")
    if not paths:
        raise ValueError("requests_to() needs a path, such as '/v1/chat/completions' or '/v1/*'")
    wanted = None if methods is None else _methods(methods)

    def matches(scope: Scope) -> bool:
        if wanted is not None and scope.get("method", "GET") not in wanted:
            return False
        path = path_in_app(scope)
        if path in exact or path.startswith(beginnings):
            return True
        plain = "/" + normpath(path).lstrip("/")
        return plain in exact or plain.startswith(beginnings)

    return matches


def _read(patterns: Iterable[str], what: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Paths that must match as they are, and beginnings of paths."""
    exact: set[str] = set()
    below: list[str] = []
    for pattern in patterns:
        if not pattern.startswith("/") or "*" in pattern[:-1]:
            raise ValueError(
                f"{what} {pattern!r} must begin with '/' and may have '*' only at its end"
            )
        path = pattern.removesuffix("*")
        if pattern.endswith("*"):
            below.append(path.rstrip("/") + "/")
        if not pattern.endswith("/*"):
            exact.add(path)
    return frozenset(exact), tuple(below)


def _methods(methods: Iterable[str]) -> frozenset[str]:
    if isinstance(methods, str):
        raise ValueError(f"methods must be a list of methods, got the single string {methods!r}")
    wanted = frozenset(methods)
    for method in wanted:
        if not re.fullmatch(r"[A-Z]+", method):
            raise ValueError(f"method {method!r} is none: expected one such as 'POST'")
    return wanted

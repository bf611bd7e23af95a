"""Which requests a limit is meant for, told by their path and method."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from posixpath import normpath
from urllib.parse import unquote

from starlette.types import Scope

from ..exchange import app_path
from .callables import cached, factory

Condition = Callable[[Scope], bool]

# What makes it worth the while to look at a path more closely.
_UNUSUAL = re.compile(r"//|/\.|/$|[%?#;\\]|[\x00-\x20\x7f-\xa0]")
_IGNORED = re.compile(r"[\x00-\x20\x7f-\xa0]")
_MOST_DECODINGS = 4

# What an application behind us might take for something else than a part of a plain path.
_AMBIGUOUS = re.compile(r"\.\.|[%;\\]|//")


def exempt_paths(patterns: Iterable[str]) -> Condition | None:
    """Return a test for GET and HEAD requests whose path matches one of `patterns`.

    A pattern is a path, or a path followed by `*` for the path and everything below it: `/health*`
    matches `/health` and `/health/live`, but not `/healthy`. Below it, a path that a server could
    resolve to another one does not match. Other methods and WebSockets never match: they can cost
    more than a read. Without patterns the test is None.

    Raises:
        ValueError: A pattern is not of this form.
    """
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ValueError(f"exempt must be a list of paths, such as ['/health*'], got {patterns!r}")
    exact, beginnings = _read(patterns, "exempt path")
    if not exact and not beginnings:
        return None

    def matches(path: str) -> bool:
        return path in exact or (path.startswith(beginnings) and not _AMBIGUOUS.search(path))

    on_path = _of_paths(matches)
    return lambda scope: (
        scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and on_path(scope)
    )


@factory
def requests_to(*paths: str, methods: Iterable[str] | None = None) -> Condition:
    """A test for requests to one of `paths`, for the `when` of a `Policy`.

    Every way to write a path that an application, or a server behind it, might take for one of
    `paths` counts as it: doubled or trailing slashes, dots, percent-encoding, what looks like a
    query.

    Args:
        paths: Paths as the application knows them, or paths followed by `*` for them and all that
            lies below them.
        methods: HTTP methods; any when None. GET is HEAD too, and a WebSocket handshake.

    Raises:
        ValueError: A path or a method is malformed, or there is no path.
    """
    if not paths:
        raise ValueError("requests_to() needs a path, such as '/v1/chat/completions' or '/v1/*'")
    exact, beginnings = _read(paths, "path")
    exact |= {_plain(path) for path in exact}
    beginnings += tuple(_plain(path).rstrip("/") + "/" for path in beginnings)
    wanted = None if methods is None else _methods(methods)

    def matches(path: str) -> bool:
        if path in exact or path.startswith(beginnings):
            return True
        if not _UNUSUAL.search(path):
            return False
        forms = _forms(path)
        return any(form in exact or form.startswith(beginnings) for form in forms)

    on_path = _of_paths(matches)
    if wanted is None:
        return on_path
    return lambda scope: scope.get("method", "GET") in wanted and on_path(scope)


def _of_paths(matches: Callable[[str], bool]) -> Condition:
    """A test for requests whose path, as the application knows it, `matches`."""
    known: dict[str, bool] = {}

    def test(scope: Scope) -> bool:
        path = app_path(scope) if scope.get("root_path") else scope["path"]
        found = known.get(path)
        return cached(known, path, matches(path)) if found is None else found

    return test


def _read(patterns: Iterable[str], what: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Paths that must match as they are, and beginnings of paths."""
    exact: set[str] = set()
    below: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.startswith("/") or "*" in pattern[:-1]:
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
        if not isinstance(method, str) or not re.fullmatch(r"[A-Z]+", method):
            raise ValueError(f"method {method!r} must be in upper case, such as 'POST'")
    if not wanted:
        raise ValueError("methods must not be empty: leave it out for all of them")
    return wanted | {"HEAD"} if "GET" in wanted else wanted


def _forms(path: str) -> Iterator[str]:
    """What `path` may become on its way through servers that decode it, or cut it, once more."""
    for _ in range(_MOST_DECODINGS):
        whole = _IGNORED.sub("", path).replace("\\", "/")
        yield _plain(whole)
        yield _plain(re.split(r"[?#]", whole)[0])
        yield _plain(re.sub(r";[^/]*", "", whole))
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded


def _plain(path: str) -> str:
    """`path` without dots, doubled slashes and one at its end."""
    return "/" + normpath(path).lstrip("/")

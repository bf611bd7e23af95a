"""Conditions on the path and the method of a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from posixpath import normpath
from urllib.parse import unquote

from starlette.types import Scope

from ..exchange import app_path, fold_model, model_pattern
from ..validation import check_strings
from .callables import cached, factory, reading_model
from .keys.model import is_safe, model_of

Condition = Callable[[Scope], bool]

# Characters of a path that has other forms.
_UNUSUAL = re.compile(r"//|/\.|/$|[%?#;\\]|[\x00-\x20\x7f-\xa0]")
_IGNORED = re.compile(r"[\x00-\x20\x7f-\xa0]")
_MAX_DECODINGS = 4

# Characters of a path that an application could resolve to another path.
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
    exact, prefixes = _parse(check_strings("exempt", patterns, "['/health*']"), "exempt path")
    if not exact and not prefixes:
        return None

    def matches(path: str) -> bool:
        return path in exact or (path.startswith(prefixes) and not _AMBIGUOUS.search(path))

    on_path = _cached_condition(matches)
    return lambda scope: (
        scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and on_path(scope)
    )


@factory
def requests_to(
    *paths: str, methods: Iterable[str] | None = None, models: Iterable[str] | None = None
) -> Condition:
    """Return a condition for requests to one of `paths`, for the `when` of a `Policy`.

    A path also matches in every form that an application, or a server behind it, could resolve
    to one of `paths`: doubled or trailing slashes, dots, percent-encoding, an encoded query.

    Args:
        paths: Paths as the application receives them; `*` at the end of a path stands for the path
            and everything below it.
        methods: HTTP methods; any when None. GET includes HEAD and WebSocket handshakes.
        models: Models or patterns such as "gpt-5*", compared with the name in the request as it
            is and without prefixes, date and version (`keys.model`); any when None. A request
            whose model is not known matches, so that no form of a request avoids a limit, unless
            its method is GET, HEAD, OPTIONS or TRACE.

    Raises:
        ValueError: A path, a method or a model is malformed, or a path is missing.
    """
    if not paths:
        raise ValueError("requests_to() needs a path, such as '/v1/chat/completions' or '/v1/*'")
    exact, prefixes = _parse(paths, "path")
    exact |= {_plain(path) for path in exact}
    prefixes += tuple(_plain(path).rstrip("/") + "/" for path in prefixes)
    allowed = None if methods is None else _check_methods(methods)

    def matches(path: str) -> bool:
        if path in exact or path.startswith(prefixes):
            return True
        if not _UNUSUAL.search(path):
            return False
        forms = _forms(path)
        return any(form in exact or form.startswith(prefixes) for form in forms)

    condition = on_path = _cached_condition(matches)
    if allowed is not None:

        def condition(scope: Scope) -> bool:
            return scope.get("method", "GET") in allowed and on_path(scope)

    return condition if models is None else _for_models(condition, models)


def _for_models(condition: Condition, models: Iterable[str]) -> Condition:
    """Return a condition for requests for which `condition` is true, to one of `models`."""
    patterns = check_strings("models", models, '["gpt-5*"]')
    if not patterns:
        raise ValueError("models must not be empty: leave it out for all models")
    pattern = re.compile("|".join(model_pattern("model", text).pattern for text in patterns))
    results: dict[str, bool] = {}

    def matches(model: str) -> bool:
        folded = fold_model(model)  # without a valid name, the model is not known
        return folded is None or any(map(pattern.match, (folded, model.lower())))

    def for_models(scope: Scope) -> bool:
        if not condition(scope):
            return False
        model = model_of(scope)
        if model is None:
            return not is_safe(scope)
        result = results.get(model)
        return cached(results, model, matches(model)) if result is None else result

    return reading_model(for_models)


def _cached_condition(matches: Callable[[str], bool]) -> Condition:
    """Return a condition for requests whose path, as the application receives it, `matches`."""
    results: dict[str, bool] = {}

    def condition(scope: Scope) -> bool:
        path = app_path(scope) if scope.get("root_path") else scope["path"]
        result = results.get(path)
        return cached(results, path, matches(path)) if result is None else result

    return condition


def _parse(patterns: Iterable[str], parameter: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """Return the paths that match exactly, and the prefixes of paths that match."""
    exact: set[str] = set()
    prefixes: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern.startswith("/") or "*" in pattern[:-1]:
            raise ValueError(
                f"{parameter} must begin with '/' and may have '*' only at its end, got {pattern!r}"
            )
        path = pattern.removesuffix("*")
        if pattern.endswith("*"):
            prefixes.append(path.rstrip("/") + "/")
        if not pattern.endswith("/*"):
            exact.add(path)
    return frozenset(exact), tuple(prefixes)


def _check_methods(methods: Iterable[str]) -> frozenset[str]:
    checked = frozenset(check_strings("methods", methods, "['POST']"))
    for method in checked:
        if not re.fullmatch(r"[A-Z]+", method):
            raise ValueError(f"method must be in upper case, such as 'POST', got {method!r}")
    if not checked:
        raise ValueError("methods must not be empty: leave it out for all methods")
    return checked | {"HEAD"} if "GET" in checked else checked


def _forms(path: str) -> Iterator[str]:
    """Yield the forms of `path` after servers have decoded or cut it again."""
    for _ in range(_MAX_DECODINGS):
        visible = _IGNORED.sub("", path).replace("\\", "/")
        yield _plain(visible)
        yield _plain(re.split(r"[?#]", visible)[0])
        yield _plain(re.sub(r";[^/]*", "", visible))
        decoded = unquote(path)
        if decoded == path:
            return
        path = decoded


def _plain(path: str) -> str:
    """Return `path` without dots, doubled slashes and a trailing slash."""
    return "/" + normpath(path).lstrip("/")

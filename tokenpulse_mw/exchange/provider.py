"""Declared providers, and resolution of the provider of an exchange to one of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import pairwise

from starlette.types import Scope

PROVIDERS = (
    "claude",
    "gemini",
    "antigravity",
    "kiro",
    "codex",
    "qwen",
    "iflow",
    "aistudio",
    "vertex",
    "copilot",
)
OTHER = "other"
UNKNOWN = "unknown"
HEADER = b"x-tokenpulse-provider"
MAX_PATH_CHARS = 256  # of a path that are read; also bounds the size of the cache

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MODEL_SEGMENTS = ("models", "model", "deployments")

ProviderResolver = Callable[[Scope], str | None]


class Providers:
    """Declared providers, and how a request is matched to one of them.

    An instance is also a resolver. It reads the provider from the path: from a segment
    (`/claude/v1/messages`) or from the prefix of a model (`/v1beta/models/gemini-2.0-flash`).

    Args:
        names: The declared providers: lower-case letters, digits, `_`, `.` and `-`.
        resolver: Returns the provider of a scope, instead of the path. An undeclared name is
            counted as `other`.
        request_header: Also accept `x-tokenpulse-provider` in requests. Any client can send it.

    Raises:
        ValueError: `names` is empty, or has an invalid, reserved or repeated name; or `resolver`
            is not callable.
    """

    def __init__(
        self,
        names: Iterable[str] = PROVIDERS,
        *,
        resolver: ProviderResolver | None = None,
        request_header: bool = False,
    ) -> None:
        self.names = _check_names(names)
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver must be a function of the scope, got {resolver!r}")
        self.resolver = resolver
        self.request_header = request_header
        self._known = {name: name for name in self.names}
        self._labels = lru_cache(maxsize=4096)(self._label_of_path)
        # The label of the start of a path, if only the path determines the provider; else None.
        self.label_of_path = self._labels if resolver is None and not request_header else None

    def __call__(self, scope: Scope) -> str | None:
        """Return the declared provider that the path names, or None."""
        label = self._labels(scope["path"][:MAX_PATH_CHARS])
        return None if label == UNKNOWN else label

    def resolve(self, scope: Scope, declared: str | None, model: str | None) -> str:
        """Return the label of the provider.

        Args:
            scope: The request.
            declared: Provider from `annotate()` or from the response header, if any.
            model: Model named in the response; used only if every other source is empty.
        """
        name = declared
        if not name and self.request_header:
            name = _request_header(scope)
        if not name:
            name = (self.resolver or self)(scope)
        if not name and model:
            name = self._by_prefix(model.lower())
        return self.to_label(name)

    def to_label(self, name: str | None) -> str:
        """Return `name` if it is declared, `unknown` if it is empty, else `other`."""
        if not name:
            return UNKNOWN
        # Return the declared string: `name` may be an Enum member that only compares equal.
        return self._known.get(name) or self._known.get(name.strip().lower(), OTHER)

    def _label_of_path(self, path: str) -> str:
        segments = path.lower().split("/")
        for segment in segments:
            if segment in self._known:
                return segment
        for before, segment in pairwise(segments):
            if before in _MODEL_SEGMENTS and (name := self._by_prefix(segment)):
                return name
        return UNKNOWN

    def _by_prefix(self, model: str) -> str | None:
        for name in self.names:
            if model.startswith(name) and not model[len(name) : len(name) + 1].isalnum():
                return name
        return None


def _check_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(
            'providers must be a list of strings, such as ["claude", "gemini"], '
            f"got the string {names!r}"
        )
    checked: list[str] = []
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                "provider name must be 1 to 64 lower-case letters, digits, '_', '.' or '-', "
                f"beginning with a letter or digit, got {name!r}"
            )
        if name in (OTHER, UNKNOWN):
            raise ValueError(
                f"provider name must not be {name!r}, which is reserved for undeclared providers"
            )
        if name in checked:
            raise ValueError(f"provider names must be unique, got {name!r} twice")
        checked.append(name)
    if not checked:
        raise ValueError(
            "providers must have at least one name, got an empty list; omit it for the default"
        )
    return tuple(checked)


def _request_header(scope: Scope) -> str | None:
    for name, value in scope.get("headers", ()):
        if name == HEADER:
            text: str = value.decode("latin-1")
            return text
    return None

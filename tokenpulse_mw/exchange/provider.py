"""Which of the declared providers an exchange belongs to; never a value the client made up."""

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

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MODEL_SEGMENTS = ("models", "model", "deployments")
MAX_PATH_CHARS = 256  # characters of a path that are looked at, which bounds the cache with it

ProviderResolver = Callable[[Scope], str | None]


class Providers:
    """The declared providers, and how a request is matched to one.

    Calling it with a scope gives the provider that the path names: as a segment
    (`/claude/v1/messages`) or as a model's prefix (`/v1beta/models/gemini-2.0-flash`).

    Args:
        names: The declared providers: lower-case letters, digits, `_`, `.` and `-`.
        resolver: Asked instead of the path; what it gives is still held to `names`.
        request_header: Believe `x-tokenpulse-provider` on requests too. Any client can send it.

    Raises:
        ValueError: A name is malformed, reserved or given twice, or there is none; or `resolver`
            cannot be called.
    """

    def __init__(
        self,
        names: Iterable[str] = PROVIDERS,
        *,
        resolver: ProviderResolver | None = None,
        request_header: bool = False,
    ) -> None:
        self.names = _checked(names)
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver must be a function of the scope, got {resolver!r}")
        self.resolver = resolver
        self.request_header = request_header
        self._known = {name: name for name in self.names}
        self._labels = lru_cache(maxsize=4096)(self._label_of_path)
        # What most requests are told by: the label for a path's beginning, or None if not so.
        self.label_of_path = self._labels if resolver is None and not request_header else None

    def __call__(self, scope: Scope) -> str | None:
        """The declared provider that the path names, or None."""
        label = self._labels(scope["path"][:MAX_PATH_CHARS])
        return None if label == UNKNOWN else label

    def resolve(self, scope: Scope, declared: str | None, model: str | None) -> str:
        """The provider's label.

        Args:
            scope: The request.
            declared: What the application said, by `annotate()` or its response header.
            model: The model that answered, for when nothing else tells.
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
        """`name` as a label: itself where declared, `unknown` where empty, else `other`."""
        if not name:
            return UNKNOWN
        # What is given may only compare like a name, as a member of an Enum does.
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


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"providers must be a list of names, got the single string {names!r}")
    checked: list[str] = []
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"provider name {name!r} is not usable as a label: expected 1 to 64 lower-case "
                "letters, digits, '_', '.' or '-', beginning with a letter or digit"
            )
        if name in (OTHER, UNKNOWN):
            raise ValueError(
                f"provider name {name!r} is reserved for exchanges of no declared provider"
            )
        if name in checked:
            raise ValueError(f"provider name {name!r} is given twice")
        checked.append(name)
    if not checked:
        raise ValueError(
            "providers is empty: declare at least one, or leave it out for the default"
        )
    return tuple(checked)


def _request_header(scope: Scope) -> str | None:
    for name, value in scope.get("headers", ()):
        if name == HEADER:
            text: str = value.decode("latin-1")
            return text
    return None

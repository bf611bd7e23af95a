"""Declared providers, and resolution of the provider of an exchange to one of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import pairwise

from starlette.types import Scope

from .exchange import Exchange, upstream_failed
from .models import MAX_MODEL_CHARS, OTHER, UNKNOWN, without_prefixes
from .observers import logger
from .route import UNMATCHED
from .scope import request_headers
from .vendors import PROVIDERS, VENDOR_OF, model_patterns

HEADER = b"x-tokenpulse-provider"
# Characters of a path that are read; they also bound the size of the caches.
MAX_PATH_CHARS = 256

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MAX_PATTERN_CHARS = 128
_MODEL_SEGMENTS = ("models", "model", "deployments")
_MAX_FAILURES = 10  # of a route without a provider, as many as let `provider_down` fire
_MAX_INSPECTED = 100_000  # exchanges; bounds the time during which they are inspected
_COMMON_WORDS = ("azure", "google", "meta")  # found in the paths of other endpoints, such as logins

ProviderResolver = Callable[[Scope], str | None]


class Providers:
    """Declared providers, and how an exchange is matched to one of them.

    The model of the response decides by its name, else the path: by a segment
    (`/claude/v1/messages`) or by its model (`/v1beta/models/gemini-2.0-flash`). If only one
    provider is declared, it is that of all other POST requests.

    Args:
        names: The declared providers: lower-case letters, digits, `_`, `.` and `-`. A mapping adds
            patterns of the models of each, such as `{"openai": ["gpt-*"], "local": ["llama3*"]}`,
            which precede the built-in ones. If None, well-known vendors are recognised.
        resolver: Returns the provider of a scope, or None to leave it to model and path. An
            undeclared name is counted as `other`.
        request_header: Also accept `x-tokenpulse-provider` in requests. Any client can send it.

    Attributes:
        names: The names that are recognised.
        seen: The providers that responded.

    Raises:
        ValueError: `names` is empty, or has an invalid, reserved or repeated name, or an invalid
            pattern; or `resolver` is not callable.
    """

    def __init__(
        self,
        names: Iterable[str] | Mapping[str, Iterable[str]] | None = None,
        *,
        resolver: ProviderResolver | None = None,
        request_header: bool = False,
    ) -> None:
        given = _check_patterns(names) if isinstance(names, Mapping) else {}
        self.names = _check_names(PROVIDERS if names is None else given or names)
        if resolver is not None and not callable(resolver):
            raise ValueError(f"resolver must be a function of the scope, got {resolver!r}")
        self.resolver = resolver
        self.request_header = request_header
        self.seen: set[str] = set()
        self._is_declared = names is not None
        self._only = self.names[0] if self._is_declared and len(self.names) == 1 else None
        self._failures = _UnknownFailures()
        self._known = {name: name for name in self.names}
        self._segments = _segments(self.names, is_declared=names is not None)
        self._patterns = model_patterns(self.names, tuple(given.items()))
        # The model does not name these providers, so a path that does decides.
        self._hosts = {name for name in self.names if name not in VENDOR_OF and not given.get(name)}
        self._owners = lru_cache(maxsize=1024)(self._owners_of_model)
        self._labels = lru_cache(maxsize=4096)(self._label_of_path)
        # The label of the start of a path, if only the path determines the provider; else None.
        self.label_of_path = self._labels if resolver is None and not request_header else None
        # The provider of a finished exchange for which `resolve` returned `unknown`, if it is used.
        self.fallback = self._fallback if self._is_declared else None

    def resolve(self, scope: Scope, declared: str | None, model: str | None) -> str:
        """Return the label of the provider.

        Args:
            scope: The request.
            declared: Provider from `annotate()` or from the response header, if any.
            model: Model of the response, if any.
        """
        name = declared
        if not name and self.request_header:
            name = _request_header(scope)
        if not name and self.resolver is not None:
            name = self.resolver(scope)
        if name:
            return self._to_label(name)
        label = self._labels(scope["path"][:MAX_PATH_CHARS])
        return self._choose(label, self._owners(model[:MAX_MODEL_CHARS])) if model else label

    def owner(self, model: str) -> str:
        """Return the provider of `model`, or `unknown`."""
        owners = self._owners(model[:MAX_MODEL_CHARS])
        return owners[0] if owners else UNKNOWN

    def listed(self) -> list[str]:
        """Return the declared providers; if none are declared, those that responded."""
        if self._is_declared:
            return list(self.names)
        return sorted(self.seen.copy() - {OTHER, UNKNOWN})

    def only(self, exchange: Exchange) -> str:
        """Return the only declared provider if the exchange may be its own, else `unknown`.

        Errors name no model. Pages and probes are mostly GET requests, and must not count as
        successes of the provider.
        """
        is_own = _may_reach_model(exchange) and exchange.route != UNMATCHED
        return self._only if is_own and self._only is not None else UNKNOWN

    def _fallback(self, exchange: Exchange) -> str:
        """Return the same as `only`, and inspect the failures of exchanges without a provider."""
        provider = self.only(exchange)
        if provider == UNKNOWN and self._failures.left and _may_reach_model(exchange):
            self._failures.inspect(exchange)
        return provider

    def _to_label(self, name: str) -> str:
        """Return `name` if it is declared, else `other`."""
        # Return the declared string: `name` may be an Enum member that only compares equal.
        return self._known.get(name) or self._known.get(name.strip().lower(), OTHER)

    def _choose(self, label: str, owners: tuple[str, ...]) -> str:
        """Return the provider by the label of the path, and by the owners of the model."""
        return label if not owners or label in owners or label in self._hosts else owners[0]

    def _owners_of_model(self, model: str) -> tuple[str, ...]:
        """Return the providers whose patterns match `model`, with as few prefixes removed."""
        for rest in without_prefixes(model.lower()):
            owners = [name for name, pattern in self._patterns if pattern.match(rest)]
            if owners:
                return tuple(owners)
        return ()

    def _label_of_path(self, path: str) -> str:
        segments = path.lower().split("/")
        names = (self._segments[segment] for segment in segments if segment in self._segments)
        label = next(names, UNKNOWN)
        for before, segment in pairwise(segments):
            if before in _MODEL_SEGMENTS:
                model = segment.partition(":")[0]  # before a method, such as `:generateContent`
                if owners := self._owners(segment) or self._owners(model):
                    return self._choose(label, owners)
        return label


def _may_reach_model(exchange: Exchange) -> bool:
    return exchange.method == "POST" or exchange.model is not None


class _UnknownFailures:
    """Detector of failures that alerts on providers do not receive, since theirs is unknown.

    A route that also succeeds without a model is not that of a provider: its failures do not count.

    Attributes:
        left: Number of exchanges still to inspect.
    """

    def __init__(self) -> None:
        self.left = _MAX_INSPECTED
        self._by_route: dict[str, float] = {}

    def inspect(self, exchange: Exchange) -> None:
        """Count a failure, and warn if the route has failed often."""
        route = exchange.route
        failed = upstream_failed(
            method=exchange.method,
            status=exchange.status,
            outcome=exchange.outcome,
            limited=exchange.limited,
        )
        if failed is None or exchange.credential or route == UNMATCHED:
            return
        self.left -= 1
        if not failed:
            if exchange.model is None and exchange.usage_source is None:  # not of a model
                self._by_route[route] = -math.inf
            return
        failures = self._by_route[route] = self._by_route.get(route, 0) + 1
        if failures >= _MAX_FAILURES:
            self.left = 0
            logger.warning(
                "failures have no provider, so alerts such as provider_down do not count them "
                "(logged once): route=%s failures=%d; errors name no model, so name the provider "
                "in the application: by the response header x-tokenpulse-provider, or by "
                "annotate(request, provider=...) or annotate(request, model=...)",
                route,
                failures,
            )


@lru_cache(maxsize=16)
def _segments(names: tuple[str, ...], *, is_declared: bool) -> Mapping[str, str]:
    """Return the declared provider of each segment of a path that names one.

    The other names of a vendor count, too: `/anthropic/v1/messages` is `claude`, unless
    `anthropic` is declared.
    """
    segments = {
        name: provider
        for provider in reversed(names)
        for name in (provider, *VENDOR_OF.get(provider, ()))
        if name not in _COMMON_WORDS
    }
    return {**segments, **{name: name for name in names if is_declared or name in segments}}


def _check_patterns(given: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    checked: dict[str, tuple[str, ...]] = {}
    for name, patterns in given.items():
        is_list = isinstance(patterns, Iterable) and not isinstance(patterns, str | bytes)
        checked[name] = listed = tuple(patterns) if is_list else ()
        if not is_list or not all(_is_pattern(pattern) for pattern in listed):
            raise ValueError(
                f"models of provider {name!r} must be a list of patterns of 1 to "
                f'{_MAX_PATTERN_CHARS} characters, such as ["gpt-*", "o3*"], got {patterns!r}'
            )
    return checked


def _is_pattern(pattern: object) -> bool:
    return isinstance(pattern, str) and 0 < len(pattern) <= _MAX_PATTERN_CHARS


def _check_names(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        got = f"the string {names!r}" if isinstance(names, str) else repr(names)
        raise ValueError(
            f'providers must be a list of strings, such as ["claude", "gemini"], got {got}'
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
    for name, value in request_headers(scope):
        if name == HEADER:
            text: str = value.decode("latin-1")
            return text
    return None

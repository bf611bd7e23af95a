"""Keys by annotations of the application, such as the tenant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from starlette.types import Scope

from ...exchange import Exchange, annotations_of, recorder_of
from ...validation import check_choice
from ..callables import KeyFunction, factory
from ..misuse import WarnOnce

_ONLY_ANNOTATED = ("tenant", "api_key", "credential")
_FIELDS = (*_ONLY_ANNOTATED, "provider", "model")  # these two are also read from the response
_MAX_INSPECTED = 100  # requests; a late annotation is visible in the first ones


@factory
def annotation(field: str) -> KeyFunction:
    """Return a key function for an annotation of the exchange; without it, the key is None.

    The annotation must exist before the rate limit is evaluated: call `annotate()` in a middleware
    outside the rate limit, not in an endpoint. For a limit at a route (`TokenPulse.limit`), an
    earlier dependency may call it.

    Args:
        field: "tenant", "api_key", "credential", "provider" or "model".

    Raises:
        ValueError: `field` is unknown.
    """
    check_choice("field", field, _FIELDS)
    detector = _LateAnnotationDetector(field)

    def key(scope: Scope) -> Hashable | None:
        annotations = annotations_of(scope)
        value = annotations.get(field) if annotations else None
        if not value and detector.left:
            detector.inspect(scope, annotations)
        return value or None

    return key


class _LateAnnotationDetector:
    """Detector of a limit without effect because the annotation is late or missing.

    Args:
        field: Field of the annotation.

    Attributes:
        left: Number of requests without a key still to inspect.
    """

    def __init__(self, field: str) -> None:
        self.left = _MAX_INSPECTED
        self._field = field
        self._warn = WarnOnce()

    def inspect(self, scope: Scope, annotations: Mapping[str, Any] | None) -> None:
        """Warn if the request cannot be annotated; else inspect it again when it ends."""
        self.left -= 1
        recorder = recorder_of(scope)
        if annotations is None:
            self._log("found no exchange and no annotation")
        elif recorder is not None and self._field in _ONLY_ANNOTATED:
            recorder.add_callback(self)

    def finished(self, exchange: Exchange) -> None:
        """Warn if the request was annotated after the limit was evaluated."""
        if getattr(exchange, self._field) is not None:
            self._log("was evaluated before the application annotated it")

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _log(self, problem: str) -> None:
        self._warn(
            "keys.annotation(%r) %s, so no request is limited: call annotate() in a middleware "
            "outside the rate limit, or give the policy to TokenPulse(inner_policies=[...])",
            self._field,
            problem,
        )

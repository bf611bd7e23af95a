"""The key of a limit by what the application knows, such as the tenant."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from starlette.types import Scope

from ...exchange import Exchange, annotations_of, recorder_of
from ..callables import KeyFunction, factory
from ..misuse import WarnOnce

_ANNOTATED = ("tenant", "api_key", "credential", "provider", "model")


_ONLY_ANNOTATED = ("tenant", "api_key", "credential")  # the others are told by the answer as well


_MAX_INSPECTED = 100  # requests; who annotates too late does so from the first


@factory
def annotation(field: str) -> KeyFunction:
    """Key by what the application has annotated on the exchange; None where it has not.

    It must be known before the limit is asked: call `annotate()` in a middleware of yours that
    stands outside of the rate limit, and not in an endpoint.

    Args:
        field: "tenant", "api_key", "credential", "provider" or "model".

    Raises:
        ValueError: `field` is none of these.
    """
    if field not in _ANNOTATED:
        raise ValueError(f"field must be one of {', '.join(_ANNOTATED)}, got {field!r}")
    late = _LateAnnotation(field)

    def key(scope: Scope) -> Hashable | None:
        said = annotations_of(scope)
        value = said.get(field) if said else None
        if not value and late.left:
            late.look_at(scope, said)
        return value or None

    return key


class _LateAnnotation:
    """Notices a limit that limits nobody, because nobody tells the key in time.

    Args:
        field: What has to be annotated.

    Attributes:
        left: Requests without a key that are still looked at.
    """

    def __init__(self, field: str) -> None:
        self.left = _MAX_INSPECTED
        self._field = field
        self._warn = WarnOnce()

    def look_at(self, scope: Scope, said: Mapping[str, Any] | None) -> None:
        """See whether the key of this request can be told at all, and is by its end."""
        self.left -= 1
        tap = recorder_of(scope)
        if said is None:
            self._tell("found no exchange and no annotation")
        elif tap is not None and self._field in _ONLY_ANNOTATED:
            tap.add_callback(self)

    def finished(self, exchange: Exchange) -> None:
        """Tell if it was annotated after all."""
        if getattr(exchange, self._field) is not None:
            self._tell("was evaluated before the application annotated it")

    async def close(self) -> None:
        """Nothing is held."""

    def _tell(self, what: str) -> None:
        self._warn(
            "keys.annotation(%r) %s, so it limits no request: call annotate() in a middleware "
            "that stands "
            "outside of the rate limit",
            self._field,
            what,
        )

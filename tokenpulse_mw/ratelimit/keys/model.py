"""Keys by the model that a request names."""

from __future__ import annotations

from collections.abc import Hashable

from starlette.types import Scope

from ...exchange import (
    SAFE_METHODS,
    UNKNOWN,
    Models,
    annotations_of,
    fold_model,
    recorder_of,
    requested_model,
)
from ..callables import KeyFunction, factory, reading_model
from ..key_kinds import text_kind, with_kind


@factory
def model(models: Models | None = None) -> KeyFunction:
    """Return a key function for the model of a request, such as "gpt-5-mini".

    The model is that of `annotate(model=)`, else of the path (Gemini, Vertex AI, Azure, Bedrock),
    else of the JSON body, whose first 64 KiB the middleware reads before the application does.
    Prefixes, dates and versions are removed, so that a model has one key. Requests without a valid
    model share the key "unknown", so that no form of a request avoids the limit; only GET, HEAD,
    OPTIONS and TRACE requests without a model have the key None. The key does not identify a
    client: use `combine(annotation("tenant"), model())`.

    Args:
        models: Declared models and aliases; all other models share the key "other".

    Raises:
        ValueError: `models` is not a `Models`.
    """
    if models is not None and not isinstance(models, Models):
        raise ValueError(f"models must be a Models(...), got {models!r}")

    def key(scope: Scope) -> Hashable | None:
        name = model_of(scope)
        if name is None:
            return None if is_safe(scope) else UNKNOWN
        return (fold_model(name) or UNKNOWN) if models is None else models.declared_label(name)

    return with_kind(reading_model(key), text_kind("model"))


def model_of(scope: Scope) -> str | None:
    """Return the model that a request names, or None if it names none or was not read."""
    annotations = annotations_of(scope)
    name = annotations.get("model") if annotations else None
    if name is None:
        name = requested_model(scope)
    if name is None and (recorder := recorder_of(scope)) is not None:
        name = recorder.find_requested_model()
    return name


def is_safe(scope: Scope) -> bool:
    """Return True if a request has a method that reaches no model; False for a WebSocket."""
    return scope.get("method", "") in SAFE_METHODS

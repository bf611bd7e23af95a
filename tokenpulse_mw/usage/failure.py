"""Whether a document tells of an error, though the answer's status is that of success."""

from __future__ import annotations

from typing import Any

from .document import NOTHING, Document, objects
from .whose import is_models

# One of these is in every event that tells of an error.
SIGNS = (b'"error"', b'failed"')


def has_sign(data: bytes) -> bool:
    """Whether a document may tell of an error."""
    return SIGNS[0] in data or SIGNS[1] in data


def failed(document: Document) -> bool:
    """Whether this document tells of an error, as vendors do inside a 200 stream."""
    groq = document.x_groq
    return (
        _is_error(document.error)
        or document.type in ("error", "response.failed")
        or document.object == "error"  # Mistral, vLLM
        or (document.object == "response" and document.status == "failed")
        or (isinstance(groq, dict) and _is_error(groq.get("error")))
        or _choice_failed(document)
    )


def refused(document: Document) -> bool:
    """Whether this document, which is all of an answer or its end, tells of an error.

    In what is not a model's only an object is one: applications answer with "error": true.
    """
    error = document.error
    if error is None:
        return document.object in ("error", "response") and failed(document)
    return _is_error(error) and (isinstance(error, dict) or is_models(document))


def _is_error(error: Any) -> bool:
    """An error says something; one without a code and a message is none."""
    return any(error.values()) if isinstance(error, dict) else bool(error)


def _choice_failed(document: Document) -> bool:
    """OpenRouter tells of it in the choice that could not be finished."""
    choices = document.choices
    return (
        choices is not NOTHING
        and b'"error"' in bytes(choices)
        and any(_is_error(choice.get("error")) for choice in objects(choices))
    )

"""The API formats whose responses are understood.

One module per format contains everything about it. To add a vendor, add a module and
list it in `FORMATS`.
"""

from __future__ import annotations

from ..document import NOTHING, Document, Event
from . import anthropic, bedrock, cohere, completions, gemini, openai_chat, openai_responses
from .base import Format, UsageReport, is_error

__all__ = [
    "FORMATS",
    "Format",
    "UsageReport",
    "find_usage",
    "has_error",
    "has_output",
    "is_error_response",
    "is_response",
    "is_stored_object",
    "model_of",
]

# In the order in which they are tried.
FORMATS: tuple[Format, ...] = (
    gemini.FORMAT,
    anthropic.FORMAT,
    openai_chat.FORMAT,
    openai_responses.FORMAT,
    bedrock.FORMAT,
    cohere.FORMAT,
    completions.FORMAT,
)

# Calls of functions that a format does not define are saved.
_DEFAULTS = Format("")
_FIND_USAGE = tuple(
    find
    for find in (
        *(form.find_usage for form in FORMATS),
        *(form.find_unclaimed_usage for form in FORMATS),
    )
    if find is not _DEFAULTS.find_usage
)
_HAS_OUTPUT = tuple(
    form.has_output for form in FORMATS if form.has_output is not _DEFAULTS.has_output
)
_IS_RESPONSE = tuple(
    form.is_response for form in FORMATS if form.is_response is not _DEFAULTS.is_response
)
_HAS_ERROR = tuple(form.has_error for form in FORMATS if form.has_error is not _DEFAULTS.has_error)

# OpenAI objects other than responses that name a model or report usage.
_STORED_OBJECTS = frozenset(
    (
        "assistant",
        "batch",
        "eval.run",
        "file",
        "fine_tuning.job",
        "realtime.session",
        "realtime.transcription_session",
        "vector_store",
        "vector_store.file",
        "vector_store.file_batch",
        "video",
    )
)


def find_usage(document: Document) -> UsageReport | None:
    """Return the usage in a document; None if it is absent, null, or not an object."""
    for find in _FIND_USAGE:
        report = find(document)
        if report is not None:
            return report
    return None


def has_output(event: Event) -> bool:
    """Return True if a stream event carries model output.

    Raises:
        UNREADABLE: The output is not JSON.
    """
    for has in _HAS_OUTPUT:  # noqa: SIM110 - faster than a generator
        if has(event):
            return True
    return False


def model_of(document: Document) -> str | None:
    """Return the model named by a document, or None."""
    name = document.model or document.modelVersion
    if name is None and isinstance(document.message, dict):
        name = document.message.get("model")
    return name if name and isinstance(name, str) else None


def is_response(document: Document) -> bool:
    """Return True if a document is recognizably a model's response, with or without usage.

    An error object counts, unless it is a JSON-RPC error.
    """
    for has_shape in _IS_RESPONSE:
        if has_shape(document):
            return True
    if isinstance(document.error, dict) and document.jsonrpc is None:
        return True
    # Cached contents of Gemini name a model and report their length.
    return not isinstance(document.usageMetadata, dict) and model_of(document) is not None


def is_stored_object(document: Document) -> bool:
    """Return True if a document names a model but is not its response.

    These are objects stored by OpenAI (a batch, a file, a video) and moderations, which are free.
    """
    if document.choices is not NOTHING:  # marks a response of any kind
        return False
    kind = document.object
    if isinstance(kind, str) and kind in _STORED_OBJECTS:
        return True
    return document.results is not NOTHING and b'"flagged"' in bytes(document.results)


def has_error(document: Document) -> bool:
    """Return True if a document reports an error inside a successful response."""
    return (
        is_error(document.error)
        or document.type == "error"
        or document.object == "error"  # Mistral, vLLM
        or any(has(document) for has in _HAS_ERROR)
    )


def is_error_response(document: Document) -> bool:
    """Return True if a whole response body reports an error.

    In a body that is not recognized as a model's, only an error object counts: applications may
    respond with `"error": true`.
    """
    error = document.error
    if error is None:
        return document.object in ("error", "response") and has_error(document)
    return is_error(error) and (isinstance(error, dict) or is_response(document))

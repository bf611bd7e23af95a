"""Whose document it is: a model's, something that a vendor keeps, or an application's own."""

from __future__ import annotations

from .document import NOTHING, Document, opens_with

# The objects of OpenAI, beside its answers, that name a model or tell of a usage.
_KEPT = frozenset(
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
    )
)


def model(document: Document) -> str | None:
    """The model that says it answered."""
    name = document.model or document.modelVersion
    if name is None and isinstance(document.message, dict):
        name = document.message.get("model")
    return name if name and isinstance(name, str) else None


def is_models(document: Document) -> bool:
    """Whether it is seen from `document`, whatever it costs, that a model gave the answer.

    An error counts where it is an object, as the vendors' are; not that of a JSON-RPC, though.
    """
    choices, candidates, output = document.choices, document.candidates, document.output
    return (  # mostly there is none of them, which is faster to see so
        (choices is not NOTHING and opens_with(choices, b"["))
        or (candidates is not NOTHING and opens_with(candidates, b"["))
        or (output is not NOTHING and opens_with(output, b"[{"))
        or (document.type == "message" and opens_with(document.content, b"["))
        or (isinstance(document.error, dict) and document.jsonrpc is None)
        or _names_model(document)
    )


def _names_model(document: Document) -> bool:
    """Gemini's answers name a `modelVersion`; its cached contents a `model`, and their length."""
    if isinstance(document.usageMetadata, dict):
        return document.model is None
    return model(document) is not None


def is_kept(document: Document) -> bool:
    """Whether it is a thing that OpenAI keeps for its client, as a batch is, and no answer.

    It may name a model, and add up what all the answers of it have cost.
    """
    kind = document.object
    return document.choices is NOTHING and isinstance(kind, str) and kind in _KEPT

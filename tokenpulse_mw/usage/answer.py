"""What one JSON document of a vendor says: its usage, its model, its first words, its error."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from .tokens import part
from .vendors import Family

_NOTHING = msgspec.Raw(b"null")


class Document(msgspec.Struct):
    """The top-level fields that matter; msgspec passes over all others without building them."""

    type: Any = None
    object: Any = None
    model: Any = None
    modelVersion: Any = None  # noqa: N815 - Gemini's spelling
    usage: Any = None
    usageMetadata: Any = None  # noqa: N815 - Gemini's spelling
    x_groq: Any = None
    message: Any = None  # Anthropic's message_start wraps the message
    response: msgspec.Raw = _NOTHING  # OpenAI's response.* events wrap the response
    error: Any = None


class Statement(NamedTuple):
    """What a document says of its cost.

    `merges` is true where later statements override field by field (Anthropic's deltas) instead
    of as a whole; `final` is false for a count that the vendor will correct later.
    """

    family: Family
    fields: dict[str, Any]
    merges: bool = False
    final: bool = True


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_documents = msgspec.json.Decoder(Document | list[Document])


def read(data: bytes) -> list[Document]:
    """Decode a document, or an array of them (Gemini streams one).

    Raises:
        UNREADABLE: `data` is not JSON, or neither an object nor an array of objects.
    """
    decoded = _documents.decode(data)
    documents = decoded if isinstance(decoded, list) else [decoded]
    return [_unwrap(document) for document in documents]


def _unwrap(document: Document) -> Document:
    """The response inside an OpenAI Responses event, under the event's own type."""
    if document.response is _NOTHING or not bytes(document.response).startswith(b"{"):
        return document
    inner = msgspec.json.decode(document.response, type=Document)
    inner.type = document.type
    return inner


def statement(document: Document) -> Statement | None:
    """The usage in `document`, or None where it says nothing (absent, null, or not an object)."""
    if isinstance(document.usageMetadata, dict) and document.usageMetadata:
        return Statement("gemini", document.usageMetadata)
    if document.type == "message_start" and isinstance(document.message, dict):
        started = part(document.message, "usage")
        return Statement("anthropic", dict(started), merges=True, final=False) if started else None
    usage = document.usage
    if not isinstance(usage, dict) and isinstance(document.x_groq, dict):
        usage = document.x_groq.get("usage")
    if not isinstance(usage, dict) or (family := _family(document, usage)) is None:
        return None
    return Statement(family, usage, merges=document.type == "message_delta")


def _family(document: Document, usage: dict[str, Any]) -> Family | None:
    """Whose words these are, or None for a `usage` that is not about tokens."""
    if "input_tokens" in usage or "output_tokens" in usage:
        # Only OpenAI adds up a total; it also wraps every answer in an object of type "response".
        openai = "total_tokens" in usage or document.object == "response"
        return "openai-responses" if openai else "anthropic"
    if "inputTokens" in usage or "outputTokens" in usage:
        return "bedrock-converse"
    if "prompt_tokens" in usage or "completion_tokens" in usage:
        return "openai-chat"
    return None


def model(document: Document) -> str | None:
    """The model that says it answered."""
    name = document.model or document.modelVersion
    if name is None and isinstance(document.message, dict):
        name = document.message.get("model")
    return name if isinstance(name, str) else None


def failed(document: Document) -> bool:
    """Whether this document tells of an error, as vendors do inside a 200 stream."""
    return bool(document.error) or document.type in ("error", "response.failed")


def speaks(data: bytes) -> bool:
    """Whether this event of a stream carries the first piece of what the model wrote."""
    try:
        event = msgspec.json.decode(data)
    except UNREADABLE:
        return False
    if not isinstance(event, dict):
        return False
    kind = event.get("type")
    if isinstance(kind, str):  # Anthropic, OpenAI Responses
        return kind == "content_block_delta" or kind.endswith(".delta")
    return any(map(_choice_speaks, _objects(event.get("choices")))) or any(
        _objects(part(candidate, "content").get("parts"))
        for candidate in _objects(event.get("candidates"))
    )


_SPOKEN = ("content", "reasoning_content", "reasoning", "tool_calls", "refusal")


def _choice_speaks(choice: dict[str, Any]) -> bool:
    delta = part(choice, "delta")
    return bool(choice.get("text")) or any(delta.get(name) for name in _SPOKEN)


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

"""What one JSON document of a vendor says: its usage, its model, its error."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from .tokens import count, counted
from .vendors import Family

NOTHING = msgspec.Raw(b"null")


class Document(msgspec.Struct):
    """The top-level fields that matter; msgspec passes over all others without building them.

    What the model wrote stays as it came: it is only of interest until its first words.
    """

    type: Any = None
    object: Any = None
    model: Any = None
    modelVersion: Any = None  # noqa: N815 - Gemini's spelling
    usage: Any = None
    usageMetadata: Any = None  # noqa: N815 - Gemini's spelling
    x_groq: Any = None
    metrics: Any = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")
    message: Any = None  # Anthropic's message_start wraps the message
    error: Any = None
    response: msgspec.Raw = NOTHING  # OpenAI's response.* events wrap the response
    choices: msgspec.Raw = NOTHING
    candidates: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING


class Statement(msgspec.Struct, frozen=True):
    """What a document says of its cost.

    `merges` is true where later statements override field by field (Anthropic's deltas) instead
    of as a whole; `final` is false for a count that the vendor will correct later. One that
    `yields` counts only where the vendor itself has not had its last word: a host's own metrics.
    """

    family: Family
    fields: dict[str, Any]
    merges: bool = False
    final: bool = True
    yields: bool = False

    @property
    def whole(self) -> bool:
        """It says all there is to say, so that nothing said before it matters any more."""
        return not self.merges and not self.yields


# What makes a document worth decoding: a key that every vendor's usage has, in one of two
# spellings. Inside a JSON string its quote would be escaped, so text that a model writes can only
# look like it at the end of a string.
COUNT = re.compile(rb'oken(?:s|Count)"')

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_ANTHROPIC_EVENTS = ("message", "message_start", "message_delta")
_ANTHROPIC = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_GEMINI = (
    "promptTokenCount",
    "candidatesTokenCount",
    "totalTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)

_documents = msgspec.json.Decoder(Document | list[Document])


def read(data: bytes) -> list[Document]:
    """Decode a document, or an array of them.

    Raises:
        UNREADABLE: `data` is not JSON, or neither an object nor an array of objects.
    """
    decoded = _documents.decode(data)
    documents = decoded if isinstance(decoded, list) else [decoded]
    for place, document in enumerate(documents):
        if document.response is not NOTHING:
            documents[place] = _unwrap(document)
    return documents


def _unwrap(document: Document) -> Document:
    """The response inside an event of OpenAI Responses or Gemini's Code Assist."""
    wrapped = bytes(document.response).startswith(b"{")
    if not wrapped or document.usage is not None or document.usageMetadata is not None:
        return document
    inner = msgspec.json.decode(document.response, type=Document)
    inner.type = document.type
    inner.error = inner.error or document.error
    return inner


def statement(document: Document) -> Statement | None:
    """The usage in `document`, or None where it says nothing (absent, null, or not an object)."""
    metadata = document.usageMetadata
    if metadata is not None and isinstance(metadata, dict) and counted(metadata, *_GEMINI):
        return Statement("gemini", metadata)
    if document.type == "message_start":
        started = _inside(document.message)
        begun = isinstance(started, dict) and _is_anthropic(started)
        return Statement("anthropic", dict(started), merges=True, final=False) if begun else None
    for said in (document.usage, _inside(document.x_groq)):
        if isinstance(said, dict) and (family := _family(document, said)) is not None:
            return Statement(family, said, merges=document.type == "message_delta")
    metrics = document.metrics
    if isinstance(metrics, dict) and counted(metrics, "inputTokenCount", "outputTokenCount"):
        return Statement("bedrock-converse", metrics, yields=True)
    return None


def _inside(wrapper: Any) -> Any:
    """The usage in what Anthropic's first event wraps, or in what Groq adds of its own."""
    return wrapper.get("usage") if isinstance(wrapper, dict) else None


def _is_anthropic(usage: dict[str, Any]) -> bool:
    return counted(usage, *_ANTHROPIC) or bool(usage.get("iterations"))


def _family(document: Document, usage: dict[str, Any]) -> Family | None:
    """Whose words these are, or None for a `usage` that is not about tokens."""
    if document.type in _ANTHROPIC_EVENTS and _is_anthropic(usage):
        return "anthropic"
    if counted(usage, "prompt_tokens", "completion_tokens") and (
        # Some gateways write both spellings, of which they leave one at zero.
        count(usage, "prompt_tokens")
        or count(usage, "completion_tokens")
        or not counted(usage, "input_tokens", "output_tokens")
    ):
        return "openai-chat"
    if counted(usage, "input_tokens", "output_tokens"):
        # Only OpenAI adds up a total; it also wraps every answer in an object of type "response".
        openai = "total_tokens" in usage or document.object == "response"
        return "openai-responses" if openai else "anthropic"
    return "bedrock-converse" if counted(usage, "inputTokens", "outputTokens") else None


def last_count(data: bytes) -> int:
    """The last place in `data` that `COUNT` is found at, or -1; the fastest way to look for it."""
    place = data.rfind(b"oken")  # mostly there is none; to look for both spellings takes longer
    if place < 0:
        return place
    return max(data.rfind(b'okens"', 0, place + 6), data.rfind(b'okenCount"', 0, place + 10))


def model(document: Document) -> str | None:
    """The model that says it answered."""
    name = document.model or document.modelVersion
    if name is None and isinstance(document.message, dict):
        name = document.message.get("model")
    return name if name and isinstance(name, str) else None


def failed(document: Document) -> bool:
    """Whether this document tells of an error, as vendors do inside a 200 stream."""
    return bool(document.error) or document.type in ("error", "response.failed")


def tells_of_error(data: bytes) -> bool:
    """Whether these bytes are a document that tells of an error."""
    try:
        return any(map(failed, read(data)))
    except UNREADABLE:
        return False

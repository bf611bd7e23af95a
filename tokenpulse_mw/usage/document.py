"""One JSON document of a vendor, as far as it tells of the answer and not of its words."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from .repair import documents_in, mend

NOTHING = msgspec.Raw(b"null")


class Document(msgspec.Struct):
    """The top-level fields that matter; msgspec passes over all others without building them.

    What the model wrote stays as it came.
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
    status: Any = None
    jsonrpc: Any = None
    response: msgspec.Raw = NOTHING  # OpenAI's response.* events wrap the response
    choices: msgspec.Raw = NOTHING
    candidates: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING


D = TypeVar("D", bound=Document)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_documents = msgspec.json.Decoder(Document | list[Document])


def read(data: bytes) -> list[Document]:
    """Decode a document, or an array of them.

    Raises:
        UNREADABLE: `data` is not JSON, or neither an object nor an array of objects.
    """
    return read_by(_documents, data)


def read_by(decoder: msgspec.json.Decoder[D | list[D]], data: bytes) -> list[D]:
    """As `read`, of a kind of documents that tells more."""
    try:
        decoded = decoder.decode(data)
    except UNREADABLE:
        if not data:  # as of a comment in a stream
            raise
        decoded = _read_mended(decoder, data)
    documents = decoded if isinstance(decoded, list) else [decoded]
    for place, document in enumerate(documents):
        if document.response is not NOTHING:
            documents[place] = _unwrap(document)
    return documents


def _read_mended(decoder: msgspec.json.Decoder[D | list[D]], data: bytes) -> D | list[D]:
    """What can be read of a document once it is mended, or line by line, if all of it can."""
    try:
        return decoder.decode(mend(data))
    except UNREADABLE:
        lines = documents_in(data)
        if not lines:
            raise
        documents: list[D] = []
        for line in lines:
            decoded = decoder.decode(mend(line))
            documents += decoded if isinstance(decoded, list) else [decoded]
        return documents


def _unwrap(document: D) -> D:
    """The response inside an event of OpenAI Responses or Gemini's Code Assist."""
    if not opens_with(document.response, b"{"):
        return document
    inner = msgspec.json.decode(document.response, type=type(document))
    inner.type = document.type
    inner.error = inner.error or document.error
    inner.usage = document.usage or inner.usage
    inner.usageMetadata = document.usageMetadata or inner.usageMetadata
    return inner


def opens_with(raw: msgspec.Raw, brackets: bytes) -> bool:
    """Whether what stands there is an object, or an array, as its first bracket tells."""
    return raw is not NOTHING and memoryview(raw)[0] in brackets


def objects(raw: msgspec.Raw) -> list[dict[str, Any]]:
    """The objects of an array; none where something else stands there, or cannot be read."""
    if raw is NOTHING:
        return []
    try:
        items = msgspec.json.decode(raw)
    except UNREADABLE:  # what stands between its brackets is only seen now
        return []
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

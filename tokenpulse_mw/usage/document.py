"""One JSON document of a vendor, as far as it tells of the answer and not of its words."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

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
    decoded = decoder.decode(data)
    documents = decoded if isinstance(decoded, list) else [decoded]
    for place, document in enumerate(documents):
        if document.response is not NOTHING:
            documents[place] = _unwrap(document)
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
        or isinstance(document.usageMetadata, dict)
        or (isinstance(document.error, dict) and document.jsonrpc is None)
        or model(document) is not None
    )

"""Top-level fields of one JSON document of a vendor, without the model's output."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar

import msgspec

from .bounds import MAX_BUILT_VALUES, MAX_DOCUMENT_LINES, MAX_REPAIRS, MAX_SLICE_BYTES
from .budget import Budget

NOTHING = msgspec.Raw(b"null")


class Document(msgspec.Struct):
    """The top-level fields in use; msgspec skips all others without creating objects.

    Fields with output of the model stay undecoded.
    """

    type: Any = None
    object: Any = None
    model: Any = None
    modelVersion: Any = None  # noqa: N815 - Gemini's spelling
    usage: Any = None
    usageMetadata: Any = None  # noqa: N815 - Gemini's spelling
    x_groq: Any = None
    metrics: Any = msgspec.field(default=None, name="amazon-bedrock-invocationMetrics")
    tool_usage: Any = None  # OpenAI's tools that call models
    meta: Any = None  # Cohere v1
    message: Any = None  # Anthropic's message_start wraps the message
    error: Any = None
    status: Any = None
    jsonrpc: Any = None
    response: msgspec.Raw = NOTHING  # OpenAI's response.* events wrap the response
    choices: msgspec.Raw = NOTHING
    candidates: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    delta: msgspec.Raw = NOTHING
    data: msgspec.Raw = NOTHING  # some gateways wrap the response
    results: msgspec.Raw = NOTHING


class Event(Document):
    """A document with the top-level fields in which vendors send output of the model."""

    event_type: Any = None
    text: Any = None
    completion: Any = None
    generation: Any = None
    outputText: Any = None  # noqa: N815 - Titan's spelling
    contentBlockDelta: msgspec.Raw = NOTHING  # noqa: N815 - Nova's spelling
    outputs: msgspec.Raw = NOTHING


D = TypeVar("D", bound=Document)

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Reader(Generic[D]):
    """Decoder of one kind of documents, or of arrays of them."""

    def __init__(self, kind: type[D]) -> None:
        self._kind = kind
        self._documents = msgspec.json.Decoder(kind | list[kind])  # type: ignore[valid-type]
        fields = msgspec.structs.fields(kind)
        self._raw = {field.name for field in fields if field.type is msgspec.Raw}
        outline = msgspec.defstruct(
            "Outline",
            [(field.name, msgspec.Raw, NOTHING) for field in fields],
            rename={field.name: field.encode_name for field in fields},
        )
        self._outlines = msgspec.json.Decoder(outline)

    def read(self, data: bytes, budget: Budget | None = None) -> list[D]:
        """Decode a document, or an array of them, and repair it if `budget` allows it.

        Raises:
            UNREADABLE: `data` is not JSON, or neither an object nor an array of objects, or an
                array of too many values.
        """
        try:
            if len(data) <= MAX_BUILT_VALUES:
                decoded = self._documents.decode(data)
                documents = decoded if type(decoded) is list else [decoded]
            else:
                documents = self._decode(data)
        except UNREADABLE:
            # A comment of a stream has no data.
            if not data or not (budget is None or budget.spend_repair(data)):
                raise
            documents = self._read_repaired(repaired(data))
        for index, document in enumerate(documents):
            if document.response is not NOTHING:
                documents[index] = self._unwrap(document)
            elif document.data is not NOTHING:
                documents[index] = self._open_envelope(document)
        return documents

    def _decode(self, data: bytes) -> list[D]:
        if len(data) <= MAX_BUILT_VALUES or is_small(data):
            decoded = self._documents.decode(data)
            return decoded if type(decoded) is list else [decoded]
        # Objects are only created for the fields in use, and only for small ones.
        outline = self._outlines.decode(data)
        document = self._kind()
        for name in outline.__struct_fields__:
            raw = getattr(outline, name)
            if name in self._raw:
                setattr(document, name, raw)
            elif raw is not NOTHING and is_small(raw):
                setattr(document, name, msgspec.json.decode(raw))
        return [document]

    def _read_repaired(self, data: bytes) -> list[D]:
        """Decode a repaired document, or line by line if each line is one."""
        try:
            return self._decode(without_controls(data))
        except UNREADABLE:
            lines = split_lines(data)
            if not lines or not all(map(_may_be_documents, lines)):
                raise
            return [document for line in lines for document in self._decode(without_controls(line))]

    def _unwrap(self, document: D) -> D:
        """Return the response inside an event of OpenAI Responses or Gemini's Code Assist."""
        if not opens_with(document.response, b"{"):
            return document
        (inner,) = self._decode(bytes(document.response))
        inner.type = document.type
        inner.error = inner.error or document.error
        inner.usage = document.usage or inner.usage
        inner.usageMetadata = document.usageMetadata or inner.usageMetadata
        return inner

    def _open_envelope(self, document: D) -> D:
        """Return the response inside `data`, if only that has usage."""
        if document.usage is not None or not opens_with(document.data, b"{"):
            return document
        (inner,) = self._decode(bytes(document.data))
        has_usage = isinstance(inner.usage, dict) or isinstance(inner.usageMetadata, dict)
        return inner if has_usage else document


def _may_be_documents(line: bytes) -> bool:
    return line.startswith(b"[") or line.lstrip().startswith(b"{")


read = Reader(Document).read
read_events = Reader(Event).read


def is_small(data: bytes | msgspec.Raw) -> bool:
    """Return True if `data` has so few JSON values that objects may be created for all of them."""
    view = memoryview(data)
    left = MAX_BUILT_VALUES
    if len(view) <= left:
        return True
    for start in range(0, len(view), MAX_SLICE_BYTES):
        piece = bytes(view[start : start + MAX_SLICE_BYTES])
        left -= len(piece) - len(piece.translate(None, b"{[,"))
        if left < 0:
            return False
    return True


def opens_with(raw: msgspec.Raw, brackets: bytes) -> bool:
    """Return True if the value starts with one of these brackets."""
    return raw is not NOTHING and memoryview(raw)[0] in brackets


def objects(raw: msgspec.Raw) -> list[dict[str, Any]]:
    """Return the objects of an array; none if it is not an array, is large or cannot be read."""
    return [] if raw is NOTHING or not is_small(raw) else decode_objects(raw)


def decode_objects(raw: msgspec.Raw) -> list[dict[str, Any]]:
    """Return the objects of a small array; none if it is not an array or cannot be read."""
    try:
        items = msgspec.json.decode(raw)
    except UNREADABLE:  # raw fields are only validated here
        return []
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


# Each pattern begins with fixed bytes, for which `re` has a fast search.
# Half of a surrogate pair, from text that was cut between the two halves.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_NON_FINITE_NUMBERS = (
    re.compile(rb"NaN(?<=[\s:,\[]NaN)(?=[\s,\]}])"),
    re.compile(rb"Infinity(?<=[\s:,\[]Infinity)(?=[\s,\]}])"),
    re.compile(rb"-Infinity(?<=[\s:,\[]-Infinity)(?=[\s,\]}])"),
)

_CONTROLS = bytes.maketrans(bytes(range(32)), b" " * 32)

_NOT_DOCUMENTS = (b"", b"[DONE]")


def fix_json(data: bytes) -> bytes:
    """Return `data` with output of Python's encoder that RFC 8259 forbids replaced.

    These are halves of surrogate pairs (8.2), NaN and Infinity (6), and control characters in
    strings (7). Only the text of the model changes. At most 20,000 of each are replaced.
    """
    return without_controls(repaired(data))


def repaired(data: bytes) -> bytes:
    """Return `data` without halves of surrogate pairs, NaN and Infinity."""
    data = _SURROGATE.sub(rb"\\ufffd", data, count=MAX_REPAIRS)
    for pattern in _NON_FINITE_NUMBERS:
        data = pattern.sub(b"null", data, count=MAX_REPAIRS)
    return data


def without_controls(data: bytes) -> bytes:
    """Return `data` with a space for each control character."""
    return data.translate(_CONTROLS)


def split_lines(data: bytes) -> list[bytes]:
    """Return the lines of `data` that may be documents; none if there are too many lines.

    GLM and Kimi separate some events by one line end instead of two, so that the data of several
    events is read as one; the `[DONE]` of the stream may be among them.
    """
    if data.count(b"\n") >= MAX_DOCUMENT_LINES:
        return []
    return [line for line in data.split(b"\n") if line.strip() not in _NOT_DOCUMENTS]

"""Whether an event of a stream carries words of the model, whose first ones are waited for."""

from __future__ import annotations

from typing import Any

import msgspec

from .answer import NOTHING, Document
from .tokens import part

# Text, reasoning, a call of a tool, a refusal, speech: all of them the model has written.
_SPOKEN = (
    "content",
    "reasoning_content",
    "reasoning",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
)


def speaks(document: Document) -> bool:
    """Whether `document` carries a piece of what the model wrote."""
    kind = document.type
    if isinstance(kind, str):  # Anthropic, OpenAI Responses
        return kind == "content_block_delta" or kind.endswith(".delta")
    if document.choices is not NOTHING:
        return any(_choice_speaks(choice, "delta") for choice in _objects(document.choices))
    if document.candidates is not NOTHING:
        return any(_candidate_speaks(candidate) for candidate in _objects(document.candidates))
    return document.output is not NOTHING and _output_speaks(document.output)


def _choice_speaks(choice: dict[str, Any], place: str) -> bool:
    piece = part(choice, place)
    return bool(choice.get("text")) or any(piece.get(name) for name in _SPOKEN)


def _candidate_speaks(candidate: dict[str, Any]) -> bool:
    parts = part(candidate, "content").get("parts")
    return isinstance(parts, list) and any(isinstance(piece, dict) for piece in parts)


def _output_speaks(output: msgspec.Raw) -> bool:
    """DashScope's own events: a text, or the choices of OpenAI in another place."""
    written = msgspec.json.decode(output)
    if not isinstance(written, dict):
        return False
    choices = written.get("choices")
    return bool(written.get("text")) or any(
        isinstance(choice, dict) and _choice_speaks(choice, "message")
        for choice in (choices if isinstance(choices, list) else ())
    )


def _objects(array: msgspec.Raw) -> list[dict[str, Any]]:
    items = msgspec.json.decode(array)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []

"""Whether an event of a stream carries words of the model, whose first ones are waited for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from .bounds import MAX_CHOICES, MAX_OUTPUT_VALUES
from .document import NOTHING, Document, Reader, is_small, objects, opens_with
from .tokens import get_object

# Text, reasoning, a call of a tool, a refusal, speech, pictures: all of them the model has written.
_SPOKEN = (
    "content",
    "reasoning_content",
    "reasoning",
    "reasoning_details",
    "thinking",
    "tool_calls",
    "function_call",
    "refusal",
    "audio",
    "images",
)
_LABELS = ("type", "role")  # of a piece, which may be empty beside them


class Event(Document):
    """A document with the top-level fields in which vendors put what the model wrote."""

    event_type: Any = None
    text: Any = None
    completion: Any = None
    generation: Any = None
    outputText: Any = None  # noqa: N815 - Titan's spelling
    delta: msgspec.Raw = NOTHING
    contentBlockDelta: msgspec.Raw = NOTHING  # noqa: N815 - Nova's spelling
    outputs: msgspec.Raw = NOTHING


read_events = Reader(Event).read


def speaks(event: Event) -> bool:
    """Whether `event` carries a piece of what the model wrote.

    Raises:
        UNREADABLE: What it carries is no JSON.
    """
    return (
        _any_speaks(event.choices, _choice_speaks)
        or _delta_speaks(event)
        or _any_speaks(event.candidates, _candidate_speaks)
        or _output_speaks(event.output)
        or _is_said(event.contentBlockDelta)
        or _any_speaks(event.outputs, _has_text)
        or _plainly_speaks(event)
    )


def _any_speaks(raw: msgspec.Raw, speaks: Callable[[dict[str, Any]], bool]) -> bool:
    """Return True if one of the first objects of an array does; a large array is output, too."""
    if raw is NOTHING:
        return False
    return not is_small(raw) or any(map(speaks, objects(raw)[:MAX_CHOICES]))


def _has_text(output: dict[str, Any]) -> bool:
    return _is_text(output.get("text"))


def _delta_speaks(event: Event) -> bool:
    """Anthropic, OpenAI Responses and others name their events; Converse does so elsewhere."""
    kind = event.type
    carries = kind is None or (
        isinstance(kind, str) and kind.endswith("delta") and kind != "message_delta"
    )
    return carries and _is_said(event.delta)


def _choice_speaks(choice: dict[str, Any]) -> bool:
    piece = get_object(choice, "delta") or get_object(choice, "message")
    return bool(choice.get("text")) or any(piece.get(name) for name in _SPOKEN)


def _candidate_speaks(candidate: dict[str, Any]) -> bool:
    return _says(get_object(candidate, "content").get("parts"))


def _output_speaks(output: msgspec.Raw) -> bool:
    """DashScope's own events: a text, or the choices of OpenAI in another place."""
    if not opens_with(output, b"{"):
        return False
    if not is_small(output):
        return True
    written = msgspec.json.decode(output, type=Event)
    return _is_text(written.text) or _any_speaks(written.choices, _choice_speaks)


def _plainly_speaks(event: Event) -> bool:
    """Models that only complete a text: Llama, Titan, Kiro's, Anthropic's and Cohere's old ones."""
    if event.type not in (None, "completion"):
        return False
    old = event.text if event.event_type == "text-generation" else None
    return any(map(_is_text, (event.completion, event.generation, event.outputText, old))) or (
        opens_with(event.content, b'"') and _is_said(event.content)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_said(piece: msgspec.Raw) -> bool:
    if piece is NOTHING:
        return False
    return not is_small(piece) or _says(msgspec.json.decode(piece))


def _says(piece: Any) -> bool:
    """Return True if there is a text in `piece` that is not only a label of it."""
    pieces = [piece]
    for _ in range(MAX_OUTPUT_VALUES):
        if not pieces:
            return False
        piece = pieces.pop()
        if isinstance(piece, dict):
            pieces += [value for name, value in piece.items() if name not in _LABELS]
        elif isinstance(piece, list):
            pieces += piece
        elif _is_text(piece):
            return True
    return False

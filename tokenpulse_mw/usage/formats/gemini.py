"""Gemini generateContent and Live, also on Vertex AI and in Code Assist."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ..bounds import MAX_DETAILS
from ..document import NOTHING, UNREADABLE, Document, Event, opens_with
from ..session import SessionMessage, SessionResponse, SessionResponses, object_of, text_of
from ..tokens import Fields, TokenUsage, count, get_object, has_count, hidden_tokens
from .base import Format, UsageReport, any_object, has_text

_COUNTS = (
    "promptTokenCount",
    "candidatesTokenCount",
    "responseTokenCount",  # of Live, in place of the one before
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)


def _find_usage(document: Document) -> UsageReport | None:
    metadata = document.usageMetadata
    if metadata is None or not isinstance(metadata, dict) or not has_count(metadata, *_COUNTS):
        return None
    return UsageReport(FORMAT, metadata)


def _count(usage: Fields) -> TokenUsage:
    """Count a usage; `candidatesTokenCount` excludes thoughts, which only the total may have."""
    get = usage.get
    thoughts = count(usage, "thoughtsTokenCount")
    prompt = count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount")
    output = count(usage, "candidatesTokenCount", "responseTokenCount") + thoughts
    hidden = hidden_tokens(usage, "totalTokenCount", prompt + output)
    return TokenUsage(
        input=prompt,
        output=output + hidden,
        cache_read=count(usage, "cachedContentTokenCount"),
        reasoning=thoughts or hidden,
        audio_input=_audio(get("promptTokensDetails")) + _audio(get("toolUsePromptTokensDetails")),
        audio_output=_audio(get("candidatesTokensDetails") or get("responseTokensDetails")),
    )


def _audio(details: Any) -> int:
    """Return the tokens of audio in a list of counts by modality."""
    if not isinstance(details, list):
        return 0
    audio = 0
    for detail in details[:MAX_DETAILS]:
        if isinstance(detail, dict) and detail.get("modality") == "AUDIO":
            audio += count(detail, "tokenCount")
    return audio


def _has_output(event: Event) -> bool:
    return any_object(event.candidates, _candidate_has_output)


def _candidate_has_output(candidate: dict[str, Any]) -> bool:
    return has_text(get_object(candidate, "content").get("parts"))


def _is_response(document: Document) -> bool:
    """Return True for candidates, or usage without a `model`, which cached contents name."""
    return opens_with(document.candidates, b"[") or (
        isinstance(document.usageMetadata, dict) and document.model is None
    )


FORMAT = Format(
    "gemini", _find_usage, count=_count, has_output=_has_output, is_response=_is_response
)


class _Setup(msgspec.Struct):
    model: msgspec.Raw = NOTHING


class _ClientMessage(msgspec.Struct):
    setup: _Setup | None = None


class _ServerContent(msgspec.Struct):
    modelTurn: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling
    turnComplete: msgspec.Raw = NOTHING  # noqa: N815 - Gemini's spelling


_decode_client_message = msgspec.json.Decoder(_ClientMessage).decode
_decode_content = msgspec.json.Decoder(_ServerContent).decode
_NO_CONTENT = _ServerContent()
# The start of a setup with the model as its first field.
_SETUP = re.compile(rb'\s*\{\s*"setup"\s*:\s*\{\s*"model"\s*:\s*"([^"\\]{1,256})"')


class GeminiSession:
    """Reads the messages of a Live session.

    A response is a turn: it begins with the first content, and ends with `turnComplete`. Calls of
    tools are within it, so it may have several generations. Each of them has its own prompt, which
    includes the earlier ones and is billed again. So usage with another prompt is added. Usage with
    the same prompt is that of the same generation, and replaces the earlier one.

    Attributes:
        in_turn: True from the first content of a turn until the vendor has completed it.
    """

    __slots__ = ("_last", "_responses", "_sum", "_turn", "in_turn")

    def __init__(self, responses: SessionResponses) -> None:
        self.in_turn = False
        self._responses = responses
        self._turn: SessionResponse | None = None
        self._sum = self._last = TokenUsage()

    def read(self, message: SessionMessage) -> None:
        """Read a message of the server."""
        content = _content_of(message)
        has_content = opens_with(content.modelTurn, b"{") or opens_with(message.toolCall, b"{")
        if has_content and not self.in_turn:
            self.finish()
        metadata = object_of(message.usageMetadata)
        has_usage = has_count(metadata, *_COUNTS)
        if self._turn is None and (has_content or has_usage):
            self._turn = self._responses.begin()
            self.in_turn = True
        if self._turn is None:
            return
        if has_usage:
            self._add_usage(self._turn, metadata)
        if bytes(content.turnComplete) == b"true":
            self.in_turn = False
        if self._turn.usage is not None:
            self.finish()

    def finish(self) -> None:
        """End the turn that the vendor has completed, if its usage is still awaited."""
        turn = self._turn
        if turn is not None and not self.in_turn:
            self._turn = None
            self._sum = self._last = TokenUsage()
            self._responses.end(turn)

    def _add_usage(self, turn: SessionResponse, metadata: dict[str, Any]) -> None:
        usage, last = _count(metadata), self._last
        if usage.is_plausible:
            if usage.input != last.input or usage.output < last.output:
                self._sum += last
            self._last = usage
        self._responses.add_usage(turn, self._sum + usage, {})


def model_of_setup(frame: bytes) -> str | None:
    """Return the model in the setup of a Live session, or None.

    Of a message that is cut, only the beginning is read.
    """
    try:
        setup = _decode_client_message(frame).setup
        name = None if setup is None else text_of(setup.model)
    except UNREADABLE:
        match = _SETUP.match(frame)
        name = match[1].decode(errors="replace") if match else None
    # `models/...`, or `projects/.../publishers/google/models/...` of Vertex AI.
    return name and name.rpartition("models/")[2]


def _content_of(message: SessionMessage) -> _ServerContent:
    try:
        return _decode_content(message.serverContent)
    except UNREADABLE:
        return _NO_CONTENT

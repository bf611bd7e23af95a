"""Gemini generateContent, also on Vertex AI and in Code Assist."""

from __future__ import annotations

from typing import Any

from ..bounds import MAX_DETAILS
from ..document import Document, Event, opens_with
from ..tokens import Fields, TokenUsage, count, get_object, has_count, hidden_tokens
from .base import Format, UsageReport, any_object, has_text

_COUNTS = (
    "promptTokenCount",
    "candidatesTokenCount",
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
    output = count(usage, "candidatesTokenCount") + thoughts
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

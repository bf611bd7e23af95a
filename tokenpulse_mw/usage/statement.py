"""What one JSON document of a vendor says of its usage."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from .document import NOTHING, Document, objects
from .openai import FLAT_READ
from .scan import rfind_any
from .tokens import TokenUsage, count, get_object, has_count
from .vendors import ANTHROPIC, READERS, Family, billed_calls


class Statement(msgspec.Struct):
    """The usage that one document reports.

    `merges` is true if later statements override field by field (Anthropic's deltas) instead of
    as a whole; `final` is false for a count that the vendor corrects later. One that `yields`
    counts only if the vendor itself has not reported a final usage: a host's own metrics.
    """

    family: Family
    fields: dict[str, Any]
    merges: bool = False
    final: bool = True
    yields: bool = False
    _usage: TokenUsage | None = None

    @property
    def usage(self) -> TokenUsage:
        """The tokens that it reports by itself; they are counted once."""
        if self._usage is None:
            self._usage = READERS[self.family](self.fields)
        return self._usage

    @property
    def whole(self) -> bool:
        """Return True if it replaces all earlier statements; an implausible one replaces none."""
        return not (self.merges or self.yields) and self.usage.is_plausible


# What makes a document worth decoding: a key that every vendor's usage has, in one of two
# spellings. Inside a JSON string its quote would be escaped, so text that a model writes can only
# look like it at the end of a string.
COUNT = re.compile(rb'oken(?:s|Count)"')
_COUNTS = (b'okens"', b'okenCount"')
_LONGEST_COUNT = max(map(len, _COUNTS))

_ANTHROPIC_EVENTS = ("message", "message_start", "message_delta")
_GEMINI = (
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
)
# Only OpenAI, and those who speak as it does, add up a total or tell what the input was made of.
_OPENAI = ("total_tokens", "input_tokens_details", "prompt_tokens_details")


def statement(document: Document) -> Statement | None:
    """The usage in `document`, or None where it says nothing (absent, null, or not an object)."""
    metadata = document.usageMetadata
    if metadata is not None and isinstance(metadata, dict) and has_count(metadata, *_GEMINI):
        return Statement("gemini", metadata)
    if document.type == "message_start":
        started = _inside(document.message)
        begun = isinstance(started, dict) and _is_anthropic(started)
        return Statement("anthropic", dict(started), merges=True, final=False) if begun else None
    usage = document.usage
    if isinstance(usage, dict) and (family := _family(document, usage)) is not None:
        if family == "openai-chat" and "prompt_tokens_details" not in usage:
            usage = _with_cache_of_choice(document, usage)
        return Statement(family, usage, merges=document.type == "message_delta")
    for said in _elsewhere(document):
        if isinstance(said, dict) and (family := _family(document, said)) is not None:
            return Statement(family, said)
    metrics = document.metrics
    if isinstance(metrics, dict) and has_count(metrics, "inputTokenCount", "outputTokenCount"):
        return Statement("bedrock-converse", metrics, yields=True)
    return None


def _elsewhere(document: Document) -> Iterator[Any]:
    """What may be a usage in another place: in Groq's own field, or Kimi's in the choice."""
    yield _inside(document.x_groq)
    yield _usage_of_choice(document)


def _usage_of_choice(document: Document) -> Any:
    choices = document.choices
    if choices is NOTHING or b'"usage"' not in bytes(choices):
        return None
    return next((choice.get("usage") for choice in objects(choices)), None)


def _with_cache_of_choice(document: Document, usage: dict[str, Any]) -> dict[str, Any]:
    """What was read from the cache Kimi tells only there, at times."""
    if has_count(usage, *FLAT_READ):
        return usage
    said = _usage_of_choice(document)
    cached = said.get("cached_tokens") if isinstance(said, dict) else None
    return usage if cached is None else {**usage, "cached_tokens": cached}


def _inside(wrapper: Any) -> Any:
    """The usage in what Anthropic's first event wraps, or in what Groq adds of its own."""
    return wrapper.get("usage") if isinstance(wrapper, dict) else None


def _is_anthropic(usage: dict[str, Any]) -> bool:
    return has_count(usage, *ANTHROPIC) or bool(billed_calls(usage))


def _family(document: Document, usage: dict[str, Any]) -> Family | None:
    """Whose words these are, or None for a `usage` that is not about tokens."""
    if document.type in _ANTHROPIC_EVENTS and _is_anthropic(usage):
        return "anthropic"
    if has_count(usage, "prompt_tokens", "completion_tokens") and (
        # Some gateways write both spellings, of which they leave one at zero.
        count(usage, "prompt_tokens")
        or count(usage, "completion_tokens")
        or not has_count(usage, "input_tokens", "output_tokens")
    ):
        return "openai-chat"
    if has_count(usage, "input_tokens", "output_tokens"):
        return "openai-responses" if _is_openai(document, usage) else "anthropic"
    if has_count(usage, "inputTokens", "outputTokens"):
        return "bedrock-converse"
    return "openai-chat" if has_count(usage, "total_tokens") and not _writes(usage) else None


def _writes(usage: dict[str, Any]) -> bool:
    """It speaks of an output, by whatever name: its total is not all that was read."""
    return any("output" in name or "completion" in name for name in usage)


def _is_openai(document: Document, usage: dict[str, Any]) -> bool:
    """OpenAI wraps every answer in an object of type "response"."""
    return (
        document.object == "response"
        or any(name in usage for name in _OPENAI)
        or "reasoning_tokens" in get_object(usage, "output_tokens_details")
    )


def last_count(data: bytes, end: int) -> int:
    """Return the last place before `end` at which `COUNT` is found, or -1; the fastest search."""
    place = data.rfind(b"oken", 0, end)  # mostly there is none; both spellings take longer
    return place if place < 0 else rfind_any(data, _COUNTS, 0, min(place + _LONGEST_COUNT, end))

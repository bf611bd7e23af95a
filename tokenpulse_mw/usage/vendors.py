"""How each vendor but OpenAI writes its token counts, and what of it we count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from msgspec.structs import replace

from .bounds import MAX_ITERATIONS
from .openai import openai_chat, openai_responses
from .tokens import Fields, TokenUsage, count, get_object, has_count

Family = Literal["openai-chat", "openai-responses", "anthropic", "gemini", "bedrock-converse"]

# What Anthropic counts of each call of a model.
ANTHROPIC = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)


_NAMES = frozenset(ANTHROPIC)


def billed_calls(usage: Fields) -> list[Fields]:
    """The calls of a model that Anthropic lists with what each of them cost."""
    calls = usage.get("iterations")
    listed = calls if isinstance(calls, list) and len(calls) <= MAX_ITERATIONS else []
    calls = [call for call in listed if isinstance(call, dict) and not _NAMES.isdisjoint(call)]
    return [call for call in calls if has_count(call, *ANTHROPIC)]


def anthropic(usage: Fields) -> TokenUsage:
    """Anthropic Messages: `input_tokens` leaves the cache out, so both cache counts are added.

    With compaction or an advisor the top level omits some model calls; `iterations`, where it is
    given, lists every one of them and is what is billed.
    """
    calls = billed_calls(usage)
    if not calls:
        return _anthropic_call(usage)
    billed = sum(map(_anthropic_call, calls), TokenUsage())
    if not billed.reasoning and (thought := _thoughts(usage)) <= billed.output:
        billed = replace(billed, reasoning=thought)  # only the top level may tell of it
    return billed


def _thoughts(usage: Fields) -> int:
    return count(get_object(usage, "output_tokens_details"), "thinking_tokens")


def _anthropic_call(usage: Fields) -> TokenUsage:
    cache_read = count(usage, "cache_read_input_tokens")
    cache_write = count(usage, "cache_creation_input_tokens")
    return TokenUsage(
        input=count(usage, "input_tokens") + cache_read + cache_write,
        output=count(usage, "output_tokens"),
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=_thoughts(usage),
    )


def gemini(usage: Fields) -> TokenUsage:
    """Gemini generateContent: `candidatesTokenCount` leaves the thoughts out."""
    thoughts = count(usage, "thoughtsTokenCount")
    return TokenUsage(
        input=count(usage, "promptTokenCount") + count(usage, "toolUsePromptTokenCount"),
        output=count(usage, "candidatesTokenCount") + thoughts,
        cache_read=count(usage, "cachedContentTokenCount"),
        reasoning=thoughts,
    )


def bedrock_converse(usage: Fields) -> TokenUsage:
    """Amazon Bedrock: `inputTokens` leaves the cache out, as Anthropic's does.

    Converse says `inputTokens`; the metrics of an invocation say `inputTokenCount`.
    """
    cache_read = count(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    cache_write = count(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    return TokenUsage(
        input=count(usage, "inputTokens", "inputTokenCount") + cache_read + cache_write,
        output=count(usage, "outputTokens", "outputTokenCount"),
        cache_read=cache_read,
        cache_write=cache_write,
    )


READERS: Mapping[Family, Callable[[Fields], TokenUsage]] = {
    "openai-chat": openai_chat,
    "openai-responses": openai_responses,
    "anthropic": anthropic,
    "gemini": gemini,
    "bedrock-converse": bedrock_converse,
}

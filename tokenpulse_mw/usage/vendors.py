"""How each vendor writes its token counts, and what of it we count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from msgspec.structs import replace

from .tokens import TokenUsage, count, part

Family = Literal["openai-chat", "openai-responses", "anthropic", "gemini", "bedrock-converse"]
Fields = Mapping[str, Any]


def openai_chat(usage: Fields) -> TokenUsage:
    """OpenAI chat completions, embeddings, and all who speak them (Qwen, DeepSeek, Groq, ...)."""
    read, written = part(usage, "prompt_tokens_details"), part(usage, "completion_tokens_details")
    return TokenUsage(
        input=count(usage, "prompt_tokens"),
        output=count(usage, "completion_tokens"),
        cache_read=count(read, "cached_tokens")
        or count(usage, "prompt_cache_hit_tokens", "num_cached_tokens", "cached_tokens"),
        cache_write=count(read, "cache_write_tokens", "cache_creation_input_tokens"),
        reasoning=count(written, "reasoning_tokens"),
    )


def openai_responses(usage: Fields) -> TokenUsage:
    """OpenAI Responses: other names than chat, the same meaning.

    DashScope's own API speaks so too, but for the details of what was read.
    """
    read = part(usage, "input_tokens_details") or part(usage, "prompt_tokens_details")
    written = part(usage, "output_tokens_details")
    return TokenUsage(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(read, "cached_tokens") or count(usage, "cached_tokens"),
        cache_write=count(read, "cache_write_tokens", "cache_creation_input_tokens"),
        reasoning=count(written, "reasoning_tokens"),
    )


def anthropic(usage: Fields) -> TokenUsage:
    """Anthropic Messages: `input_tokens` leaves the cache out, so both cache counts are added.

    With compaction or an advisor the top level omits some model calls; `iterations`, where it is
    given, lists every one of them and is what is billed.
    """
    calls = usage.get("iterations")
    if not isinstance(calls, list) or not calls:
        return _anthropic_call(usage)
    billed = sum(map(_anthropic_call, (c for c in calls if isinstance(c, dict))), TokenUsage())
    if not billed.reasoning and (thought := _thoughts(usage)) <= billed.output:
        billed = replace(billed, reasoning=thought)  # only the top level may tell of it
    return billed


def _thoughts(usage: Fields) -> int:
    return count(part(usage, "output_tokens_details"), "thinking_tokens")


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

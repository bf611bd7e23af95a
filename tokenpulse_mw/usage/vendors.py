"""How each vendor writes its token counts, and what of it we count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

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
    """OpenAI Responses: other names than chat, the same meaning."""
    read, written = part(usage, "input_tokens_details"), part(usage, "output_tokens_details")
    return TokenUsage(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(read, "cached_tokens"),
        cache_write=count(read, "cache_write_tokens"),
        reasoning=count(written, "reasoning_tokens"),
    )


def anthropic(usage: Fields) -> TokenUsage:
    """Anthropic Messages: `input_tokens` leaves the cache out, so both cache counts are added.

    With compaction or an advisor the top level omits some model calls; `iterations`, where it is
    given, lists every one of them and is what is billed.
    """
    calls = usage.get("iterations")
    if isinstance(calls, list) and calls:
        each = [_anthropic_call(call) for call in calls if isinstance(call, dict)]
        return sum(each, TokenUsage())
    return _anthropic_call(usage)


def _anthropic_call(usage: Fields) -> TokenUsage:
    cache_read = count(usage, "cache_read_input_tokens")
    cache_write = count(usage, "cache_creation_input_tokens")
    return TokenUsage(
        input=count(usage, "input_tokens") + cache_read + cache_write,
        output=count(usage, "output_tokens"),
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=count(part(usage, "output_tokens_details"), "thinking_tokens"),
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
    """Amazon Bedrock Converse: `inputTokens` leaves the cache out, as Anthropic's does."""
    cache_read = count(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    cache_write = count(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    return TokenUsage(
        input=count(usage, "inputTokens") + cache_read + cache_write,
        output=count(usage, "outputTokens"),
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

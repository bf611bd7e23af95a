"""OpenAI chat completions and embeddings, and the many APIs compatible with them."""

from __future__ import annotations

from typing import Any

from ..document import NOTHING, Document, Event, objects, opens_with
from ..tokens import Fields, TokenUsage, count, get_object, has_count, hidden_tokens
from .base import SEARCH_NAMES, Format, UsageReport, any_object, count_searches, is_error

# Cache reads of vendors that do not report them among the details.
_FLAT_CACHE_READ = (
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
    "cached_tokens",
    "cache_read_input_tokens",
)
CACHE_WRITE = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cached_creation_tokens",  # CLIProxyAPI, new-api
    "cache_creation_input_tokens",
)
_FLAT_CACHE_WRITE = "cache_creation_input_tokens"
# All that most usage has.
_TOTALS = frozenset(("prompt_tokens", "completion_tokens", "total_tokens"))
# Names at the top level that only some vendors use, instead of the details.
_VENDOR_NAMES = frozenset((*_FLAT_CACHE_READ, _FLAT_CACHE_WRITE, *SEARCH_NAMES, "reasoning_tokens"))
_OUTPUT = (
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


def _find_usage(document: Document) -> UsageReport | None:
    usage = document.usage
    if not isinstance(usage, dict) or not _has_counts(usage):
        return None
    if "prompt_tokens_details" not in usage and (inner := _choice_usage(document)):
        usage = _with_cached_tokens(usage, inner)
    return UsageReport(FORMAT, usage, is_delta=document.type == "message_delta")


def _find_nested_usage(document: Document) -> UsageReport | None:
    """Return the usage in Groq's own field, or inside Kimi's choice."""
    groq = document.x_groq
    for usage in (groq.get("usage") if isinstance(groq, dict) else None, _choice_usage(document)):
        if isinstance(usage, dict) and _has_counts(usage):
            return UsageReport(FORMAT, usage)
    return None


def _has_counts(usage: dict[str, Any]) -> bool:
    if count(usage, "prompt_tokens", "completion_tokens"):
        return True
    if has_count(usage, "prompt_tokens", "completion_tokens"):
        # Some gateways write both spellings and leave one of them at zero.
        return not has_count(usage, "input_tokens", "output_tokens")
    # Embeddings: only a total. If output is reported by any name, the total is not all input.
    return (
        has_count(usage, "total_tokens")
        and not has_count(usage, "input_tokens", "inputTokens")
        and not any("output" in name or "completion" in name for name in usage)
    )


def _choice_usage(document: Document) -> Any:
    choices = document.choices
    # `rfind` is several times faster than `in`.
    if choices is NOTHING or bytes(choices).rfind(b'"usage"') < 0:
        return None
    return next((choice.get("usage") for choice in objects(choices)), None)


def _with_cached_tokens(usage: dict[str, Any], inner: Any) -> dict[str, Any]:
    """Add the cache reads that Kimi may report inside the choice only."""
    cached = inner.get("cached_tokens") if isinstance(inner, dict) else None
    if cached is None or has_count(usage, *_FLAT_CACHE_READ):
        return usage
    return {**usage, "cached_tokens": cached}


def _count(usage: Fields) -> TokenUsage:
    prompt, output = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    cache_read = cache_write = reasoning = 0
    cache_write_1h = audio_input = audio_output = searches = 0
    if not usage.keys() <= _TOTALS:
        read = get_object(usage, "prompt_tokens_details")
        read = read or get_object(usage, "prompt_token_details")  # Mistral
        written = get_object(usage, "completion_tokens_details")
        cache_read, cache_write = count(read, "cached_tokens"), count(read, *CACHE_WRITE)
        reasoning = count(written, "reasoning_tokens")
        if read.get("audio_tokens"):
            audio_input = count(read, "audio_tokens")
        if written.get("audio_tokens"):
            audio_output = count(written, "audio_tokens")
        if "web_search_requests" in read:  # LiteLLM in front of Gemini
            searches = count(read, "web_search_requests")
        if not _VENDOR_NAMES.isdisjoint(usage):
            cache_read = cache_read or count(usage, *_FLAT_CACHE_READ)
            cache_write = cache_write or count(usage, _FLAT_CACHE_WRITE)
            reasoning = reasoning or _flat_reasoning(usage, prompt, output)
            searches = searches or count_searches(usage)
        if cache_write:
            cache_write_1h = min(_cache_write_1h(usage, read), cache_write)
    whole = usage.get("total_tokens") == prompt + output
    if prompt and not whole and has_count(usage, "completion_tokens"):
        hidden = hidden_tokens(usage, "total_tokens", prompt + output)
        if hidden and _is_hidden_input(usage, hidden, cache_read + cache_write > prompt):
            prompt += hidden
        elif hidden:  # of xAI, Gemini and others: reasoning
            output += hidden
            reasoning = reasoning or hidden
    return TokenUsage(
        prompt or _embedding_input(usage),
        output,
        cache_read,
        cache_write,
        reasoning,
        cache_write_1h,
        audio_input,
        audio_output,
        searches,
    )


def _cache_write_1h(usage: Fields, read: Fields) -> int:
    """Return the cache writes for an hour, as LiteLLM and new-api report those of Anthropic."""
    details = get_object(read, "cache_creation_token_details")
    hour = count(details, "ephemeral_1h_input_tokens")
    return hour or count(usage, "claude_cache_creation_1_h_tokens")


def _is_hidden_input(usage: Fields, hidden: int, excludes_cache: bool) -> bool:
    """Return True if the tokens that only the total has were read.

    Mistral does not count its connectors and audio in the prompt; some gateways exclude the cache.
    """
    return (
        excludes_cache
        or count(usage, "connector_tokens") == hidden
        or has_count(usage, "prompt_audio_seconds")
    )


def _embedding_input(usage: Fields) -> int:
    """Return the total, which is all that some embedding APIs report."""
    parted = has_count(usage, "prompt_tokens", "completion_tokens")
    return 0 if parted else count(usage, "total_tokens")


def _flat_reasoning(usage: Fields, prompt: int, output: int) -> int:
    """Return the reasoning that SGLang and Copilot report without details.

    Perplexity's searches report more reasoning than output; it is not part of the output.
    """
    flat = count(usage, "reasoning_tokens")
    on_top = hidden_tokens(usage, "total_tokens", prompt + output) == flat
    return flat if flat <= output or on_top else 0


def choice_has_output(choice: dict[str, Any]) -> bool:
    """Return True if a choice carries text, reasoning, tool calls, audio or images."""
    piece = get_object(choice, "delta") or get_object(choice, "message")
    if choice.get("text"):
        return True
    for name in _OUTPUT:  # noqa: SIM110 - faster than a generator
        if piece.get(name):
            return True
    return False


def _has_output(event: Event) -> bool:
    return any_object(event.choices, choice_has_output)


def _is_response(document: Document) -> bool:
    return opens_with(document.choices, b"[")


def _has_error(document: Document) -> bool:
    """Return True for an error in Groq's own field, or in the choice that failed (OpenRouter)."""
    groq, choices = document.x_groq, document.choices
    if isinstance(groq, dict) and is_error(groq.get("error")):
        return True
    return (
        choices is not NOTHING
        and b'"error"' in bytes(choices)
        and any(is_error(choice.get("error")) for choice in objects(choices))
    )


FORMAT = Format(
    "openai-chat",
    find_usage=_find_usage,
    find_unclaimed_usage=_find_nested_usage,
    count=_count,
    has_output=_has_output,
    is_response=_is_response,
    has_error=_has_error,
)

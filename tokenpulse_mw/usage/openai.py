"""How OpenAI, and all who speak as it does, write their token counts, and what of it we count."""

from __future__ import annotations

from .tokens import Fields, TokenUsage, count, get_object, has_count

# What was read from the cache, where it is not among the details.
FLAT_READ = (
    "prompt_cache_hit_tokens",
    "num_cached_tokens",
    "cached_tokens",
    "cache_read_input_tokens",
)
_WRITTEN = (
    "cache_write_tokens",
    "cache_creation_tokens",
    "cached_creation_tokens",  # CLIProxyAPI, new-api
    "cache_creation_input_tokens",
)


def openai_chat(usage: Fields) -> TokenUsage:
    """OpenAI chat completions, embeddings, and all who speak them (Qwen, DeepSeek, Groq, ...)."""
    read = get_object(usage, "prompt_tokens_details") or get_object(
        usage, "prompt_token_details"
    )  # Mistral
    prompt, output = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    reasoning = count(get_object(usage, "completion_tokens_details"), "reasoning_tokens")
    if "connector_tokens" in usage:  # what Mistral's connectors have read
        prompt += _beside(usage, prompt + output, count(usage, "connector_tokens"))
    if not reasoning and "reasoning_tokens" in usage:
        reasoning = _flat_reasoning(usage, prompt, output)
    return TokenUsage(
        input=prompt or _vectors_input(usage),
        output=output + _beside(usage, prompt + output, reasoning),
        cache_read=count(read, "cached_tokens") or count(usage, *FLAT_READ),
        cache_write=count(read, *_WRITTEN) or count(usage, "cache_creation_input_tokens"),
        reasoning=reasoning,
    )


def _vectors_input(usage: Fields) -> int:
    """Some of those who only read, to make vectors of it, tell a total and nothing else."""
    parted = has_count(usage, "prompt_tokens", "completion_tokens")
    return 0 if parted else count(usage, "total_tokens")


def _flat_reasoning(usage: Fields, prompt: int, output: int) -> int:
    """SGLang and Copilot tell it without details.

    Perplexity's searches reason more than all they write, of which that is no part.
    """
    flat = count(usage, "reasoning_tokens")
    return flat if flat <= output or _beside(usage, prompt + output, flat) else 0


def _beside(usage: Fields, told: int, more: int) -> int:
    """`more`, where it comes on top of what is told, as only the total shows (xAI, Mistral)."""
    return more if more and count(usage, "total_tokens") == told + more else 0


def openai_responses(usage: Fields) -> TokenUsage:
    """OpenAI Responses: other names than chat, the same meaning.

    DashScope's own API speaks so too, but for some of the details of what was read.
    """
    read, written = (
        get_object(usage, "input_tokens_details"),
        get_object(usage, "output_tokens_details"),
    )
    if "prompt_tokens_details" in usage:
        read = {**get_object(usage, "prompt_tokens_details"), **read}
    return TokenUsage(
        input=count(usage, "input_tokens"),
        output=count(usage, "output_tokens"),
        cache_read=count(read, "cached_tokens") or count(usage, "cached_tokens"),
        cache_write=count(read, *_WRITTEN),
        reasoning=count(written, "reasoning_tokens"),
    )

"""Counts of the usage objects of each format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.bounds import MAX_DETAILS
from tokenpulse_mw.usage.formats import FORMATS

COUNT = {form.name: form.count for form in FORMATS}

# Every counted field by format; "a.b" is b inside the object a.
FIELDS: dict[str, tuple[str, ...]] = {
    "openai-chat": (
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details.cached_tokens",
        "prompt_tokens_details.cache_write_tokens",
        "prompt_tokens_details.cache_creation_input_tokens",
        "prompt_tokens_details.cache_creation_tokens",
        "prompt_tokens_details.cached_creation_tokens",
        "prompt_token_details.cached_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "total_tokens",
        "completion_tokens_details.reasoning_tokens",
        "prompt_cache_hit_tokens",
        "num_cached_tokens",
        "cached_tokens",
        "prompt_tokens_details.audio_tokens",
        "completion_tokens_details.audio_tokens",
        "prompt_tokens_details.web_search_requests",
        "server_tool_use.web_search_requests",
        "num_search_queries",
        "connectors.web_search",
    ),
    "openai-responses": (
        "input_tokens",
        "output_tokens",
        "input_tokens_details.cached_tokens",
        "input_tokens_details.cache_write_tokens",
        "input_tokens_details.cache_creation_input_tokens",
        "input_tokens_details.cached_creation_tokens",
        "prompt_tokens_details.cached_tokens",
        "prompt_tokens_details.cache_creation_input_tokens",
        "cached_tokens",
        "output_tokens_details.reasoning_tokens",
        "output_tokens_details.audio_tokens",
        "input_token_details.audio_tokens",
        "server_side_tool_usage_details.x_search_calls",
    ),
    "anthropic": (
        "input_tokens",
        "output_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "output_tokens_details.thinking_tokens",
        "server_tool_use.web_search_requests",
    ),
    "gemini": (
        "promptTokenCount",
        "toolUsePromptTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "cachedContentTokenCount",
    ),
    "bedrock-converse": (
        "inputTokens",
        "inputTokenCount",
        "outputTokens",
        "outputTokenCount",
        "cacheReadInputTokens",
        "cacheReadInputTokenCount",
        "cacheWriteInputTokens",
        "cacheWriteInputTokenCount",
    ),
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=3), inner),
    max_leaves=5,
)


def usage_object(values: dict[str, Any]) -> dict[str, Any]:
    """Return a usage object with `values` under the names of FIELDS."""
    usage: dict[str, Any] = {}
    for path, value in values.items():
        outer, _, inner = path.rpartition(".")
        (usage.setdefault(outer, {}) if outer else usage)[inner] = value
    return usage


CASES: list[tuple[str, dict[str, Any], TokenUsage]] = [
    ("openai-chat", {"prompt_tokens": 14, "total_tokens": 14}, TokenUsage(input=14)),
    (
        "openai-chat",
        {
            "prompt_tokens": 1200,
            "completion_tokens": 90,
            "total_tokens": 1290,
            "prompt_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 60},
            "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 9},
        },
        TokenUsage(
            input=1200, output=90, cache_read=1024, cache_write=60, reasoning=64, audio_output=9
        ),
    ),
    (  # OpenAI, with audio
        "openai-chat",
        {
            "prompt_tokens": 117,
            "completion_tokens": 1110,
            "total_tokens": 1227,
            "prompt_tokens_details": {"cached_tokens": 0, "text_tokens": 17, "audio_tokens": 100},
            "completion_tokens_details": {"text_tokens": 222, "audio_tokens": 888},
        },
        TokenUsage(input=117, output=1110, audio_input=100, audio_output=888),
    ),
    (  # LiteLLM in front of Anthropic
        "openai-chat",
        {
            "prompt_tokens": 100,
            "completion_tokens": 25,
            "total_tokens": 125,
            "prompt_tokens_details": {
                "cached_tokens": 20,
                "cache_creation_tokens": 10,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 7,
                    "ephemeral_1h_input_tokens": 3,
                },
            },
            "server_tool_use": {"web_search_requests": 2},
        },
        TokenUsage(
            input=100, output=25, cache_read=20, cache_write=10, cache_write_1h=3, searches=2
        ),
    ),
    (  # new-api in front of Anthropic
        "openai-chat",
        {
            "prompt_tokens": 100,
            "completion_tokens": 25,
            "prompt_tokens_details": {"cached_creation_tokens": 10},
            "claude_cache_creation_5_m_tokens": 6,
            "claude_cache_creation_1_h_tokens": 4,
        },
        TokenUsage(input=100, output=25, cache_write=10, cache_write_1h=4),
    ),
    (  # more writes for an hour than writes
        "openai-chat",
        {
            "prompt_tokens": 100,
            "cache_creation_input_tokens": 10,
            "claude_cache_creation_1_h_tokens": 40,
        },
        TokenUsage(input=100, cache_write=10, cache_write_1h=10),
    ),
    (  # LiteLLM in front of Gemini
        "openai-chat",
        {"prompt_tokens": 10, "prompt_tokens_details": {"web_search_requests": 3}},
        TokenUsage(input=10, searches=3),
    ),
    (  # Perplexity
        "openai-chat",
        {"prompt_tokens": 33, "completion_tokens": 7, "num_search_queries": 28},
        TokenUsage(input=33, output=7, searches=28),
    ),
    (  # Mistral's conversations
        "openai-chat",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "connectors": {"web_search": 2, "web_search_premium": 1, "code_interpreter": 7},
        },
        TokenUsage(input=10, output=5, searches=3),
    ),
    (  # xAI
        "openai-responses",
        {
            "input_tokens": 9212,
            "output_tokens": 3417,
            "server_side_tool_usage_details": {
                "web_search_calls": 1,
                "x_search_calls": 3,
                "code_interpreter_calls": 5,
            },
        },
        TokenUsage(input=9212, output=3417, searches=4),
    ),
    (  # OpenAI's transcriptions and Realtime, which spell the details differently
        "openai-responses",
        {
            "total_tokens": 113,
            "input_tokens": 68,
            "output_tokens": 45,
            "input_token_details": {"text_tokens": 10, "audio_tokens": 58, "cached_tokens": 4},
            "output_token_details": {"text_tokens": 5, "audio_tokens": 40},
        },
        TokenUsage(input=68, output=45, cache_read=4, audio_input=58, audio_output=40),
    ),
    (  # Anthropic
        "anthropic",
        {
            "input_tokens": 8,
            "cache_creation_input_tokens": 700,
            "cache_creation": {
                "ephemeral_5m_input_tokens": 200,
                "ephemeral_1h_input_tokens": 500,
            },
            "output_tokens": 50,
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 9},
        },
        TokenUsage(input=708, output=50, cache_write=700, cache_write_1h=500, searches=2),
    ),
    (  # Gemini, with audio in the prompt, the results of tools and the output
        "gemini",
        {
            "promptTokenCount": 100,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 40},
                {"modality": "AUDIO", "tokenCount": 60},
            ],
            "toolUsePromptTokenCount": 9,
            "toolUsePromptTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
            "candidatesTokenCount": 70,
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 70}],
        },
        TokenUsage(input=109, output=70, audio_input=65, audio_output=70),
    ),
    (  # Vertex AI, which may name the output a response
        "gemini",
        {
            "candidatesTokenCount": 70,
            "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 30}],
        },
        TokenUsage(output=70, audio_output=30),
    ),
    (  # Bedrock
        "bedrock-converse",
        {
            "inputTokens": 10,
            "outputTokens": 40,
            "cacheWriteInputTokens": 200,
            "cacheDetails": [
                {"ttl": "1h", "inputTokens": 150},
                {"ttl": "5m", "inputTokens": 50},
            ],
        },
        TokenUsage(input=210, output=40, cache_write=200, cache_write_1h=150),
    ),
    (  # DeepSeek
        "openai-chat",
        {
            "prompt_tokens": 20,
            "completion_tokens": 5,
            "prompt_cache_hit_tokens": 16,
            "prompt_cache_miss_tokens": 4,
        },
        TokenUsage(input=20, output=5, cache_read=16),
    ),
    (  # DeepSeek, with both fields
        "openai-chat",
        {
            "prompt_tokens": 20,
            "prompt_tokens_details": {"cached_tokens": 16},
            "prompt_cache_hit_tokens": 16,
        },
        TokenUsage(input=20, cache_read=16),
    ),
    (  # Mistral
        "openai-chat",
        {"prompt_tokens": 20, "num_cached_tokens": 8},
        TokenUsage(input=20, cache_read=8),
    ),
    (  # Mistral, too
        "openai-chat",
        {"prompt_tokens": 20, "prompt_token_details": {"cached_tokens": 8}},
        TokenUsage(input=20, cache_read=8),
    ),
    (  # xAI excludes reasoning from the completion
        "openai-chat",
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        TokenUsage(input=32, output=103, reasoning=94),
    ),
    (  # SGLang has no details, and the reasoning is part of the completion
        "openai-chat",
        {
            "prompt_tokens": 10,
            "completion_tokens": 204,
            "total_tokens": 214,
            "prompt_tokens_details": None,
            "reasoning_tokens": 150,
        },
        TokenUsage(input=10, output=204, reasoning=150),
    ),
    (  # Copilot's Gemini excludes it
        "openai-chat",
        {
            "prompt_tokens": 100,
            "completion_tokens": 51,
            "total_tokens": 400,
            "reasoning_tokens": 249,
        },
        TokenUsage(input=100, output=300, reasoning=249),
    ),
    (  # Perplexity's deep research bills it separately
        "openai-chat",
        {
            "prompt_tokens": 33,
            "completion_tokens": 7163,
            "total_tokens": 7196,
            "reasoning_tokens": 95305,
        },
        TokenUsage(input=33, output=7163),
    ),
    (  # reasoning in both fields
        "openai-chat",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 18,
            "completion_tokens_details": {"reasoning_tokens": 3},
            "reasoning_tokens": 3,
        },
        TokenUsage(input=10, output=8, reasoning=3),
    ),
    (  # CLIProxyAPI
        "openai-chat",
        {
            "prompt_tokens": 12,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 5, "cached_creation_tokens": 3},
        },
        TokenUsage(input=12, output=4, cache_read=5, cache_write=3),
    ),
    (  # CLIProxyAPI, with OpenAI's own field, too
        "openai-responses",
        {
            "input_tokens": 3619,
            "output_tokens": 36,
            "input_tokens_details": {"cache_write_tokens": 3616, "cached_creation_tokens": 120},
        },
        TokenUsage(input=3619, output=36, cache_write=3616),
    ),
    (  # Mistral's conversations: connector tokens are only in the total
        "openai-chat",
        {
            "prompt_tokens": 95,
            "completion_tokens": 209,
            "total_tokens": 399,
            "connector_tokens": 95,
        },
        TokenUsage(input=190, output=209),
    ),
    (  # Mistral's connectors, if the prompt includes them
        "openai-chat",
        {
            "prompt_tokens": 190,
            "completion_tokens": 209,
            "total_tokens": 399,
            "connector_tokens": 95,
        },
        TokenUsage(input=190, output=209),
    ),
    ("openai-chat", {"prompt_tokens": 3, "connector_tokens": None}, TokenUsage(input=3)),
    (  # LiteLLM repeats Anthropic's counts
        "openai-chat",
        {
            "prompt_tokens": 1000,
            "completion_tokens": 10,
            "total_tokens": 1010,
            "prompt_tokens_details": {"cached_tokens": 900, "cache_creation_tokens": 50},
            "cache_creation_input_tokens": 50,
            "cache_read_input_tokens": 900,
        },
        TokenUsage(input=1000, output=10, cache_read=900, cache_write=50),
    ),
    (
        "openai-chat",
        {
            "prompt_tokens": 1000,
            "cache_creation_input_tokens": 50,
            "cache_read_input_tokens": 900,
        },
        TokenUsage(input=1000, cache_read=900, cache_write=50),
    ),
    (  # a spelling that is left at zero
        "openai-chat",
        {"prompt_tokens": 20, "prompt_cache_hit_tokens": 0, "cached_tokens": 7},
        TokenUsage(input=20, cache_read=7),
    ),
    (  # embeddings of Voyage and DashScope
        "openai-chat",
        {"total_tokens": 23},
        TokenUsage(input=23),
    ),
    (  # DashScope has details in two places
        "openai-responses",
        {
            "input_tokens": 1271,
            "output_tokens": 55,
            "input_tokens_details": {"image_tokens": 1240, "text_tokens": 31},
            "prompt_tokens_details": {"cached_tokens": 1024},
        },
        TokenUsage(input=1271, output=55, cache_read=1024),
    ),
    (  # Hugging Face
        "openai-chat",
        {"prompt_tokens": 20, "cached_tokens": 3},
        TokenUsage(input=20, cache_read=3),
    ),
    (  # Qwen
        "openai-chat",
        {"prompt_tokens": 20, "prompt_tokens_details": {"cache_creation_input_tokens": 12}},
        TokenUsage(input=20, cache_write=12),
    ),
    (
        "openai-chat",
        {"prompt_tokens": 3, "prompt_tokens_details": None, "completion_tokens_details": None},
        TokenUsage(input=3),
    ),
    (
        "openai-responses",
        {
            "input_tokens": 75,
            "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 8},
            "output_tokens": 41,
            "output_tokens_details": {"reasoning_tokens": 32},
            "total_tokens": 116,
        },
        TokenUsage(input=75, output=41, cache_read=64, cache_write=8, reasoning=32),
    ),
    (
        "anthropic",
        {
            "input_tokens": 10,
            "cache_creation_input_tokens": 200,
            "cache_read_input_tokens": 3000,
            "cache_creation": {"ephemeral_5m_input_tokens": 200},
            "output_tokens": 40,
            "output_tokens_details": {"thinking_tokens": 25},
        },
        TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200, reasoning=25),
    ),
    (
        "gemini",
        {
            "promptTokenCount": 427,
            "candidatesTokenCount": 122,
            "thoughtsTokenCount": 447,
            "toolUsePromptTokenCount": 771,
            "cachedContentTokenCount": 400,
            "totalTokenCount": 1767,
        },
        TokenUsage(input=1198, output=569, cache_read=400, reasoning=447),
    ),
    ("gemini", {"promptTokenCount": 7, "totalTokenCount": 7}, TokenUsage(input=7)),
    (  # thoughts are in the total only
        "gemini",
        {"promptTokenCount": 21, "candidatesTokenCount": 10, "totalTokenCount": 81},
        TokenUsage(input=21, output=60, reasoning=50),
    ),
    (  # Gemini's thoughts in the format of OpenAI
        "openai-chat",
        {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 623},
        TokenUsage(input=20, output=603, reasoning=405),
    ),
    (  # the limit of the output was reached in the thoughts
        "openai-chat",
        {"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 623},
        TokenUsage(input=20, output=603, reasoning=603),
    ),
    (
        "openai-responses",
        {"input_tokens": 20, "output_tokens": 198, "total_tokens": 623},
        TokenUsage(input=20, output=603, reasoning=405),
    ),
    (  # Voxtral: audio is in the total only
        "openai-chat",
        {
            "prompt_audio_seconds": 203,
            "prompt_tokens": 4,
            "completion_tokens": 635,
            "total_tokens": 3264,
        },
        TokenUsage(input=2629, output=635),
    ),
    (  # a gateway that excludes the cache from the prompt
        "openai-chat",
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cache_read_input_tokens": 1000,
            "total_tokens": 1015,
        },
        TokenUsage(input=1010, output=5, cache_read=1000),
    ),
    (  # a total below its parts
        "openai-chat",
        {"prompt_tokens": 20, "completion_tokens": 198, "total_tokens": 20},
        TokenUsage(input=20, output=198),
    ),
    (  # a tool that generated an image
        "openai-responses",
        {
            "input_tokens": 30,
            "output_tokens": 5,
            "tool_usage": {
                "image_gen": {"input_tokens": 7918, "output_tokens": 186, "total_tokens": 8104},
                "web_search": {"num_requests": 2},
                "unknown": None,
            },
        },
        TokenUsage(input=7948, output=191, searches=2),
    ),
    (  # DashScope's own API
        "openai-responses",
        {
            "input_tokens": 26,
            "output_tokens": 40,
            "total_tokens": 66,
            "prompt_tokens_details": {"cached_tokens": 16, "cache_creation_input_tokens": 4},
            "output_tokens_details": {"reasoning_tokens": 30},
        },
        TokenUsage(input=26, output=40, cache_read=16, cache_write=4, reasoning=30),
    ),
    (  # the metrics of a Bedrock invocation
        "bedrock-converse",
        {"inputTokenCount": 10, "outputTokenCount": 40, "cacheReadInputTokenCount": 7},
        TokenUsage(input=17, output=40, cache_read=7),
    ),
    (
        "bedrock-converse",
        {"inputTokens": 757, "outputTokens": 6, "totalTokens": 763},
        TokenUsage(input=757, output=6),
    ),
    (  # Bedrock excludes the cache from its input, as Anthropic does
        "bedrock-converse",
        {
            "inputTokens": 10,
            "outputTokens": 40,
            "cacheReadInputTokens": 3000,
            "cacheWriteInputTokens": 200,
            "totalTokens": 3250,
        },
        TokenUsage(input=3210, output=40, cache_read=3000, cache_write=200),
    ),
]


@pytest.mark.parametrize(("name", "usage", "expected"), CASES)
def test_usage_of_each_vendor_is_normalized(
    name: str, usage: dict[str, Any], expected: TokenUsage
) -> None:
    """Cached tokens are part of the input, and reasoning is part of the output."""
    assert COUNT[name](usage) == expected


@pytest.mark.parametrize("field", ["cacheReadInputTokens", "cacheReadInputTokenCount"])
def test_bedrock_cache_reads_are_counted_in_both_spellings(field: str) -> None:
    """Bedrock's cache reads are counted in either spelling."""
    assert COUNT["bedrock-converse"]({field: 9}).cache_read == 9


@pytest.mark.parametrize("field", ["cacheWriteInputTokens", "cacheWriteInputTokenCount"])
def test_bedrock_cache_writes_are_counted_in_both_spellings(field: str) -> None:
    """Bedrock's cache writes are counted in either spelling."""
    assert COUNT["bedrock-converse"]({field: 9}).cache_write == 9


def test_bedrock_counts_in_both_spellings_are_counted_once() -> None:
    """The same tokens in both spellings are counted once."""
    usage = COUNT["bedrock-converse"](
        {
            "cacheReadInputTokens": 9,
            "cacheReadInputTokenCount": 9,
            "cacheWriteInputTokens": 5,
            "cacheWriteInputTokenCount": 5,
        }
    )

    assert (usage.cache_read, usage.cache_write) == (9, 5)


def test_anthropic_iterations_are_summed() -> None:
    """With compaction the usage is the sum of the iterations, not the top level."""
    usage = {
        "input_tokens": 1,
        "output_tokens": 1,
        "iterations": [
            {"type": "compaction", "input_tokens": 500, "output_tokens": 30},
            {"type": "message", "input_tokens": 20, "cache_read_input_tokens": 7},
        ],
    }

    assert COUNT["anthropic"](usage) == TokenUsage(input=527, output=30, cache_read=7)


@pytest.mark.parametrize(("thinking", "expected"), [(25, 25), (30, 30), (31, 0), (None, 0)])
def test_anthropic_top_level_reasoning_counts_if_iterations_have_none(
    thinking: Any, expected: int
) -> None:
    """Top-level reasoning counts if it does not exceed the output of the iterations."""
    usage = {
        "output_tokens": 30,
        "output_tokens_details": {"thinking_tokens": thinking},
        "iterations": [{"input_tokens": 5, "output_tokens": 30}],
    }

    assert COUNT["anthropic"](usage) == TokenUsage(input=5, output=30, reasoning=expected)


@pytest.mark.parametrize(("hour", "expected"), [(25, 25), (30, 30), (31, 0), (None, 0)])
def test_anthropic_top_level_hour_writes_count_if_iterations_have_none(
    hour: Any, expected: int
) -> None:
    """Top-level cache writes for an hour count if they do not exceed those of the iterations."""
    usage = {
        "cache_creation": {"ephemeral_1h_input_tokens": hour},
        "iterations": [{"input_tokens": 5, "cache_creation_input_tokens": 30}],
    }

    assert COUNT["anthropic"](usage) == TokenUsage(
        input=35, cache_write=30, cache_write_1h=expected
    )


def test_anthropic_iterations_have_hour_writes_of_their_own_and_searches_of_the_top_level() -> None:
    """Cache writes are listed by iteration, searches once for all of them."""
    call = {"cache_creation_input_tokens": 9, "cache_creation": {"ephemeral_1h_input_tokens": 4}}
    usage = {"server_tool_use": {"web_search_requests": 3}, "iterations": [call, call]}

    assert COUNT["anthropic"](usage) == TokenUsage(
        input=18, cache_write=18, cache_write_1h=8, searches=3
    )


@pytest.mark.parametrize("details", [None, 7, {}, "AUDIO", [None, 7, []], [{"modality": "TEXT"}]])
def test_details_that_are_not_a_list_of_counts_are_ignored(details: Any) -> None:
    """Only objects in a list are counts of a modality, or of a lifetime of the cache."""
    gemini = {"promptTokenCount": 5, "promptTokensDetails": details}
    bedrock = {"inputTokens": 1, "cacheWriteInputTokens": 4, "cacheDetails": details}

    assert COUNT["gemini"](gemini) == TokenUsage(input=5)
    assert COUNT["bedrock-converse"](bedrock) == TokenUsage(input=5, cache_write=4)


def test_number_of_details_is_bounded() -> None:
    """A long list of details is read to its bound, so that hostile usage costs no time."""
    gemini = {"promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}] * 900}
    bedrock = {
        "cacheWriteInputTokens": 900,
        "cacheDetails": [{"ttl": "1h", "inputTokens": 1}] * 900,
    }

    assert COUNT["gemini"](gemini).audio_input == MAX_DETAILS
    assert COUNT["bedrock-converse"](bedrock).cache_write_1h == MAX_DETAILS


def test_anthropic_reasoning_of_iterations_is_summed() -> None:
    """Reasoning of iterations takes precedence over that of the top level."""
    call = {"output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20}}
    usage = {**call, "iterations": [call, call]}

    assert COUNT["anthropic"](usage) == TokenUsage(output=60, reasoning=40)


@pytest.mark.parametrize(
    "iterations", [[], None, {}, "two", 2, [None], [{"type": "message"}], [{"input_tokens": None}]]
)
def test_anthropic_without_iteration_counts_uses_the_top_level(iterations: Any) -> None:
    """The top level counts if there are no iterations with counts."""
    usage = {"input_tokens": 3, "output_tokens": 4, "iterations": iterations}

    assert COUNT["anthropic"](usage) == TokenUsage(input=3, output=4)


def test_anthropic_iteration_that_is_not_an_object_is_ignored() -> None:
    """Only objects with counts are summed."""
    usage = {"iterations": [None, 7, {"input_tokens": 3}]}

    assert COUNT["anthropic"](usage) == TokenUsage(input=3)


@pytest.mark.parametrize("value", [None, 1.5, -1, "12", True, float("inf"), [1], {"n": 1}])
@pytest.mark.parametrize("name", FIELDS)
def test_value_that_is_not_a_count_is_ignored(name: str, value: Any) -> None:
    """Only a whole number from 0 on is a count, in any field of any vendor."""
    usage = usage_object(dict.fromkeys(FIELDS[name], value))

    assert COUNT[name](usage) == TokenUsage()


@pytest.mark.parametrize(("name", "path"), [(f, path) for f in FIELDS for path in FIELDS[f]])
def test_each_field_alone_is_counted(name: str, path: str) -> None:
    """No field depends on another one."""
    assert COUNT[name](usage_object({path: 5})) != TokenUsage()


_OPENAI_FIELDS = ("prompt_tokens", "completion_tokens", "total_tokens")
_VENDOR_FIELDS = [
    "connector_tokens",
    "reasoning_tokens",
    *(path for path in FIELDS["openai-chat"] if "." not in path and path not in _OPENAI_FIELDS),
]
number_like = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 50),
    st.integers(-(10**30), 10**30),
    st.integers(-3, 50).map(float),
    st.floats(),
    st.text(max_size=3),
)
details = st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]), number_like
)
openai_usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(_OPENAI_FIELDS, number_like),
        "prompt_tokens_details": details | number_like,
        "completion_tokens_details": details | number_like,
    },
)


@given(usage=openai_usages, name=st.sampled_from(_VENDOR_FIELDS))
def test_null_field_of_another_vendor_changes_no_count(usage: dict[str, Any], name: str) -> None:
    """Usage that has only fields of OpenAI is counted like any other."""
    assert COUNT["openai-chat"](usage) == COUNT["openai-chat"]({**usage, name: None})


@given(st.data())
@pytest.mark.parametrize("name", FIELDS)
def test_any_usage_object_gives_non_negative_integers(name: str, data: st.DataObject) -> None:
    """Counts are non-negative integers for any JSON."""
    fields = data.draw(st.dictionaries(st.sampled_from(FIELDS[name]), json_values))

    usage = COUNT[name](usage_object(fields))

    assert all(type(number) is int and number >= 0 for number in astuple(usage))

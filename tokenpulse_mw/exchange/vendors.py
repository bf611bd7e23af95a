"""Well-known vendors and hosts of models, and the names of their models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from functools import lru_cache

# Names of each vendor as a provider, the vendor's own first, and patterns of its models in
# addition to these names.
VENDORS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("openai", "codex"): (
        *("gpt-*", "gpt[3-9]*", "chatgpt-*", "o[1-9]", "o[1-9]-*", "computer-use-*", "sora-*"),
        *("text-embedding-3-*", "text-embedding-ada-*", "text-moderation-*", "omni-moderation-*"),
        *("dall-e-*", "tts-1*", "whisper-*", "davinci-*", "babbage-*"),
    ),
    ("anthropic", "claude"): (),
    ("google", "gemini"): ("gemma*", "imagen-*", "imagegeneration@*", "veo-*", "learnlm-*"),
    ("mistral",): (
        *("mistralai/*", "ministral-*", "mixtral-*", "codestral-*", "devstral-*", "magistral-*"),
        *("pixtral-*", "voxtral-*", "open-mistral-*", "open-mixtral-*"),
    ),
    ("meta",): ("llama*", "codellama*"),
    ("deepseek",): (),
    ("xai",): ("x-ai/*", "grok-*"),
    ("cohere",): (
        *("command", "command-*", "c4ai-*", "aya-*", "embed-english-*", "embed-multilingual-*"),
        *("embed-v[0-9]*", "rerank-english-*", "rerank-multilingual-*", "rerank-v[0-9]*"),
    ),
    ("qwen",): ("qwen*", "qwq-*", "qvq-*"),
}

# Patterns of hosts: they serve the models of several vendors under ids of their own.
HOSTS: Mapping[str, tuple[str, ...]] = {
    "bedrock": (
        *("ai21.*", "amazon.*", "anthropic.*", "cohere.*", "deepseek.*", "google.*", "luma.*"),
        *("meta.*", "minimax.*", "mistral.*", "moonshot.*", "moonshotai.*", "nvidia.*", "openai.*"),
        *("qwen.*", "stability.*", "twelvelabs.*", "writer.*", "xai.*", "zai.*"),
    ),
    "copilot": ("github_copilot/*",),
}

# The ten providers of the seed, and further vendors and hosts. Anthropic is `claude` and Google
# is `gemini`.
PROVIDERS = (
    *("claude", "gemini", "antigravity", "kiro", "codex", "qwen", "iflow", "aistudio", "vertex"),
    *("copilot", "openai", "mistral", "meta", "deepseek", "xai", "cohere", "bedrock", "azure"),
    "openrouter",
)

VENDOR_OF: Mapping[str, tuple[str, ...]] = {name: names for names in VENDORS for name in names}

ModelPatterns = tuple[tuple[str, re.Pattern[str]], ...]


@lru_cache(maxsize=16)
def model_patterns(
    names: tuple[str, ...], given: tuple[tuple[str, tuple[str, ...]], ...]
) -> ModelPatterns:
    """Return declared providers with patterns of their models, in order of precedence.

    Args:
        names: The declared providers.
        given: Providers with patterns from the user, which precede the built-in ones.
    """
    return (
        *((name, _compile(patterns)) for name, patterns in given if patterns),
        *((name, _compile(HOSTS.get(name, ()), name)) for name in names if name not in VENDOR_OF),
        *_vendor_patterns(names),
    )


def _vendor_patterns(names: tuple[str, ...]) -> Iterator[tuple[str, re.Pattern[str]]]:
    for vendor, patterns in VENDORS.items():
        for name in vendor:
            if name in names:
                yield name, _compile(patterns, *vendor)


def _compile(patterns: tuple[str, ...], *prefixes: str) -> re.Pattern[str]:
    """Return a regex of any of `patterns`, or of any text that begins with one of `prefixes`."""
    globs = [translate(pattern.lower()) for pattern in patterns]
    return re.compile("|".join([*globs, *(f"{re.escape(name)}(?![a-z0-9])" for name in prefixes)]))

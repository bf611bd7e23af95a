"""Bounded set of models that are counted by name."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Exchange, Models, TokenUsage
from tokenpulse_mw.exchange import fold_model

HOSTILE = [
    "m" * 10_000,
    "a\x00b",
    "gpt-5\n",
    "\N{RIGHT-TO-LEFT OVERRIDE}5-tpg",
    'gpt"5',
    "gpt{5}",
    "gpt 5",
    "модель",
    "\ud800",
    "-",
    "/",
    "..",
    "ft:",
    "other",
    "Unknown",
]


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("gpt-5-mini-2026-01-21", "gpt-5-mini"),
        ("gpt-4.1-2025-04-14", "gpt-4.1"),
        ("gpt-3.5-turbo-0613", "gpt-3.5-turbo"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("anthropic/claude-4.6-sonnet-20260217", "claude-4.6-sonnet"),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("anthropic.claude-3-sonnet-20240229-v1:0:200k", "claude-3-sonnet"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/"
            "us.anthropic.claude-sonnet-4-20250514-v1:0",
            "claude-sonnet-4",
        ),
        ("us.deepseek.r1-v1:0", "deepseek-r1"),
        ("openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
        ("amazon.titan-embed-text-v2:0", "titan-embed-text-v2"),
        ("openai.gpt-5.5", "gpt-5.5"),
        ("openrouter/deepseek/deepseek-chat-v3-0324", "deepseek-chat-v3"),
        ("minimax/minimax-m2:free", "minimax-m2:free"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-r1"),
        ("models/gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("gemini-2.5-pro-preview-05-06", "gemini-2.5-pro-preview"),
        ("gemini-2.5-flash-preview-09-2025", "gemini-2.5-flash-preview"),
        ("mistral-large-2411", "mistral-large"),
        ("mistral-large-latest", "mistral-large"),
        ("jamba-large-1.7-2025-07", "jamba-large-1.7"),
        ("doubao-seed-1-6-250615", "doubao-seed-1-6"),
        ("ft:gpt-4o-mini-2024-07-18:acme:name:id", "ft:gpt-4o-mini"),
        ("llama3:latest", "llama3"),
        # What looks like a date or a version, and is a part of the name.
        ("gpt-oss:20b", "gpt-oss:20b"),
        ("text-embedding-ada-002", "text-embedding-ada-002"),
        ("llama-4-maverick-17b-128e-instruct", "llama-4-maverick-17b-128e-instruct"),
        ("claude-opus-4-8", "claude-opus-4-8"),
        ("o1", "o1"),
    ],
)
def test_names_of_vendors_and_hosts_are_folded(name: str, folded: str) -> None:
    """Prefixes, dates and versions are removed, so that a model has one label."""
    assert fold_model(name) == folded
    assert Models().label(name, responded=True) == folded


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_never_become_a_label(name: str) -> None:
    """A response that repeats the name of its request does not make it a label."""
    assert fold_model(name) is None
    assert Models().label(name, responded=True) == "other"


@given(name=st.text(max_size=300), responded=st.booleans())
def test_label_of_any_text_is_short_and_plain(name: str, responded: bool) -> None:
    """A label is one word of ASCII."""
    label = Models(["gpt-5"]).label(name, responded=responded)

    assert label.isascii()
    assert label.isprintable()
    assert 1 <= len(label) <= 64
    assert not set(label) & set(' "\\{},=')


@pytest.mark.parametrize("name", [None, ""])
def test_exchange_without_a_model_is_unknown(name: str | None) -> None:
    """No model and an unknown model are different labels."""
    assert Models().label(name, responded=True) == "unknown"


def test_first_models_that_respond_have_labels() -> None:
    """All further models are `other`, as are names that have only been requested."""
    models = Models(["gpt-5"], max_seen=2)

    assert models.label("o3") == "other"
    assert [models.label(name, responded=True) for name in ("o3", "o4-mini", "grok-4")] == [
        "o3",
        "o4-mini",
        "other",
    ]
    assert models.label("o3-2025-04-16") == "o3"
    assert models.label("gpt-5") == "gpt-5"


def test_clear_keeps_the_declared_models() -> None:
    """Other models can have the labels of those that responded before."""
    models = Models(["gpt-5"], max_seen=1)
    models.label("o3", responded=True)

    models.clear()

    assert models.label("o3") == "other"
    assert models.label("grok-4", responded=True) == "grok-4"
    assert models.label("gpt-5") == "gpt-5"


def test_declared_label_does_not_change_with_the_models_that_respond() -> None:
    """A key of a limit must stay the same."""
    models = Models(["GPT-5"])
    models.label("o3", responded=True)

    names = ["openai/gpt-5-2025-08-07", "o3", "m" * 300]
    assert [models.declared_label(name) for name in names] == ["GPT-5", "other", "other"]


def test_declared_names_are_not_folded() -> None:
    """A declared version has its own label, in the case that was declared."""
    models = Models(["gpt-4o-2024-08-06", "Qwen3-Coder", "acme/chat"], max_seen=0)

    names = ["openai/gpt-4o-2024-08-06", "gpt-4o-2024-11-20", "qwen/qwen3-coder", "ACME/chat"]
    assert [models.label(name, responded=True) for name in names] == [
        "gpt-4o-2024-08-06",
        "other",
        "Qwen3-Coder",
        "acme/chat",
    ]


def test_aliases_precede_all_other_rules() -> None:
    """The names of deployments are those of models, and a pattern joins several models."""
    models = Models(
        ["gpt-4o"], aliases={"prod-chat": "gpt-5", "gpt-4o": "gpt-4o-alias", "acme-*": "llama"}
    )

    names = ["azure/PROD-chat", "gpt-4o-2024-08-06", "acme-1", "acme-2", "gpt-5-2025-08-07"]
    assert [models.label(name) for name in names] == [
        "gpt-5",
        "gpt-4o-alias",
        "llama",
        "llama",
        "gpt-5",
    ]


def finished(**fields: Any) -> Exchange:
    """Return an exchange with a model that responded."""
    exchange = Exchange("POST", 0.0, status=200, model="o3", model_source="response")
    for name, value in fields.items():
        setattr(exchange, name, value)
    return exchange


@pytest.mark.parametrize(
    ("exchange", "label"),
    [
        (finished(), "o3"),
        (finished(model=None), "unknown"),
        (finished(status=404), "other"),
        (finished(model_source="request"), "other"),
        (finished(model_source="request", usage=TokenUsage(1)), "o3"),
        (finished(model_source="annotation", usage=TokenUsage(1)), "o3"),
        (finished(model_source="annotation"), "other"),
    ],
)
def test_model_has_responded_if_its_response_proves_it(exchange: Exchange, label: str) -> None:
    """A success that names the model, or that has a usage, is no invention of a client."""
    assert Models().label_of(exchange) == label


def test_threads_do_not_exceed_the_number_of_labels() -> None:
    """Event loops in several threads can fill the same metrics."""
    models = Models(max_seen=10)

    def labels(names: Iterable[int]) -> set[str]:
        return {models.label(f"m{number}", responded=True) for number in names}

    with ThreadPoolExecutor(8) as pool:
        found = set[str]().union(*pool.map(labels, [range(k, 400 + k) for k in range(8)]))

    assert len(found - {"other"}) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": "gpt-5"}, "^models must be a list of strings"),
        ({"names": ["gpt-5*"]}, "^model must be .* got 'gpt-5\\*'; for a pattern, use an alias"),
        ({"names": [""]}, "^model must be 1 to 128 ASCII letters"),
        ({"names": ["Other"]}, "^model must not be 'Other', which is reserved"),
        ({"aliases": ["gpt-5"]}, "^model aliases must be a mapping"),
        ({"aliases": {"a b": "gpt-5"}}, "^model alias must be the name of a model or a pattern"),
        ({"aliases": {5: "gpt-5"}}, "^model alias must be the name of a model or a pattern"),
        ({"aliases": {"gpt": 5}}, "^label of a model alias must be 1 to 128"),
        ({"aliases": {"gpt": "unknown"}}, "^label of a model alias must not be 'unknown'"),
        ({"max_seen": -1}, "^max_seen must be an integer of at least 0"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: dict[str, Any], message: str) -> None:
    """An error names the argument and what is valid."""
    with pytest.raises(ValueError, match=message):
        Models(**arguments)

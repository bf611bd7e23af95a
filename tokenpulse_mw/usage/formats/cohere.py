"""Cohere chat, v2 and v1, and embeddings.

The formats are https://docs.cohere.com/reference/chat, https://docs.cohere.com/v2/docs/streaming
and https://docs.cohere.com/v1/reference/chat.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..document import UNREADABLE, Document, is_small, opens_with
from ..tokens import Fields, TokenUsage, count, get_object, has_count
from .base import Format, UsageReport


def _find_usage(document: Document) -> UsageReport | None:
    """Return the usage of a response, or of the last event of a stream."""
    usage = _delta(document).get("usage") if document.type == "message-end" else document.usage
    usage = document.meta if usage is None else usage  # v1
    if isinstance(usage, dict) and has_count(_counts(usage), "input_tokens", "output_tokens"):
        return UsageReport(FORMAT, usage)
    return None


def _counts(usage: Fields) -> Fields:
    """Return all tokens read and written; `billed_units` excludes those of Cohere's own prompt."""
    tokens = get_object(usage, "tokens")
    if has_count(tokens, "input_tokens", "output_tokens"):
        return tokens
    return get_object(usage, "billed_units")


def _count(usage: Fields) -> TokenUsage:
    counts = _counts(usage)
    return TokenUsage(
        input=count(counts, "input_tokens"),
        output=count(counts, "output_tokens"),
        cache_read=count(usage, "cached_tokens"),
    )


def _delta(document: Document) -> dict[str, Any]:
    delta = document.delta
    if not opens_with(delta, b"{") or not is_small(delta):
        return {}
    try:
        fields: dict[str, Any] = msgspec.json.decode(delta)
    except UNREADABLE:
        return {}
    return fields


def _is_response(document: Document) -> bool:
    """Return True for the first event of a stream, or a response with an assistant's message."""
    message = document.message
    return document.type == "message-start" or (
        isinstance(message, dict) and message.get("role") == "assistant"
    )


def _has_error(document: Document) -> bool:
    return document.type == "message-end" and bool(_delta(document).get("error"))


# Output is in `*-delta` events, which `anthropic` recognizes.
FORMAT = Format(
    "cohere",
    find_usage=_find_usage,
    count=_count,
    is_response=_is_response,
    has_error=_has_error,
)

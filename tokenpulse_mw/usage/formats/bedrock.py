"""Amazon Bedrock: Converse, and the invocation metrics of InvokeModel."""

from __future__ import annotations

from typing import Any

from ..bounds import MAX_DETAILS
from ..document import Document, Event
from ..tokens import Fields, TokenUsage, count, has_count
from .base import Format, UsageReport, any_object, is_text, raw_has_text


def _find_usage(document: Document) -> UsageReport | None:
    usage = document.usage
    if isinstance(usage, dict) and has_count(usage, "inputTokens", "outputTokens"):
        return UsageReport(FORMAT, usage, is_delta=document.type == "message_delta")
    return None


def _find_metrics(document: Document) -> UsageReport | None:
    metrics = document.metrics
    if isinstance(metrics, dict) and has_count(metrics, "inputTokenCount", "outputTokenCount"):
        return UsageReport(FORMAT, metrics, is_fallback=True)
    return None


def _count(usage: Fields) -> TokenUsage:
    """Count a usage; `inputTokens` excludes the cache, as Anthropic's count does."""
    cache_read = count(usage, "cacheReadInputTokens", "cacheReadInputTokenCount")
    cache_write = count(usage, "cacheWriteInputTokens", "cacheWriteInputTokenCount")
    return TokenUsage(
        input=count(usage, "inputTokens", "inputTokenCount") + cache_read + cache_write,
        output=count(usage, "outputTokens", "outputTokenCount"),
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_1h=min(_cache_write_1h(usage), cache_write) if cache_write else 0,
    )


def _cache_write_1h(usage: Fields) -> int:
    details = usage.get("cacheDetails")
    return sum(
        count(detail, "inputTokens")
        for detail in (details[:MAX_DETAILS] if isinstance(details, list) else ())
        if isinstance(detail, dict) and detail.get("ttl") == "1h"
    )


def _has_output(event: Event) -> bool:
    """Return True for a delta of Nova, or an output of the Mistral models on Bedrock."""
    return raw_has_text(event.contentBlockDelta) or any_object(event.outputs, _output_has_text)


def _output_has_text(output: dict[str, Any]) -> bool:
    return is_text(output.get("text"))


FORMAT = Format(
    "bedrock-converse",
    find_usage=_find_usage,
    find_unclaimed_usage=_find_metrics,
    count=_count,
    has_output=_has_output,
)

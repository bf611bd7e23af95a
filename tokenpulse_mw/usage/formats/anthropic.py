"""Anthropic Messages."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from ..bounds import MAX_ITERATIONS
from ..document import NOTHING, Document, Event, opens_with
from ..tokens import Fields, TokenUsage, count, get_object, has_count
from .base import Format, UsageReport, count_searches, override, raw_has_text

_COUNTS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_NAMES = frozenset(_COUNTS)
_EVENTS = ("message", "message_delta")

# Bedrock's names of these counts in the metrics of an invocation.
_INPUT_METRICS = {
    "input_tokens": "inputTokenCount",
    "cache_read_input_tokens": "cacheReadInputTokenCount",
    "cache_creation_input_tokens": "cacheWriteInputTokenCount",
}
_OUTPUT_METRICS = {"output_tokens": "outputTokenCount"}


def _find_usage(document: Document) -> UsageReport | None:
    kind = document.type
    if kind == "message_start":
        usage = document.message.get("usage") if isinstance(document.message, dict) else None
        if isinstance(usage, dict) and _has_counts(usage):
            return UsageReport(FORMAT, dict(usage), is_delta=True, is_final=False)
    elif kind in _EVENTS:
        usage = document.usage
        if isinstance(usage, dict) and _has_counts(usage):
            return UsageReport(FORMAT, usage, is_delta=kind == "message_delta")
    return None


def _find_untyped_usage(document: Document) -> UsageReport | None:
    """Return the same counts of a document of another type, for instance of a gateway."""
    usage = document.usage
    if isinstance(usage, dict) and has_count(usage, "input_tokens", "output_tokens"):
        return UsageReport(FORMAT, usage)
    return None


def _has_counts(usage: dict[str, Any]) -> bool:
    return has_count(usage, *_COUNTS) or bool(_billed_calls(usage))


def _billed_calls(usage: Fields) -> list[Fields]:
    calls = usage.get("iterations")
    if not isinstance(calls, list) or len(calls) > MAX_ITERATIONS:
        return []
    calls = [call for call in calls if isinstance(call, dict) and not _NAMES.isdisjoint(call)]
    return [call for call in calls if has_count(call, *_COUNTS)]


def _count(usage: Fields) -> TokenUsage:
    """Count a usage; `input_tokens` excludes the cache, so both cache counts are added.

    With compaction or an advisor the top level omits some model calls; `iterations`, if present,
    lists all of them; it is billed.
    """
    calls = _billed_calls(usage)
    if not calls:
        return _count_call(usage)
    billed = sum(map(_count_call, calls), TokenUsage())
    # These may be reported at the top level only.
    if not billed.reasoning and (thinking := _thinking(usage)) <= billed.output:
        billed = replace(billed, reasoning=thinking)
    if not billed.cache_write_1h and (hour := _cache_write_1h(usage)) <= billed.cache_write:
        billed = replace(billed, cache_write_1h=hour)
    return replace(billed, searches=billed.searches or count_searches(usage))


def _count_call(usage: Fields) -> TokenUsage:
    cache_read = count(usage, "cache_read_input_tokens")
    cache_write = count(usage, "cache_creation_input_tokens")
    return TokenUsage(
        count(usage, "input_tokens") + cache_read + cache_write,
        count(usage, "output_tokens"),
        cache_read,
        cache_write,
        _thinking(usage),
        min(_cache_write_1h(usage), cache_write) if cache_write else 0,
        searches=count_searches(usage),
    )


def _thinking(usage: Fields) -> int:
    return count(get_object(usage, "output_tokens_details"), "thinking_tokens")


def _cache_write_1h(usage: Fields) -> int:
    return count(get_object(usage, "cache_creation"), "ephemeral_1h_input_tokens")


def _merge(fields: Fields, update: Fields) -> dict[str, Any]:
    """Apply a delta; new counts make an earlier list of model calls obsolete.

    Some gateways write a delta whose input is 0, although the first event has the input.
    """
    if not any(count(update, name) for name in _INPUT_METRICS):
        update = {**update, "input_tokens": None}
    merged = override(fields, update)
    if update.get("iterations") is None and has_count(update, *_COUNTS):
        merged.pop("iterations", None)
    return merged


def _supplement(fields: Fields, metrics: Fields) -> dict[str, Any]:
    """Add values that only Bedrock's invocation metrics report.

    Both exclude the cache from the input; if they disagree on the input, only the output is added.
    """
    inputs = count(metrics, "inputTokenCount")
    agree = not has_count(fields, "input_tokens") or count(fields, "input_tokens") == inputs
    names = _INPUT_METRICS | _OUTPUT_METRICS if agree else _OUTPUT_METRICS
    missing = {name: metrics.get(names[name]) for name in names if not has_count(fields, name)}
    return {**fields, **missing}


def _has_output(event: Event) -> bool:
    """Return True if a `*delta` event has output; OpenAI Responses and Cohere stream them, too.

    Bedrock Converse has no `type`, as the event is named in the header of its frame.
    """
    if event.delta is NOTHING:
        return False
    kind = event.type
    carries = kind is None or (
        isinstance(kind, str) and kind.endswith("delta") and kind != "message_delta"
    )
    return carries and raw_has_text(event.delta)


def _is_response(document: Document) -> bool:
    return document.type == "message" and opens_with(document.content, b"[")


FORMAT = Format(
    "anthropic",
    find_usage=_find_usage,
    find_unclaimed_usage=_find_untyped_usage,
    count=_count,
    merge=_merge,
    supplement=_supplement,
    has_output=_has_output,
    is_response=_is_response,
)

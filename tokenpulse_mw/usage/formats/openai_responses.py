"""OpenAI Responses, and DashScope's own API, which uses the same counts."""

from __future__ import annotations

from itertools import islice

import msgspec

from ..bounds import MAX_TOOLS
from ..document import Document, Event, is_small, opens_with
from ..tokens import Fields, TokenUsage, count, get_object, has_count, hidden_tokens
from .base import Format, UsageReport, any_object, count_searches, is_text
from .openai_chat import CACHE_WRITE, choice_has_output

# Only OpenAI and compatible APIs report a total or details of the input.
_DETAILS = ("total_tokens", "input_tokens_details", "prompt_tokens_details")


def _find_usage(document: Document) -> UsageReport | None:
    usage = document.usage
    if not isinstance(usage, dict) or not has_count(usage, "input_tokens", "output_tokens"):
        return None
    if (
        document.object == "response"
        or any(name in usage for name in _DETAILS)
        or "reasoning_tokens" in get_object(usage, "output_tokens_details")
    ):
        if isinstance(document.tool_usage, dict):
            usage = {**usage, "tool_usage": document.tool_usage}
        return UsageReport(FORMAT, usage)
    return None


def _count(usage: Fields) -> TokenUsage:
    read = get_object(usage, "input_tokens_details") or get_object(usage, "input_token_details")
    written = get_object(usage, "output_tokens_details")
    written = written or get_object(usage, "output_token_details")
    if "prompt_tokens_details" in usage:  # DashScope
        read = {**get_object(usage, "prompt_tokens_details"), **read}
    prompt, output = count(usage, "input_tokens"), count(usage, "output_tokens")
    hidden = hidden_tokens(usage, "total_tokens", prompt + output)
    reasoning = count(written, "reasoning_tokens")
    own = TokenUsage(
        prompt,
        output + hidden,
        count(read, "cached_tokens") or count(usage, "cached_tokens"),
        count(read, *CACHE_WRITE),
        reasoning or hidden,
        0,  # OpenAI has no cache writes for an hour
        count(read, "audio_tokens") if "audio_tokens" in read else 0,
        count(written, "audio_tokens") if "audio_tokens" in written else 0,
        count_searches(usage),
    )
    return own + _count_tools(usage["tool_usage"]) if "tool_usage" in usage else own


def _count_tools(tools: Fields) -> TokenUsage:
    """Return the tokens of models that tools called, such as images, and the web searches."""
    usage = TokenUsage()
    for name in islice(tools, MAX_TOOLS):
        tool = get_object(tools, name)
        searches = count(tool, "num_requests") if name == "web_search" else 0
        tokens = count(tool, "input_tokens"), count(tool, "output_tokens")
        usage += TokenUsage(*tokens, searches=searches)
    return usage


def _has_output(event: Event) -> bool:
    """Return True for DashScope: a text, or chat choices, inside `output`."""
    if not opens_with(event.output, b"{"):
        return False
    if not is_small(event.output):
        return True
    output = msgspec.json.decode(event.output, type=Event)
    return is_text(output.text) or any_object(output.choices, choice_has_output)


def _is_response(document: Document) -> bool:
    return opens_with(document.output, b"[{")


def _has_error(document: Document) -> bool:
    if document.type == "response.failed":
        return True
    return bool(document.object == "response" and document.status == "failed")


FORMAT = Format(
    "openai-responses",
    find_usage=_find_usage,
    count=_count,
    has_output=_has_output,
    is_response=_is_response,
    has_error=_has_error,
)

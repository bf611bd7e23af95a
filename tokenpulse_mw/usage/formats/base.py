"""API formats, and the helpers that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from ..bounds import MAX_CHOICES, MAX_OUTPUT_VALUES
from ..document import NOTHING, Document, Event, decode_objects, is_small
from ..tokens import Fields, TokenUsage, count, get_object

_LABELS = ("type", "role")  # strings that are not output
SEARCH_NAMES = frozenset(
    ("server_tool_use", "num_search_queries", "server_side_tool_usage_details", "connectors")
)


class UsageReport(msgspec.Struct):
    """The usage stated by one document.

    Attributes:
        format: The format of the counts.
        fields: The raw counts.
        is_delta: Overrides earlier reports field by field instead of replacing them.
        is_final: False if the vendor corrects these counts later in the stream.
        is_fallback: Used only if the vendor itself has not reported final usage.
    """

    format: Format
    fields: dict[str, Any]
    is_delta: bool = False
    is_final: bool = True
    is_fallback: bool = False
    _usage: TokenUsage | None = None

    @property
    def usage(self) -> TokenUsage:
        """The tokens of this report alone, counted once."""
        if self._usage is None:
            self._usage = self.format.count(self.fields)
        return self._usage

    @property
    def is_complete(self) -> bool:
        """Return True if this report makes all earlier ones obsolete."""
        usage = self.usage
        return not (self.is_delta or self.is_fallback) and usage.is_plausible and usage.total > 0


def _no_usage(_document: Document) -> UsageReport | None:
    return None


def _never(_document: Any) -> bool:
    return False


def _no_tokens(_fields: Fields) -> TokenUsage:
    return TokenUsage()


def override(fields: Fields, update: Fields) -> dict[str, Any]:
    """Return `fields` overridden by those of `update` that are not null."""
    return {**fields, **{name: value for name, value in update.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class Format:
    """How one vendor API writes its responses.

    Attributes:
        name: Identifies the format.
        find_usage: Returns the usage in a document, or None.
        find_unclaimed_usage: Returns usage that counts only if `find_usage` of no format returns
            any, or None.
        count: Converts the raw counts to `TokenUsage`.
        merge: Applies a delta to earlier counts.
        supplement: Adds the counts of a fallback report to final ones; None to ignore it.
        has_output: Returns True if a stream event carries model output.
        is_response: Returns True if a document has the shape of a response of this API.
        has_error: Returns True if a document reports an error in a way specific to this API.
    """

    name: str
    find_usage: Callable[[Document], UsageReport | None] = _no_usage
    find_unclaimed_usage: Callable[[Document], UsageReport | None] = _no_usage
    count: Callable[[Fields], TokenUsage] = _no_tokens
    merge: Callable[[Fields, Fields], dict[str, Any]] = override
    supplement: Callable[[Fields, Fields], dict[str, Any]] | None = None
    has_output: Callable[[Event], bool] = _never
    is_response: Callable[[Document], bool] = _never
    has_error: Callable[[Document], bool] = _never


def count_searches(usage: Fields) -> int:
    """Return the web searches that the vendor ran, if the usage has them.

    The names are those of Anthropic, OpenRouter and LiteLLM; Perplexity; xAI (web and X); and
    Mistral's connectors.
    """
    if SEARCH_NAMES.isdisjoint(usage):
        return 0
    calls = get_object(usage, "server_tool_use")
    searches = count(calls, "web_search_requests") or count(usage, "num_search_queries")
    if not searches:
        calls = get_object(usage, "server_side_tool_usage_details")
        searches = count(calls, "web_search_calls") + count(calls, "x_search_calls")
    if not searches:
        calls = get_object(usage, "connectors")
        searches = count(calls, "web_search") + count(calls, "web_search_premium")
    return searches


def any_object(raw: msgspec.Raw, predicate: Callable[[dict[str, Any]], bool]) -> bool:
    """Return True if `predicate` holds for one of the first objects of an array.

    Large arrays are not decoded: they are output.
    """
    if raw is NOTHING:
        return False
    return not is_small(raw) or any(map(predicate, decode_objects(raw)[:MAX_CHOICES]))


def is_text(value: Any) -> bool:
    """Return True if `value` is a non-empty string."""
    return isinstance(value, str) and value != ""


def raw_has_text(raw: msgspec.Raw) -> bool:
    """Return True if `raw` contains output text, or too many values to decode.

    Raises:
        UNREADABLE: `raw` is not JSON.
    """
    if raw is NOTHING:
        return False
    return not is_small(raw) or has_text(msgspec.json.decode(raw))


def has_text(value: Any) -> bool:
    """Return True if `value` contains a non-empty string other than a type or role label."""
    values = [value]
    for _ in range(MAX_OUTPUT_VALUES):
        if not values:
            return False
        value = values.pop()
        if isinstance(value, dict):
            values += [inner for name, inner in value.items() if name not in _LABELS]
        elif isinstance(value, list):
            values += value
        elif is_text(value):
            return True
    return False


def is_error(error: Any) -> bool:
    """Return True if an `error` field reports an error; an object without content does not."""
    return any(error.values()) if isinstance(error, dict) else bool(error)

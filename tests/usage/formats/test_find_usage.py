"""Usage reports of single documents."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.usage.formats import FORMATS, UsageReport, find_usage
from tokenpulse_mw.usage.formats.markers import COUNT, last_count

from ..bodies import document

CHAT = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
COUNTS = {"input_tokens": 3, "output_tokens": 4}
TOTALS = {**COUNTS, "total_tokens": 7}
ZEROS = {"input_tokens": 0, "output_tokens": 0}
METRICS = "amazon-bedrock-invocationMetrics"
INVOCATION = {"inputTokenCount": 3, "outputTokenCount": 4}


def report(name: str, fields: dict[str, Any], **flags: Any) -> UsageReport:
    """Return a report in the format of this name."""
    (form,) = [form for form in FORMATS if form.name == name]
    return UsageReport(form, fields, **flags)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ({"usage": CHAT}, report("openai-chat", CHAT)),
        ({"usage": None, "x_groq": {"usage": CHAT}}, report("openai-chat", CHAT)),
        ({"usage": CHAT, "x_groq": {"usage": {"n": 1}}}, report("openai-chat", CHAT)),
        ({"object": "response", "usage": TOTALS}, report("openai-responses", TOTALS)),
        ({"object": "response", "usage": COUNTS}, report("openai-responses", COUNTS)),
        ({"output": {}, "usage": TOTALS}, report("openai-responses", TOTALS)),
        (
            {"type": "response.completed", "response": {"object": "response", "usage": TOTALS}},
            report("openai-responses", TOTALS),
        ),
        ({"type": "message", "usage": COUNTS}, report("anthropic", COUNTS)),
        (
            {"type": "message_start", "message": {"usage": COUNTS}},
            report("anthropic", COUNTS, is_delta=True, is_final=False),
        ),
        (
            {"type": "message_delta", "usage": {"output_tokens": 9}},
            report("anthropic", {"output_tokens": 9}, is_delta=True),
        ),
        ({"usageMetadata": {"promptTokenCount": 1}}, report("gemini", {"promptTokenCount": 1})),
        (
            {"response": {"usageMetadata": {"promptTokenCount": 1}}, "traceId": "t"},
            report("gemini", {"promptTokenCount": 1}),
        ),
        ({"response": {"usage": {"n": 1}}, "usage": CHAT}, report("openai-chat", CHAT)),
        ({"response": "Paris", "usage": CHAT}, report("openai-chat", CHAT)),
        ({"type": "message", "usage": TOTALS}, report("anthropic", TOTALS)),
        ({"type": "message", "usage": CHAT}, report("openai-chat", CHAT)),
        ({"usage": {**CHAT, **ZEROS}}, report("openai-chat", {**CHAT, **ZEROS})),
        (
            {"usage": {"prompt_tokens": 0, "completion_tokens": 0, **TOTALS}},
            report("openai-responses", {"prompt_tokens": 0, "completion_tokens": 0, **TOTALS}),
        ),
        ({"usage": {"prompt_tokens": 0}}, report("openai-chat", {"prompt_tokens": 0})),
        (
            {"type": "message_delta", "usage": {"iterations": [COUNTS]}},
            report("anthropic", {"iterations": [COUNTS]}, is_delta=True),
        ),
        ({METRICS: INVOCATION}, report("bedrock-converse", INVOCATION, is_fallback=True)),
        ({METRICS: INVOCATION, "usage": CHAT}, report("openai-chat", CHAT)),
        ({"usage": {"inputTokens": 1}}, report("bedrock-converse", {"inputTokens": 1})),
        ({"usage": {"outputTokens": 1}}, report("bedrock-converse", {"outputTokens": 1})),
        ({"choices": [{"usage": CHAT}]}, report("openai-chat", CHAT)),
        ({"usage": None, "choices": [{"usage": CHAT}, {}]}, report("openai-chat", CHAT)),
        ({"usage": TOTALS, "choices": [{"usage": CHAT}]}, report("openai-responses", TOTALS)),
        (  # Kimi may report cache reads in the choice only
            {"usage": CHAT, "choices": [{"usage": {"cached_tokens": 2}}]},
            report("openai-chat", {**CHAT, "cached_tokens": 2}),
        ),
        (
            {"usage": {**CHAT, "cached_tokens": 1}, "choices": [{"usage": {"cached_tokens": 2}}]},
            report("openai-chat", {**CHAT, "cached_tokens": 1}),
        ),
        (
            {"usage": CHAT, "choices": [{"usage": {"prompt_tokens": 9}}]},
            report("openai-chat", CHAT),
        ),
        ({"usage": CHAT, "choices": [{"usage": None}]}, report("openai-chat", CHAT)),
        ({"usage": {"total_tokens": 7}}, report("openai-chat", {"total_tokens": 7})),
        (
            {"usage": {**COUNTS, "prompt_tokens_details": {}}},
            report("openai-responses", {**COUNTS, "prompt_tokens_details": {}}),
        ),
        (
            {"usage": {**COUNTS, "input_tokens_details": None}},
            report("openai-responses", {**COUNTS, "input_tokens_details": None}),
        ),
        (
            {"usage": {**COUNTS, "output_tokens_details": {"reasoning_tokens": 2}}},
            report(
                "openai-responses", {**COUNTS, "output_tokens_details": {"reasoning_tokens": 2}}
            ),
        ),
        (
            {"usage": {**COUNTS, "output_tokens_details": {"thinking_tokens": 2}}},
            report("anthropic", {**COUNTS, "output_tokens_details": {"thinking_tokens": 2}}),
        ),
    ],
)
def test_format_is_recognized_by_its_fields(payload: dict[str, Any], expected: UsageReport) -> None:
    """The names and positions of fields identify the format."""
    assert find_usage(document(payload)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": 7},
        {"usage": [CHAT]},
        {"usage": {"prompt_tokens": None, "completion_tokens": None}},
        {"usage": {"prompt_tokens": "3", "input_tokens": 3.5}},
        {"usage": {"total_tokens": 49, "total_output_tokens": 42}},
        {"usage": {"total_tokens": None}},
        {"usage": {"type": "duration", "seconds": 3}},
        {"usageMetadata": None},
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
        {"usageMetadata": {"totalTokenCount": 43130}},
        {METRICS: None},
        {METRICS: {"invocationLatency": 3}},
        {"type": "message_start", "message": {"usage": {"input_tokens": None}}},
        {"type": "message_start", "message": {"usage": [3]}},
        {"type": "message", "usage": {"service_tier": "standard"}},
        {"x_groq": {"id": "req"}},
        {"x_groq": {"usage": None}},
        {"x_groq": "none"},
        {"type": "message_start"},
        {"type": "message_start", "message": {}},
        {"type": "message_start", "message": {"usage": None}},
        {"type": "response.created", "response": {"object": "response", "usage": None}},
        {"type": "response.created", "response": None},
        {"message": {"usage": CHAT}},
        {"choices": [{"message": {"usage": CHAT}}]},
        {"choices": [{}, {"usage": CHAT}]},
        {"choices": {"usage": CHAT}},
        {"type": "message_delta", "usage": {"iterations": [{"type": "message"}]}},
        {"type": "message_delta", "usage": {"iterations": "two"}},
    ],
)
def test_document_without_usage_has_no_report(payload: dict[str, Any]) -> None:
    """Null, empty objects, other values, and nested objects are not usage."""
    assert find_usage(document(payload)) is None


@given(st.lists(st.sampled_from([b"token", b"oken", b"s", b"Count", b'"', b"x" * 400, b"_"])))
@example([b"token", b"s", b'"', b"x" * 400, b"token"])
def test_last_count_equals_the_regular_expression(pieces: list[bytes]) -> None:
    """`last_count` finds the last match of the regular expression."""
    data = b"".join(pieces)
    positions = [match.start() for match in COUNT.finditer(data)]

    assert last_count(data, len(data)) == max(positions, default=-1)

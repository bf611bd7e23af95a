"""Costs that vendors report in the usage, and gateways in a header."""

from __future__ import annotations

import json
from decimal import Context, Decimal, Inexact, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import Cost, TokenUsage, UsageAccount
from tokenpulse_mw.usage.reported_cost import parse_cost, reported_cost

from ..support.chunks import split_at
from .bodies import measure

COUNTS = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
JSON, SSE = b"application/json", b"text/event-stream"


def body(**usage: Any) -> bytes:
    """Return the body of a chat completion with these fields in its usage."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}}
    document = {"object": "chat.completion", "model": "m", "choices": [choice]}
    return json.dumps({**document, "usage": {**COUNTS, **usage}}).encode()


def account_of(**usage: Any) -> UsageAccount:
    """Return the account of a complete response with these fields in its usage."""
    return measure(JSON, [body(**usage)])


@pytest.mark.parametrize(
    ("usage", "nanos"),
    [
        ({}, None),
        ({"cost": 0.00093}, 930_000),
        ({"cost": 0}, 0),
        ({"cost": 0.0}, 0),
        ({"cost": 2}, 2 * 10**9),
        ({"cost": 10_000}, 10**13),
        ({"cost": 1e-12}, 1),
        ({"cost": 0.00019199999999999998}, 192_000),
        ({"cost": 0.0145000000000001}, 14_500_000),
        ({"cost": None}, None),
        ({"cost": "0.5"}, None),
        ({"cost": True}, None),
        ({"cost": [1]}, None),
        ({"cost_in_usd_ticks": 37_756_000}, 3_775_600),
        ({"cost_in_usd_ticks": 1}, 1),
        ({"estimated_cost": 0.0000268}, 26_800),
        ({"cost": None, "cost_in_usd_ticks": None, "estimated_cost": 0.5}, 5 * 10**8),
        ({"cost": {"input_tokens_cost": 0.1, "request_cost": 0.2, "total_cost": 0.3}}, 3 * 10**8),
        ({"cost": {"currency": "USD", "total_cost": 0.3}}, 3 * 10**8),
        ({"cost": {"currency": "EUR", "total_cost": 0.3}}, None),
        ({"cost": {}}, None),
    ],
)
def test_cost_of_each_vendor_is_in_nano_dollars(usage: dict[str, Any], nanos: int | None) -> None:
    """The vendor's figure counts, to the nearest nano-dollar; a cost above 0 is never 0."""
    account = account_of(**usage)

    assert (account.cost_nanos, account.unreadable) == (nanos, 0)
    assert account.usage == TokenUsage(input=90, output=10)


@pytest.mark.parametrize(
    ("usage", "nanos"),
    [
        ({"cost": 0.95, "is_byok": True, "cost_details": {"upstream_inference_cost": 19}}, 19.95),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, 0.5),
        ({"cost": None, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.5}}, 0.5),
        ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": None}}, None),
        ({"cost": 0.05, "is_byok": True}, None),
        ({"cost": 0.5, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}, 0.5),
        ({"cost": 0.5, "cost_details": {"upstream_inference_cost": 0.5}}, 0.5),
    ],
)
def test_cost_with_a_key_of_the_user_includes_the_vendors_part(
    usage: dict[str, Any], nanos: float | None
) -> None:
    """OpenRouter's cost is its fee only if the user's own key pays the vendor (`is_byok`)."""
    expected = None if nanos is None else round(nanos * 10**9)

    assert account_of(**usage).cost_nanos == expected


@pytest.mark.parametrize(
    "usage",
    [
        {"cost": -1},
        {"cost": -1e-9},
        {"cost": 10_000.01},
        {"cost": 10**18},
        {"cost": 1e300},
        {"cost": {"total_cost": -1}},
        {"cost_in_usd_ticks": 10**15},
        {"estimated_cost": 1e9},
        {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": -5}},
    ],
)
def test_implausible_cost_is_ignored_and_counted(usage: dict[str, Any]) -> None:
    """A negative or absurd cost is neither clamped nor 0; the tokens beside it still count."""
    account = account_of(**usage)

    assert account.cost_nanos is None
    assert account.unreadable == 1
    assert (account.usage, account.source) == (TokenUsage(input=90, output=10), "reported")


def stream(*usages: dict[str, Any] | None) -> bytes:
    """Return a stream with one event for each usage, between events with text."""
    text = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    events = [json.dumps({"model": "m", "choices": [], "usage": usage}) for usage in usages]
    return b"".join(text + b"data: " + event.encode() + b"\n\n" for event in events) + text


@given(st.lists(st.integers(1, 300), max_size=8))
def test_cost_of_stream_is_that_of_the_last_usage_in_any_chunking(cuts: list[int]) -> None:
    """A stream reports its cost at the end; the chunks do not matter."""
    data = stream(None, {**COUNTS, "cost": 0.25}, {**COUNTS, "cost": 0.5})
    chunks = split_at(data, sorted({cut for cut in cuts if cut < len(data)}))

    account = measure(SSE, chunks)

    assert (account.cost_nanos, account.source) == (5 * 10**8, "reported")


def test_zeros_at_the_end_of_stream_keep_the_cost() -> None:
    """A usage of zeros after counts is unknown, and so is its cost."""
    zeros = {"prompt_tokens": 0, "completion_tokens": 0, "cost": 0}

    assert measure(SSE, [stream({**COUNTS, "cost": 0.5}, zeros)]).cost_nanos == 5 * 10**8


def test_cost_before_the_end_of_stream_is_not_that_of_the_response() -> None:
    """The cost in Anthropic's first event covers the input only; the last event has the rest."""
    usage = {"input_tokens": 9, "output_tokens": 1}
    first = {"type": "message_start", "message": {"usage": {**usage, "cost": 0}}}
    last = {"type": "message_delta", "usage": {"output_tokens": 42}}
    priced = {"type": "message_delta", "usage": {"output_tokens": 42, "cost": 0.5}}
    start, end, priced_end = [
        b"data: %s\n\n" % json.dumps(event).encode() for event in (first, last, priced)
    ]

    assert measure(SSE, [start], complete=False).cost_nanos is None
    assert measure(SSE, [start, end]).cost_nanos is None
    assert measure(SSE, [start, priced_end]).cost_nanos == 5 * 10**8


def test_later_usage_without_cost_replaces_one_with_a_cost() -> None:
    """The cost belongs to one usage, and is not that of another."""
    elements = [body(cost=0.5), body()]

    assert measure(JSON, [b"[" + b",".join(elements) + b"]"]).cost_nanos is None


def test_metrics_of_bedrock_keep_the_cost_of_the_usage() -> None:
    """Counts that are added from another source do not change what the vendor charges."""
    metrics = {"inputTokenCount": 9, "outputTokenCount": 42, "cacheReadInputTokenCount": 3}
    message = {"type": "message", "usage": {"input_tokens": 9, "output_tokens": 42, "cost": 0.5}}
    last = {"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics}
    events = [b"data: %s\n\n" % json.dumps(event).encode() for event in (message, last)]

    account = measure(SSE, events)

    assert account.usage == TokenUsage(input=12, output=42, cache_read=3)
    assert account.cost_nanos == 5 * 10**8


def test_cost_of_doubtful_usage_is_unknown() -> None:
    """A body without a media type may be text of the model, which could write any cost."""
    account = measure(b"", [body(cost=0.5)])

    assert (account.source, account.cost_nanos) == ("partial", None)


@pytest.mark.parametrize(
    ("value", "nanos"),
    [
        (b"0.00093", 930_000),
        (b" 3.45e-05 ", 34_500),
        (b"1E-12", 1),
        (b"2", 2 * 10**9),
        (b"2.", 2 * 10**9),
        (b"10000", 10**13),
        (b"1e+1", 10**10),
    ],
)
def test_cost_in_header_is_in_nano_dollars(value: bytes, nanos: int) -> None:
    """A header has dollars, as Python writes a float."""
    assert parse_cost(value) == nanos


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"None",
        b"0",
        b"0.0",
        b"0e5",
        b"-1",
        b"+1",
        b"10000.01",
        b"1e999",
        b"nan",
        b"inf",
        b"1_0",
        b"1,5",
        b"$1",
        b"1 2",
        b".5",
        b"0x1",
        b"1" * 65,
        "\u0661".encode(),
        b"\xff",
    ],
)
def test_header_that_is_not_a_cost_is_none(value: bytes) -> None:
    """Anything but a plausible cost is None; LiteLLM writes 0 for a model without a price."""
    assert parse_cost(value) is None


@given(st.floats(1e-9, 10_000))
def test_cost_in_header_is_exact(dollars: float) -> None:
    """Any float that a gateway prints is read to the nearest nano-dollar."""
    nanos = parse_cost(repr(dollars).encode())

    assert nanos is not None
    assert abs(Decimal(nanos).scaleb(-9) - Decimal(repr(dollars))) <= Decimal("5e-10")


@given(st.binary(max_size=80))
def test_any_header_is_a_cost_or_none(value: bytes) -> None:
    """No header raises, or has a cost outside the bounds."""
    nanos = parse_cost(value)

    assert nanos is None or 0 < nanos <= 10**13


def test_cost_is_exact_in_any_decimal_context() -> None:
    """An application may set another precision, or trap rounding."""
    usage = {
        "is_byok": True,
        "cost": 0.25,
        "cost_details": {"upstream_inference_cost": 1.123456789},
    }
    with localcontext(Context(prec=3, traps=[Inexact])):
        assert reported_cost(usage) == 1_373_456_789
        assert reported_cost({"cost_in_usd_ticks": 12_345_678_905}) == 1_234_567_890
        assert str(Cost(1_234_567_890).usd) == "1.234567890"

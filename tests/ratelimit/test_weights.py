"""Weights of the kinds of tokens."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Exchange, Limiter, Policy, TokenUsage
from tokenpulse_mw.ratelimit import TokenWeights
from tokenpulse_mw.ratelimit.policy import Charge, ChargeResult
from tokenpulse_mw.ratelimit.reservations import Reservations


@pytest.mark.parametrize(
    ("weights", "tokens"),
    [
        ({}, 150),
        ({"output": 4}, 300),
        ({"cache_read": 0.1}, 150 - 54),
        ({"input": 0, "cache_read": 0.1}, 50 + 6),
        ({"input": 2}, 250),  # also those of the cache, which have no weight of their own
        ({"cache_write": 1.25}, 155),
        ({"cache_write": 1.25, "cache_write_1h": 2}, 155 + 5 * 0.75 + 0.25),
        ({"cache_write_1h": 2}, 155),
        ({"reasoning": 0}, 120),
        ({"audio_input": 3, "audio_output": 2}, 150 + 8 + 2),
        ({"searches": 1000}, 2150),
    ],
)
def test_part_without_weight_has_that_of_its_whole(weights: Any, tokens: float) -> None:
    """`input` are the tokens in none of the parts with a weight; sums are rounded up."""
    usage = TokenUsage(
        input=100,
        output=50,
        cache_read=60,
        cache_write=20,
        cache_write_1h=5,
        reasoning=30,
        audio_input=4,
        audio_output=2,
        searches=2,
    )

    assert TokenWeights(weights).total(usage) == tokens


counts = st.integers(0, 10**6)
numbers = st.integers(0, 10_000).map(lambda milli: Decimal(milli) / 1000)


@given(
    *[counts] * 2,
    st.lists(counts, min_size=4, max_size=4),
    st.lists(numbers, min_size=6, max_size=6),
)
def test_sum_is_exact_and_between_the_lightest_and_the_heaviest_weight(
    read: int, written: int, parts: list[int], numbers: list[Decimal]
) -> None:
    """Even parts that exceed their whole count each token once."""
    kinds = ("cache_read", "cache_write", "audio_input", "reasoning")
    usage = TokenUsage(read, written, **dict(zip(kinds, parts, strict=True)))
    weights = dict(zip(("input", "output", *kinds), numbers, strict=True))

    total = TokenWeights(weights).total(usage)

    assert min(numbers) * usage.total <= total < max(numbers) * usage.total + 1


def test_weight_is_rounded_up_to_a_thousandth() -> None:
    """0.1 is exact, and 0.0001 counts as 0.001."""
    million = TokenUsage(input=10**6)

    assert TokenWeights({"input": 0.1}).total(million) == 100_000
    assert TokenWeights({"input": 0.0001}).total(million) == 1000
    assert TokenWeights({"output": 1.5}).written(3) == 5


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"total": 1}, "weights must be of input, output, cache_read, .* got 'total'"),
        ({"input": -1}, "weight of input must be a number from 0 to 1000, got -1"),
        ({"input": True}, "weight of input must be a number"),
        ({"input": "1"}, "weight of input must be a number"),
        ({"input": float("nan")}, "weight of input must be a number"),
        ({"input": 1001}, "weight of input must be a number"),
        ([1], "weights must be a mapping"),
    ],
)
def test_invalid_weights_are_rejected(weights: Any, error: str) -> None:
    """The error names the kind."""
    with pytest.raises(ValueError, match=error):
        Policy("100/minute", tokens=10, weights=weights)


def test_weights_need_a_limit_of_tokens() -> None:
    """A limit of requests has no kinds."""
    with pytest.raises(ValueError, match="weights need tokens, such as tokens=4000"):
        Policy("100/minute", weights={"output": 4})


@pytest.mark.parametrize(
    ("exchange", "used"),
    [
        ({"usage": TokenUsage(10, 5, cache_read=10), "status": 200}, 21),
        (
            {
                "usage": TokenUsage(10, 1),
                "status": 200,
                "usage_source": "partial",
                "events": 40,
            },
            10 + 30 * 4,
        ),
        ({"usage": TokenUsage(1, 1), "status": 200, "usage_doubtful": True}, 100),
        ({"status": 499, "events": 50}, 160),
        ({"status": 200, "events": 5}, 100),
        ({"status": 500}, 0),
    ],
)
def test_weighted_tokens_replace_the_reserve(exchange: Any, used: int) -> None:
    """Estimates of a truncated stream have the weight of output."""
    limiter = Limiter("1000/minute")
    policy = Policy(limiter, tokens=100, weights={"output": 4, "cache_read": 0.1})
    limiter.hit("ada", 100)
    reservations = Reservations(
        [ChargeResult(Charge(policy, "ada", 100), limiter.peek("ada"), limiter.clock())]
    )

    reservations.finished(Exchange(method="POST", started=0.0, **exchange))

    assert 1000 - limiter.peek("ada", 0).remaining == used

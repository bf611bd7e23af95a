"""Rates of a model: exact, additive and monotone costs."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, localcontext
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import astuple

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.rates import CompiledRates, Cost, Rates

MTOK = 1_000_000
FULL = Rates(
    input=3,
    output=15,
    cache_read="0.3",
    cache_write="3.75",
    cache_write_1h=6,
    audio_input=30,
    audio_output=60,
    request="0.001",
    search="0.01",
)


def cost(rates: Rates, usage: TokenUsage) -> Cost:
    """Return the cost of a usage, which these rates know."""
    known = rates.compile().cost(usage)
    assert known is not None
    return known


def usage_of(parts: Mapping[str, int]) -> TokenUsage:
    """Return a usage whose parts are disjoint, as no token is of two kinds."""
    written = parts["write_5m"] + parts["write_1h"]
    text = parts["text"] + parts["read"] + written
    return TokenUsage(
        input=text + parts["audio_in"],
        output=parts["out"] + parts["audio_out"],
        cache_read=parts["read"],
        cache_write=written,
        cache_write_1h=parts["write_1h"],
        audio_input=parts["audio_in"],
        audio_output=parts["audio_out"],
        searches=parts["searches"],
    )


NAMES = ("text", "read", "write_5m", "write_1h", "audio_in", "out", "audio_out", "searches")
parts = st.fixed_dictionaries(dict.fromkeys(NAMES, st.integers(0, 10**8)))
prices = st.decimals(0, 1_000_000, allow_nan=False, places=12) | st.integers(0, 1_000_000)
each = st.decimals(0, 1_000, allow_nan=False, places=20)
rates_of_any_model = st.builds(
    Rates,
    input=prices,
    output=prices,
    cache_read=prices,
    cache_write=prices,
    cache_write_1h=prices,
    audio_input=prices,
    audio_output=prices,
    request=each,
    search=each,
)


@given(rates_of_any_model, parts)
def test_cost_equals_decimal_arithmetic(rates: Rates, kinds: dict[str, int]) -> None:
    """The cost is the exact sum of products, rounded up once to a whole nano-dollar."""
    assert rates.cache_read is not None
    assert rates.cache_write is not None
    assert rates.cache_write_1h is not None
    assert rates.audio_input is not None
    assert rates.audio_output is not None
    assert rates.search is not None
    with localcontext(prec=100):
        tokens = (
            kinds["text"] * rates.input
            + kinds["read"] * rates.cache_read
            + kinds["write_5m"] * rates.cache_write
            + kinds["write_1h"] * rates.cache_write_1h
            + kinds["audio_in"] * rates.audio_input
            + kinds["out"] * rates.output
            + kinds["audio_out"] * rates.audio_output
        )
        usd = tokens / MTOK + rates.request + kinds["searches"] * rates.search
        nanos = int((usd * 10**9).to_integral_value(ROUND_CEILING))

    assert cost(rates, usage_of(kinds)) == Cost(nanos, is_minimum=False)


@given(rates_of_any_model, parts, parts)
def test_cost_is_additive_up_to_rounding(
    rates: Rates, first: dict[str, int], second: dict[str, int]
) -> None:
    """Two responses cost as much as their sum and one more request, up to rounding each up."""
    both = usage_of(first) + usage_of(second)
    request = cost(rates, TokenUsage()).nanos
    apart = cost(rates, usage_of(first)).nanos + cost(rates, usage_of(second)).nanos
    together = cost(rates, both).nanos + request

    assert -2 <= apart - together <= 2


@given(rates_of_any_model, parts, parts)
def test_cost_is_monotone(rates: Rates, first: dict[str, int], more: dict[str, int]) -> None:
    """A response with additional tokens or searches never costs less."""
    assert cost(rates, usage_of(first) + usage_of(more)).nanos >= cost(rates, usage_of(first)).nanos


@given(rates_of_any_model, st.lists(st.integers(0, 10**9), min_size=9, max_size=9))
@example(FULL, [5, 5, 9, 9, 9, 9, 9, 9, 9])
def test_cost_of_contradictory_usage_is_not_negative(rates: Rates, counts: list[int]) -> None:
    """Parts larger than the whole, which no vendor should report, still have a cost."""
    assert cost(rates, TokenUsage(*counts)).nanos >= 0


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        (TokenUsage(), "0.001"),
        (TokenUsage(input=MTOK), "3.001"),
        (TokenUsage(output=MTOK), "15.001"),
        (TokenUsage(output=MTOK, reasoning=MTOK), "15.001"),
        (TokenUsage(input=MTOK, cache_read=MTOK), "0.301"),
        (TokenUsage(input=MTOK, cache_write=MTOK), "3.751"),
        (TokenUsage(input=MTOK, cache_write=MTOK, cache_write_1h=MTOK), "6.001"),
        (TokenUsage(input=MTOK, audio_input=MTOK), "30.001"),
        (TokenUsage(output=MTOK, audio_output=MTOK), "60.001"),
        (TokenUsage(searches=100), "1.001"),
        (TokenUsage(2 * MTOK, MTOK, MTOK), "18.301"),
    ],
)
def test_each_kind_has_its_rate(usage: TokenUsage, usd: str) -> None:
    """A token costs the rate of its own kind, and each response the fee of a request."""
    assert cost(FULL, usage).usd == Decimal(usd)


@pytest.mark.parametrize(
    "usage",
    [
        TokenUsage(input=MTOK, cache_read=MTOK),
        TokenUsage(input=MTOK, cache_write=MTOK, cache_write_1h=MTOK // 2),
        TokenUsage(input=MTOK, audio_input=MTOK),
        TokenUsage(input=MTOK, cache_read=MTOK, audio_input=MTOK),
    ],
)
def test_kind_of_input_without_a_rate_costs_the_input(usage: TokenUsage) -> None:
    """Cached tokens and audio cost as much as other input unless they have rates."""
    assert cost(Rates(input=2, output=8), usage).usd == 2


def test_audio_that_is_written_to_the_cache_is_paid_once() -> None:
    """Audio that must also be a part of the cache costs the rate of the cache only."""
    assert cost(FULL, TokenUsage(MTOK, cache_write=MTOK, audio_input=MTOK)).usd == Decimal("3.751")
    usage = TokenUsage(2 * MTOK, cache_read=MTOK, cache_write=MTOK, audio_input=2 * MTOK)
    assert cost(FULL, usage).usd == Decimal("4.051")


def test_audio_output_without_a_rate_costs_the_output() -> None:
    """Audio of the model costs as much as its text unless it has a rate."""
    assert cost(Rates(input=2, output=8), TokenUsage(output=MTOK, audio_output=MTOK)).usd == 8


def test_hour_write_without_a_rate_costs_a_cache_write() -> None:
    """A cache write for an hour costs as much as any cache write unless it has a rate."""
    usage = TokenUsage(input=MTOK, cache_write=MTOK, cache_write_1h=MTOK)

    assert cost(Rates(input=2, output=8, cache_write=5), usage).usd == 5


def test_search_without_a_rate_makes_the_cost_a_minimum() -> None:
    """The price of a search is unknown without a rate; the tokens cost at least their part."""
    usage = TokenUsage(input=MTOK, searches=1)

    assert cost(Rates(input=2, output=8), usage) == Cost(2 * 10**9, is_minimum=True)


def test_cost_of_unknown_parts_only_is_unknown() -> None:
    """A cost of which nothing is known is None, and not a minimum of 0."""
    free = Rates(input=0, output=0).compile()

    assert free.cost(TokenUsage(input=5, searches=1)) is None


def test_rates_of_zero_cost_nothing() -> None:
    """A model that is free by its rates costs 0, which is known."""
    assert cost(Rates(input=0, output=0.0), TokenUsage(10, 20, 5)) == Cost(0, is_minimum=False)


@pytest.mark.parametrize("rate", ["0.000001", "1e-24", Decimal("1e-15"), 1e-7])
def test_smallest_cost_is_one_nano_dollar(rate: Any) -> None:
    """A usage that costs something never costs 0."""
    assert cost(Rates(input=rate, output=0), TokenUsage(input=1)).nanos == 1


def test_cost_of_audio_that_was_cached_is_the_cached_rate() -> None:
    """Audio beyond the uncached input must be cached audio, and is not paid for twice."""
    usage = TokenUsage(input=100, cache_read=60, audio_input=70)  # 30 of them cached
    expected = 30 * Decimal("0.3") + 30 * Decimal("0.3") + 40 * 30

    assert cost(FULL, usage).usd == expected / MTOK + Decimal("0.001")


def test_cached_audio_costs_the_rate_of_audio_if_the_cache_has_no_rate() -> None:
    """Without a rate of the cache, cached audio is audio."""
    usage = TokenUsage(input=MTOK, cache_read=MTOK, audio_input=MTOK)

    assert cost(Rates(input=2, output=8, audio_input=30), usage).usd == 30


def test_cached_audio_and_reasoning_may_have_rates_of_their_own() -> None:
    """Price lists have rates of cached audio and of reasoning."""
    rates = CompiledRates(
        {
            "input": Decimal(2),
            "audio_input": Decimal(30),
            "cache_read": Decimal(1),
            "cached_audio": Decimal(4),
            "output": Decimal(8),
            "reasoning": Decimal(3),
        }
    )

    assert rates.cost(TokenUsage(MTOK, cache_read=MTOK, audio_input=MTOK)) == Cost(4 * 10**9)
    assert rates.cost(TokenUsage(output=2 * MTOK, reasoning=MTOK)) == Cost(11 * 10**9)
    assert rates.cost(TokenUsage(output=MTOK, reasoning=2 * MTOK)) == Cost(3 * 10**9)


@pytest.mark.parametrize(("tokens", "usd"), [(1000, 1), (1001, 2), (5000, 2), (5001, 3)])
def test_tier_applies_to_all_tokens_above_its_start(tokens: int, usd: int) -> None:
    """The number of input tokens selects one rate for all of them."""
    steps = (
        (5000, CompiledRates({"input": Decimal(3)})),
        (1000, CompiledRates({"input": Decimal(2)})),
    )
    rates = CompiledRates({"input": Decimal(1)}, steps=steps)

    assert rates.cost(TokenUsage(input=tokens)) == Cost(tokens * usd * 1000)


def test_kind_that_a_list_has_no_price_for_makes_the_cost_a_minimum() -> None:
    """Output without a price is unknown if there is any, and input always."""
    embeddings = CompiledRates({"input": Decimal(2)})
    speech = CompiledRates({"output": Decimal(8)})

    assert embeddings.cost(TokenUsage(input=MTOK)) == Cost(2 * 10**9)
    assert embeddings.cost(TokenUsage(input=MTOK, output=1)) == Cost(2 * 10**9, is_minimum=True)
    assert speech.cost(TokenUsage(output=MTOK)) == Cost(8 * 10**9, is_minimum=True)


FIELDS = (
    "input",
    "output",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "audio_output",
    "request",
    "search",
)


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -0.01,
        "-1e-9",
        float("nan"),
        float("inf"),
        "NaN",
        "sNaN",
        "-Infinity",
        Decimal("Infinity"),
        1_000_001,
        "1e7",
        "1e999999",
        10**400,
        True,
        "",
        "three",
        "1" * 5000 + "x",
        b"1",
        [1],
    ],
)
@pytest.mark.parametrize("field", FIELDS)
def test_rate_that_is_not_a_price_is_rejected(field: str, value: Any) -> None:
    """A negative, infinite, absurd or missing number is an error that names the field."""
    arguments: dict[str, Any] = {"input": 1, "output": 1, field: value}

    with pytest.raises(ValueError, match=f"^{field} must be a number of US dollars") as error:
        Rates(**arguments)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("field", ["input", "output", "request"])
def test_rate_that_is_required_is_not_none(field: str) -> None:
    """None stands for an optional rate only."""
    arguments: dict[str, Any] = {"input": 1, "output": 1, field: None}

    with pytest.raises(ValueError, match=f"^{field} must be a number of US dollars"):
        Rates(**arguments)


@pytest.mark.parametrize("field", ["request", "search"])
def test_price_of_one_request_or_search_has_a_lower_bound_than_tokens(field: str) -> None:
    """More than 1,000 dollars for one search are a mistake in the unit."""
    arguments: dict[str, Any] = {"input": 1, "output": 1, field: 1001}

    with pytest.raises(ValueError, match=f"^{field} must be .* from 0 to 1,000, got 1001"):
        Rates(**arguments)


@pytest.mark.parametrize("value", ["1e-25", 1e-30, Decimal("1e-999999")])
def test_rate_with_too_many_decimal_places_is_rejected(value: Any) -> None:
    """A rate has at most 24 decimal places, so that sums stay short."""
    with pytest.raises(ValueError, match=r"^output must have at most 24 decimal places"):
        Rates(input=1, output=value)


@pytest.mark.parametrize("value", [2, 2.0, "2.000", " 2.00 ", "2e0", Decimal(2)])
def test_rates_may_be_of_any_kind_of_number(value: Any) -> None:
    """An int, a float, a text and a Decimal of the same number are the same rate."""
    assert Rates(input=value, output=1) == Rates(input=2, output=1)


def test_float_counts_as_the_number_that_is_printed() -> None:
    """0.1 is a tenth, and not the binary fraction beside it."""
    assert Rates(input=0.1, output=1).input == Decimal("0.1")
    assert cost(Rates(input=0.1, output=0), TokenUsage(input=10 * MTOK)).usd == 1


def test_largest_usage_at_the_largest_rates_is_exact() -> None:
    """The bounds of rates and counts do not overflow."""
    rates = Rates(input=1_000_000, output=1_000_000, request=1_000, search=1_000)
    usage = TokenUsage(input=10**9, output=10**9, searches=10**9)

    assert cost(rates, usage).usd == 10**9 + 10**9 + 1_000 + 1_000 * 10**9


def test_usage_has_no_kind_without_a_rate() -> None:
    """A new kind of usage needs a rate, or it would be free."""
    assert len(astuple(TokenUsage())) == len(("reasoning", *FIELDS)) - len(("request",))

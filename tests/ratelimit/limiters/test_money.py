"""Amounts of money in micro-dollars."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.limiters.money import (
    MAX_MICROS,
    format_money,
    from_dollars,
    from_nanos,
    parse_money,
)


@pytest.mark.parametrize(
    ("text", "micros"),
    [("20 USD", 20_000_000), ("0.05USD", 50_000), (" 0.000001 usd ", 1), ("0 USD", 0)],
)
def test_amount_is_parsed_exactly(text: str, micros: int) -> None:
    """An amount has at most six decimals, and no float is involved."""
    assert parse_money("reserve", text) == micros


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("5 EUR", "reserve must be in USD, .* got 'EUR' in '5 EUR'"),
        ("5", "such as '0.05 USD', got '5'"),
        ("USD 5", "reserve must be an amount of US dollars .* got 'USD 5'"),
        ("-1 USD", "reserve must be an amount of US dollars"),
        ("0.0000001 USD", "reserve must be an amount of US dollars with at most 6 decimals"),
        (
            "281474977 USD",
            "reserve must be an amount from 0 to 281474976.710655 USD",
        ),
        (5, "reserve must be an amount of US dollars"),
    ],
)
def test_invalid_amount_is_rejected(text: Any, error: str) -> None:
    """The error names the parameter, the only currency and what it got."""
    with pytest.raises(ValueError, match=error):
        parse_money("reserve", text)


@pytest.mark.parametrize("dollars", ["NaN", "Infinity", "-0.1"])
def test_amount_that_is_not_a_budget_is_rejected(dollars: str) -> None:
    """Dollars are finite and not negative."""
    with pytest.raises(ValueError, match="reserve must be an amount from 0 to"):
        from_dollars("reserve", Decimal(dollars))


def test_parts_of_a_micro_dollar_are_rounded_up() -> None:
    """A cost is never too low."""
    assert [from_nanos(nanos) for nanos in (0, 1, 1000, 1001)] == [0, 1, 1, 2]
    assert from_dollars("reserve", Decimal("0.0000001")) == 1


@given(st.integers(0, MAX_MICROS))
def test_written_amount_is_parsed_to_itself(micros: int) -> None:
    """The text of an amount is exact."""
    assert parse_money("reserve", format_money(micros)) == micros

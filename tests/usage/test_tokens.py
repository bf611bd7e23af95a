"""Token counts of one response, and the values that are counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.tokens import MOST, count, get_object, has_count

usages = st.builds(TokenUsage, *[st.integers(0, MOST)] * 5)


def test_total_is_the_sum_of_input_and_output() -> None:
    """The total excludes cache and reasoning, which are parts of input and output."""
    assert TokenUsage(input=10, output=4, cache_read=8, cache_write=1, reasoning=3).total == 14


def test_usages_are_added_field_by_field() -> None:
    """The sum of two usages has the sum of each field."""
    assert TokenUsage(1, 2, 3, 4, 5) + TokenUsage(10, 20, 30, 40, 50) == TokenUsage(
        input=11, output=22, cache_read=33, cache_write=44, reasoning=55
    )


@pytest.mark.parametrize(
    "usage",
    [
        TokenUsage(input=MOST + 1),
        TokenUsage(output=MOST + 1),
        TokenUsage(input=MOST, output=1),
        TokenUsage(cache_read=MOST + 1),
        TokenUsage(cache_write=MOST + 1),
        TokenUsage(reasoning=MOST + 1),
        TokenUsage(input=10**300),
    ],
)
def test_usage_above_a_billion_is_implausible(usage: TokenUsage) -> None:
    """Usage is implausible if a count, or the sum of input and output, is above 10**9."""
    assert usage.is_plausible is False


def test_usage_of_a_billion_is_plausible() -> None:
    """Counts of exactly 10**9 are plausible."""
    assert TokenUsage(MOST - 1, 1, MOST, MOST, MOST).is_plausible is True


@given(usages, usages)
def test_total_of_a_sum_is_the_sum_of_totals(first: TokenUsage, second: TokenUsage) -> None:
    """The total of added usages is the sum of their totals."""
    assert (first + second).total == first.total + second.total


@pytest.mark.parametrize("number", [0, 1, 2**53 - 1, 2**53, int(1e300)])
def test_count_of_a_whole_number_is_an_int(number: int) -> None:
    """A whole number from 0 on is a count, even if it is written as 12.0."""
    assert count({"tokens": number}, "tokens") == number
    assert count({"tokens": float(number)}, "tokens") == number
    assert type(count({"tokens": float(number)}, "tokens")) is int


@pytest.mark.parametrize(
    "value",
    [
        None,
        2.5,
        -1,
        -1.0,
        "7",
        True,
        False,
        float("inf"),
        float("nan"),
        [7],
        {"n": 7},
    ],
)
def test_count_of_any_other_value_is_zero(value: Any) -> None:
    """Null, fractions, negative numbers, strings, booleans and infinities count as 0."""
    assert count({"tokens": value}, "tokens") == 0


@pytest.mark.parametrize("fields", [{"a": 0}, {"b": 7}, {"a": None, "b": 0}])
def test_has_count_with_a_count_under_any_name_is_true(fields: dict[str, Any]) -> None:
    """One count is enough, and zero is a count."""
    assert has_count(fields, "a", "b") is True


@pytest.mark.parametrize("fields", [{}, {"c": 1}, {"a": None, "b": "7"}, {"a": -1}, {"b": 1.5}])
def test_has_count_without_a_count_is_false(fields: dict[str, Any]) -> None:
    """Missing names and values that are not counts give False."""
    assert has_count(fields, "a", "b") is False


def test_count_of_missing_names_is_zero() -> None:
    """A count is 0 if none of the names is present."""
    assert count({}, "tokens", "other_tokens") == 0


def test_count_is_the_first_one_above_zero() -> None:
    """Counts under several names are never added; the first one above 0 is returned."""
    fields = {"a": None, "b": 5, "c": 7}

    assert count(fields, "a", "b", "c") == 5
    assert count({"a": 0, "b": 5}, "a", "b") == 5


@pytest.mark.parametrize("value", [None, 3, "text", [1], True])
def test_get_object_of_another_value_is_empty(value: Any) -> None:
    """A value that is not an object gives an empty object."""
    assert get_object({"details": value}, "details") == {}


def test_get_object_returns_the_object() -> None:
    """The object under the name is returned; a missing name gives an empty object."""
    assert get_object({"details": {"cached": 3}}, "details") == {"cached": 3}
    assert get_object({}, "details") == {}

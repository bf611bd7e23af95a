"""Token counts: what adds up, and what is no count at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.usage.tokens import MOST, count, get_object, has_count

usages = st.builds(TokenUsage, *[st.integers(0, MOST)] * 5)


def test_total_is_what_was_read_and_written() -> None:
    """Cache and reasoning are parts of what was read and written, so the total leaves them out."""
    assert TokenUsage(input=10, output=4, cache_read=8, cache_write=1, reasoning=3).total == 14


def test_two_usages_add_up_field_by_field() -> None:
    """The usage of two answers is the sum of each kind."""
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
    """No count of one response and no sum of its counts is above 10**9."""
    assert usage.is_plausible is False


def test_usage_of_a_billion_is_plausible() -> None:
    """The bound itself can still be reached."""
    assert TokenUsage(MOST - 1, 1, MOST, MOST, MOST).is_plausible is True


@given(usages, usages)
def test_the_total_of_a_sum_is_the_sum_of_the_totals(one: TokenUsage, other: TokenUsage) -> None:
    """Adding up answers first or totals first is the same."""
    assert (one + other).total == one.total + other.total


@pytest.mark.parametrize("number", [0, 1, 2**53 - 1, 2**53, int(1e300)])
def test_whole_numbers_are_counts(number: int) -> None:
    """A count is a whole number from 0 on, also if it is written as 12.0, and however large."""
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
def test_what_is_no_count_is_none_at_all(value: Any) -> None:
    """Null, fractions, negatives, strings, booleans and infinities count as 0."""
    assert count({"tokens": value}, "tokens") == 0


@pytest.mark.parametrize("fields", [{"a": 0}, {"b": 7}, {"a": None, "b": 0}])
def test_a_usable_count_under_any_of_the_names_is_known(fields: dict[str, Any]) -> None:
    """Zero is a count too, and one of the names is enough."""
    assert has_count(fields, "a", "b") is True


@pytest.mark.parametrize("fields", [{}, {"c": 1}, {"a": None, "b": "7"}, {"a": -1}, {"b": 1.5}])
def test_no_usable_count_is_known_as_such(fields: dict[str, Any]) -> None:
    """What stands under the names is no count, or nothing stands there."""
    assert has_count(fields, "a", "b") is False


def test_a_count_that_is_absent_is_zero() -> None:
    """What a vendor does not mention has cost nothing."""
    assert count({}, "tokens", "other_tokens") == 0


def test_the_first_name_with_a_count_above_0_counts() -> None:
    """Of several spellings of one count one is taken; they are never added, and 0 is none."""
    fields = {"a": None, "b": 5, "c": 7}

    assert count(fields, "a", "b", "c") == 5
    assert count({"a": 0, "b": 5}, "a", "b") == 5


@pytest.mark.parametrize("value", [None, 3, "text", [1], True])
def test_a_part_that_is_no_object_is_empty(value: Any) -> None:
    """Where an object is expected, anything else is an empty one."""
    assert get_object({"details": value}, "details") == {}


def test_a_part_is_the_object_under_its_name() -> None:
    """Details stand in an object of their own."""
    assert get_object({"details": {"cached": 3}}, "details") == {"cached": 3}
    assert get_object({}, "details") == {}

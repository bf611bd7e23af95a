"""Checks of arguments and settings."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tokenpulse_mw.validation import (
    check_bool,
    check_choice,
    check_integer,
    check_positive,
    check_seconds,
    check_strings,
)


@pytest.mark.parametrize("seconds", [1, 0.25, 1e300])
def test_seconds_above_0_are_accepted(seconds: float) -> None:
    """A number of seconds may be an integer or a float."""
    check_seconds("timeout", seconds)


@pytest.mark.parametrize("seconds", [0, -1, math.inf, math.nan, "5", None, True])
def test_invalid_seconds_are_refused(seconds: Any) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(
        ValueError, match=r"^timeout must be a number of seconds above 0, got "
    ) as caught:
        check_seconds("timeout", seconds)
    assert str(caught.value).endswith(f"got {seconds!r}")


def test_zero_seconds_are_accepted_if_the_parameter_allows_them() -> None:
    """With `zero`, the smallest value is 0."""
    check_seconds("delay", 0, zero=True)

    with pytest.raises(ValueError, match=r"^delay must be a number of seconds, 0 or more, got -1$"):
        check_seconds("delay", -1, zero=True)


def test_seconds_up_to_the_maximum_are_accepted() -> None:
    """The maximum itself is valid."""
    check_seconds("timeout", 600, maximum=600)

    with pytest.raises(ValueError, match=r"^timeout must be .* above 0 and at most 600, got 601$"):
        check_seconds("timeout", 601, maximum=600)


def test_integers_in_the_range_are_returned() -> None:
    """Both ends of the range belong to it."""
    assert check_integer("limit", 1) == 1
    assert [check_integer("port", port, minimum=0, maximum=2) for port in (0, 2)] == [0, 2]


@pytest.mark.parametrize("value", [0, -1, 1.5, "5", None, True], ids=repr)
def test_other_integers_are_refused(value: Any) -> None:
    """The error names the smallest integer."""
    with pytest.raises(
        ValueError, match=rf"^limit must be an integer of at least 1, got {value!r}$"
    ):
        check_integer("limit", value)


def test_an_integer_above_the_maximum_is_refused() -> None:
    """The error names the range."""
    with pytest.raises(ValueError, match=r"^port must be an integer from 1 to 9, got 10$"):
        check_integer("port", 10, maximum=9)


@pytest.mark.parametrize("value", ["false", 1, None])
def test_a_bool_is_not_guessed(value: Any) -> None:
    """Only True and False are valid."""
    assert check_bool("enforce", False) is False

    with pytest.raises(ValueError, match=rf"^enforce must be True or False, got {value!r}$"):
        check_bool("enforce", value)


def test_a_choice_is_one_of_the_list() -> None:
    """The error lists the choices."""
    assert check_choice("on_error", "deny", ("allow", "deny")) == "deny"

    with pytest.raises(ValueError, match=r"^on_error must be one of allow, deny, got 'ask'$"):
        check_choice("on_error", "ask", ("allow", "deny"))


@pytest.mark.parametrize("value", ["openai", b"openai", 3, None, ["openai", 3]], ids=repr)
def test_a_list_of_strings_is_not_a_single_string(value: Any) -> None:
    """A single string would be read as its characters."""
    assert check_strings("providers", iter(["a", "b"]), "['openai']") == ("a", "b")

    with pytest.raises(
        ValueError, match=r"^providers must be a list of strings, such as \['openai'\], got "
    ):
        check_strings("providers", value, "['openai']")


@pytest.mark.parametrize("value", [0, -1, math.nan, "5", None])
def test_numbers_above_0_are_positive(value: Any) -> None:
    """The error names the parameter."""
    check_positive(interval=0.5, cooldown=math.inf)

    with pytest.raises(ValueError, match=rf"^interval must be a number above 0, got {value!r}$"):
        check_positive(interval=value)

"""Rate strings."""

from __future__ import annotations

import pytest

from tokenpulse_mw.ratelimit.limiters.rate import Rate, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/minute", Rate(100, 60)),
        ("1000 per day", Rate(1000, 86400)),
        ("5 per 10 seconds", Rate(5, 10)),
        ("1/month", Rate(1, 30 * 86400)),
    ],
)
def test_rate_string_is_parsed_as_in_limits(text: str, rate: Rate) -> None:
    """The notation is that of the `limits` package."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("fast", "limit must be one rate such as '100/minute', .* got 'fast'"),
        ("", "limit must be one rate .* got ''"),
        ("1/fortnight", "limit must be one rate .* got '1/fortnight'"),
        ("1/second;5/minute", "limit must be one rate .* got '1/second;5/minute'"),
        ("0/minute", "limit must have numbers of at least 1, got '0/minute'"),
        ("5 per 0 seconds", "limit must have numbers of at least 1, got '5 per 0 seconds'"),
        (100, "limit must be one rate .* got 100"),
        ("9223372036854775808/day", "limit must allow at most 281474976710655 per window, got"),
        ("1 per 1000 years", "limit must have a window of at most 100 years, got"),
        ("1/minute; 5/day", "for several rates, use several policies"),
    ],
)
def test_invalid_rate_string_is_rejected(text: str, error: str) -> None:
    """The error names the parameter, the expected value and the value it got."""
    with pytest.raises(ValueError, match=error):
        parse_rate(text)

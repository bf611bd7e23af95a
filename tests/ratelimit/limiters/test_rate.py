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
        ("0/minute", Rate(0, 60)),
    ],
)
def test_rate_string_is_parsed_as_in_limits(text: str, rate: Rate) -> None:
    """The notation is that of the `limits` package."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("20 USD/day", Rate(20_000_000, 86400, "USD")),
        ("0.05 usd per 10 minutes", Rate(50_000, 600, "USD")),
        ("1000/calendar day", Rate(1000, 26 * 3600, None, "day")),
        ("100 USD per Calendar Month", Rate(100_000_000, 31 * 86400 + 7200, "USD", "month")),
    ],
)
def test_money_and_calendar_are_parsed_exactly(text: str, rate: Rate) -> None:
    """Money is in micro-dollars; a calendar window has the length of the largest one."""
    assert parse_rate(text) == rate
    assert parse_rate(str(rate)) == rate


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("fast", "limit must be one rate such as '100/minute', .* got 'fast'"),
        ("", "limit must be one rate .* got ''"),
        ("1/fortnight", "limit must be one rate .* got '1/fortnight'"),
        ("1/second;5/minute", "limit must be one rate .* got '1/second;5/minute'"),
        ("5 per 0 seconds", "limit must have numbers of at least 1 in its window, got '5 per 0 "),
        ("20 EUR/day", "limit must be in USD, such as '20 USD/day' .* got 'EUR' in '20 EUR/day'"),
        ("20 €/day", "limit must be in USD, .* got '€'"),
        ("$20/day", "write the currency after the amount, such as '20 USD/day'"),
        ("20 USD", "got '20 USD': add the window, such as '20 USD/day'"),
        ("100", "got '100': add the window, such as '100/minute'"),
        ("1,000/day", "got '1,000/day': write the number without a comma, such as '1000'"),
        ("20 USD/dya", "got '20 USD/dya': the window must be second, minute, hour, day, month or"),
        ("5 per calender day", "year, or calendar hour, day, week, month, year$"),
        ("1 USD per 0 days", "limit must have numbers of at least 1 in its window, got '1 USD per"),
        ("1/calendar fortnight", "limit must be one rate"),
        ("999999999 USD/day", "limit must be an amount from 0 to 281474976.710655 USD"),
        ("281474976710656/calendar day", "limit must allow at most 281474976710655 per window"),
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

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
def test_rates_are_written_as_in_limits(text: str, rate: Rate) -> None:
    """The `limits` package reads them; what comes out are an amount and seconds."""
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "limit 'fast' is not a rate: expected one rate such as '100/minute'"),
        ("", "limit '' is not a rate"),
        ("1/fortnight", "limit '1/fortnight' is not a rate"),
        ("1/second;5/minute", "limit '1/second;5/minute' is not a rate"),
        ("0/minute", "limit '0/minute' must be above 0"),
        ("5 per 0 seconds", "limit '5 per 0 seconds' must be above 0"),
        (100, "limit 100 is not a rate"),
        ("9223372036854775808/day", "is too large"),
        ("1 per 1000 years", "has too long a window: expected at most 100 years"),
        ("1/minute; 5/day", "for several, give several policies"),
    ],
)
def test_what_is_no_rate_is_refused(text: str, said: str) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match=said):
        parse_rate(text)

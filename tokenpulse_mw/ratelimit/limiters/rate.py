"""Rate strings: "100/minute", as in the `limits` package; "20 USD/day"; "1000/calendar day"."""

from __future__ import annotations

import re
from collections.abc import Sized
from decimal import Decimal
from typing import NamedTuple

from ...validation import check_seconds
from .calendar import PERIODS
from .money import CURRENCY, check_currency, format_money, from_dollars

MAX_SECONDS = 100 * 366 * 86_400  # of a window or a block: 100 years
_MAX_CHARGE = 2**53  # floats and the numbers of storages are exact up to here
_MAX_LIMIT = 2**48 - 1  # largest count in a cell of the sketch

# The amount, an optional currency, and the window with its "/" or "per".
_MONEY = re.compile(
    r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([^\W\d_]+|[$€£¥])\s*((?:/|per\b).*)", re.ASCII
)
_SIGN = re.compile(r"\s*[$€£¥]\s*[0-9]")
_NO_WINDOW = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,6})?(?:\s*USD)?", re.ASCII | re.IGNORECASE)
_ANY_WINDOW = re.compile(
    r"[0-9]{1,15}(?:(?:\.[0-9]{1,6})?\s*USD)?\s*(?:/|per\b)", re.ASCII | re.IGNORECASE
)
_CALENDAR = re.compile(
    rf"\s*([0-9]{{1,30}})\s*(?:/|per\b)\s*calendar\s+({'|'.join(PERIODS)})\s*",
    re.ASCII | re.IGNORECASE,
)


class Rate(NamedTuple):
    """At most `amount` per window.

    Attributes:
        amount: Requests, tokens or micro-dollars per window; 0 blocks.
        seconds: Length of the window; of a calendar window, the largest one.
        currency: "USD" if `amount` are micro-dollars, else None.
        period: "hour", "day", "week", "month" or "year" of a calendar window, else None.
    """

    amount: int
    seconds: int
    currency: str | None = None
    period: str | None = None

    def __str__(self) -> str:
        amount = str(self.amount) if self.currency is None else format_money(self.amount)
        return f"{amount} per {window_text(self.seconds, self.period)}"


def window_text(seconds: int, period: str | None) -> str:
    """Return a window in words, such as "minute", "10 seconds" or "calendar month"."""
    if period is not None:
        return f"calendar {period}"
    size, word = next(entry for entry in _UNITS if seconds % entry[0] == 0)
    count = seconds // size
    return word if count == 1 else f"{count} {word}s"


_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_WINDOWS = f"second, minute, hour, day, month or year, or calendar {', '.join(PERIODS)}"


def parse_rate(limit: str) -> Rate:
    """Parse one rate: "100/minute", "5 per 10 seconds", "20 USD/day", "1000/calendar day".

    Raises:
        ValueError: `limit` is not a single rate, its currency is not USD, or a number in it is
            too large. An amount of 0 is a rate; a window of 0 is not.
    """
    if callable(limit):
        raise ValueError(
            f"limit must be a rate such as '100/minute', got {limit!r}: for a rate that depends on "
            "the key, use PlanLimiter(function), which counts in this process"
        )
    money = _MONEY.fullmatch(limit) if isinstance(limit, str) else None
    if money is None:
        return _parse_count(limit)
    check_currency("limit", money[2], limit, example="20 USD/day")
    amount = from_dollars("limit", Decimal(money[1]))
    window = _parse_count(f"1{money[3]}", limit)
    return Rate(amount, window.seconds, CURRENCY, window.period)


def parse_change(
    limit: str, rate: Rate, seconds: float | None = None, *, fixed: str = ""
) -> Rate | None:
    """Parse the rate that replaces `rate`; None for an amount of 0, which blocks.

    "0" without a window is accepted too.

    Args:
        limit: New rate.
        rate: Present rate.
        seconds: Duration of a block.
        fixed: Reason why the window must stay; empty if it may change.

    Raises:
        ValueError: `limit` is not a rate, or has another currency, calendar period or fixed window;
            or `seconds` are not a duration of a block.
    """
    if seconds is not None:
        check_seconds("seconds", seconds, maximum=MAX_SECONDS)
    if not isinstance(limit, str):
        raise ValueError(f"limit must be a rate such as '100/minute', got {limit!r}")
    if limit.strip() == "0":
        return None
    new = parse_rate(limit)
    if seconds is not None and new.amount:
        raise ValueError(f"seconds must be None unless the limit is 0, got {seconds!r}")
    if new.currency != rate.currency:
        unit = "an amount in USD" if rate.currency else "a number without a currency"
        raise ValueError(f"limit must be {unit} as before, got {limit!r}")
    if new.period != rate.period:
        window = f"be per calendar {rate.period}" if rate.period else "have no calendar window"
        raise ValueError(f"limit must {window} as before, got {limit!r}")
    if not new.amount:
        return None
    if fixed and new.seconds != rate.seconds:
        raise ValueError(
            f"limit must keep its window {fixed}, got {new.seconds} s instead of {rate.seconds} s"
        )
    return new


class Changes:
    """Counter of the limits that were changed at run time in this process.

    Attributes:
        count: Number of changes. Compare it to know whether a description of limits is current.
    """

    count = 0


def _parse_count(text: str, limit: str | None = None) -> Rate:
    """Parse a rate without currency, which is a part of `limit`."""
    limit = text if limit is None else limit
    calendar = _CALENDAR.fullmatch(text) if isinstance(text, str) else None
    if calendar is not None:
        period = calendar[2].lower()
        return Rate(_checked(int(calendar[1]), limit), PERIODS[period], None, period)
    from limits import parse_many  # imports the drivers of all storages that are installed

    try:
        items = parse_many(text)
    except ValueError:
        items = []
    if len(items) != 1:
        raise ValueError(
            "limit must be one rate such as '100/minute', '1000 per day', '5 per 10 seconds', "
            f"'20 USD/day' or '100/calendar month', got {limit!r}{_hint(limit, items)}"
        )
    if any(int(number) == 0 for number in re.findall(r"[0-9]+", text)[1:]):
        raise ValueError(f"limit must have numbers of at least 1 in its window, got {limit!r}")
    if items[0].get_expiry() > MAX_SECONDS:
        raise ValueError(f"limit must have a window of at most 100 years, got {limit!r}")
    return Rate(_checked(items[0].amount, limit), items[0].get_expiry())


def _checked(amount: int, limit: str) -> int:
    if amount > _MAX_LIMIT:
        raise ValueError(f"limit must allow at most {_MAX_LIMIT} per window, got {limit!r}")
    return amount


def _hint(limit: object, items: Sized) -> str:
    """Return how to fix a string that is not one rate; empty if unknown."""
    if items:
        return ": for several rates, use several policies"
    text = str(limit).strip()
    if _SIGN.match(text):
        return ": write the currency after the amount, such as '20 USD/day'"
    if "," in text:
        return ": write the number without a comma, such as '1000' or '0.5 USD'"
    if _NO_WINDOW.fullmatch(text):
        return f": add the window, such as '{text}/{'minute' if text.isdigit() else 'day'}'"
    if _ANY_WINDOW.match(text):
        return f": the window must be {_WINDOWS}"
    return ""


def check_amount(amount: int) -> int:
    """Return `amount`, clipped to the range that can be counted exactly.

    Raises:
        ValueError: `amount` is not an integer.
    """
    if type(amount) is not int:
        raise ValueError(f"amount must be an integer, got {amount!r}")
    return max(-_MAX_CHARGE, min(amount, _MAX_CHARGE))

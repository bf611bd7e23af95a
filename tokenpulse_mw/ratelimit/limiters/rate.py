"""Rate strings such as "100/minute", as the `limits` package writes them."""

from __future__ import annotations

import re
from typing import NamedTuple

import limits

_MAX_WINDOW_SECONDS = 100 * 366 * 86_400  # seconds
_MOST_AMOUNT = 2**53  # floats, and the numbers of the storages, are exact up to here
_MAX_AMOUNT = 2**48 - 1  # what the sketch of a full table has room for; floats are exact so far


class Rate(NamedTuple):
    """At most `amount` in any window of `seconds`."""

    amount: int
    seconds: int


def parse_rate(limit: str) -> Rate:
    """Read one rate: "100/minute", "1000 per day", "5 per 10 seconds".

    Raises:
        ValueError: `limit` is not one rate, or allows nothing at all.
    """
    try:
        items = limits.parse_many(limit)
    except ValueError:
        items = []
    if len(items) != 1:
        raise ValueError(
            f"limit {limit!r} is not a rate: expected one rate such as '100/minute', "
            "'1000 per day' or '5 per 10 seconds' (for several, give several policies)"
        )
    if any(int(number) == 0 for number in re.findall(r"[0-9]+", limit)):
        raise ValueError(f"limit {limit!r} must be above 0: every number in it must be at least 1")
    if items[0].amount > _MAX_AMOUNT:
        raise ValueError(f"limit {limit!r} is too large: expected at most {_MAX_AMOUNT}")
    if items[0].get_expiry() > _MAX_WINDOW_SECONDS:
        raise ValueError(f"limit {limit!r} has too long a window: expected at most 100 years")
    return Rate(items[0].amount, items[0].get_expiry())


def check_cost(cost: int) -> int:
    """`cost`, if it is one.

    Raises:
        ValueError: `cost` is negative, or no whole number.
    """
    if type(cost) is not int or cost < 0:
        raise ValueError(f"cost must be a whole number of at least 0, got {cost!r}")
    return cost


def check_amount(amount: int) -> int:
    """Return `amount`, cut to what can be counted exactly.

    Raises:
        ValueError: `amount` is not a whole number.
    """
    if type(amount) is not int:
        raise ValueError(f"amount must be a whole number, got {amount!r}")
    return max(-_MOST_AMOUNT, min(amount, _MOST_AMOUNT))

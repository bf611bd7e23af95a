"""Rate strings such as "100/minute", in the notation of the `limits` package."""

from __future__ import annotations

import re
from collections.abc import Sized
from typing import NamedTuple

_MAX_WINDOW_SECONDS = 100 * 366 * 86_400  # seconds
_MAX_CHARGE = 2**53  # floats and the numbers of storages are exact up to here
_MAX_LIMIT = 2**48 - 1  # largest count in a cell of the sketch


class Rate(NamedTuple):
    """At most `amount` per window of `seconds`."""

    amount: int
    seconds: int


def parse_rate(limit: str) -> Rate:
    """Parse one rate: "100/minute", "1000 per day", "5 per 10 seconds".

    Raises:
        ValueError: `limit` is not a single rate, or a number in it is 0 or too large.
    """
    if callable(limit):
        raise ValueError(
            f"limit must be a rate such as '100/minute', got {limit!r}: for a rate that depends on "
            "the key, use PlanLimiter(function), which counts in this process"
        )
    from limits import parse_many  # imports the drivers of all storages that are installed

    try:
        items = parse_many(limit)
    except ValueError:
        items = []
    if len(items) != 1:
        raise ValueError(
            "limit must be one rate such as '100/minute', '1000 per day' or '5 per 10 seconds', "
            f"got {limit!r}{_hint(limit, items)}"
        )
    if any(int(number) == 0 for number in re.findall(r"[0-9]+", limit)):
        raise ValueError(f"limit must have numbers of at least 1, got {limit!r}")
    if items[0].amount > _MAX_LIMIT:
        raise ValueError(f"limit must allow at most {_MAX_LIMIT} per window, got {limit!r}")
    if items[0].get_expiry() > _MAX_WINDOW_SECONDS:
        raise ValueError(f"limit must have a window of at most 100 years, got {limit!r}")
    return Rate(items[0].amount, items[0].get_expiry())


def _hint(limit: object, items: Sized) -> str:
    """Return how to fix a string that is not one rate; empty if unknown."""
    if items:
        return ": for several rates, use several policies"
    number = str(limit).strip()
    return f": add the window, such as '{number}/minute'" if number.isdigit() else ""


def check_amount(amount: int) -> int:
    """Return `amount`, clipped to the range that can be counted exactly.

    Raises:
        ValueError: `amount` is not an integer.
    """
    if type(amount) is not int:
        raise ValueError(f"amount must be an integer, got {amount!r}")
    return max(-_MAX_CHARGE, min(amount, _MAX_CHARGE))

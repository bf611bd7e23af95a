"""Amounts of money, as integers of micro-dollars (millionths of a US dollar)."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

CURRENCY = "USD"
MICROS = 1_000_000  # micro-dollars of a dollar
CENT = 10_000
MAX_MICROS = 2**48 - 1  # about 281 million dollars; the largest count in a cell of the sketch

_NANOS = 1000  # nano-dollars of a micro-dollar
_AMOUNT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*(\D*)", re.ASCII)
_EXPECTED = "an amount of US dollars with at most 6 decimals, such as '0.05 USD'"


def parse_money(name: str, text: str) -> int:
    """Return the micro-dollars of an amount such as "20 USD" or "0.05 USD".

    Args:
        name: Name of the parameter, for the error.
        text: Amount and currency.

    Raises:
        ValueError: `text` is not an amount, is too large, or has another currency than USD.
    """
    match = _AMOUNT.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not match[2]:
        raise ValueError(f"{name} must be {_EXPECTED}, got {text!r}")
    check_currency(name, match[2], text)
    return from_dollars(name, Decimal(match[1]))


def check_currency(name: str, currency: str, text: str, *, example: str = "0.05 USD") -> str:
    """Return the currency in upper case.

    Args:
        name: Name of the parameter, for the error.
        currency: Currency in `text`.
        text: The whole value.
        example: A valid value.

    Raises:
        ValueError: It is not USD.
    """
    if currency.upper() != CURRENCY:
        raise ValueError(
            f"{name} must be in {CURRENCY}, such as {example!r} (the only currency, because "
            f"vendors bill in it), got {currency!r} in {text!r}"
        )
    return CURRENCY


def from_dollars(name: str, dollars: Decimal) -> int:
    """Return the micro-dollars of an amount of dollars, rounded up.

    Raises:
        ValueError: The amount is negative, not finite, or too large.
    """
    if not (dollars.is_finite() and 0 <= dollars <= Decimal(MAX_MICROS) / MICROS):
        raise ValueError(
            f"{name} must be an amount from 0 to {format_money(MAX_MICROS)}, got {dollars} USD"
        )
    return int((dollars * MICROS).to_integral_value(ROUND_CEILING))


def from_nanos(nanos: int) -> int:
    """Return the micro-dollars of nano-dollars, rounded up."""
    return -(-nanos // _NANOS)


def format_money(micros: int) -> str:
    """Return micro-dollars as an exact amount, such as "20 USD" or "0.05 USD"."""
    dollars, rest = divmod(micros, MICROS)
    if not rest:
        return f"{dollars} {CURRENCY}"
    decimals = f"{rest:06d}".rstrip("0")
    return f"{dollars}.{decimals.ljust(2, '0')} {CURRENCY}"

"""Costs that vendors and gateways report themselves."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from .rates import EXACT, Price, to_decimal
from .tokens import Fields, get_object

MAX_USD = 10_000  # of one response
COST_NAMES = frozenset(("cost", "cost_in_usd_ticks", "estimated_cost"))  # in a usage

_NANO_DIGITS = 9
_TICK_DIGITS = 10  # of xAI: 10**10 ticks are a dollar
_NUMBER = re.compile(rb"[0-9]{1,20}(?:\.[0-9]{0,40})?(?:[eE][+-]?[0-9]{1,3})?")


class ImplausibleCostError(ValueError):
    """A cost is negative, or more than any response costs."""


def reported_cost(usage: Fields) -> int | None:
    """Return the cost in a vendor's usage in nano-dollars, or None if there is none.

    Rounded to the nearest nano-dollar, as sums of floats are slightly too large or too small; a
    cost above 0 is at least 1.

    - `cost`, a number: OpenRouter, LiteLLM's streams. If a user's own key pays the vendor
      (`is_byok`), `cost` is the fee of OpenRouter only, and
      `cost_details.upstream_inference_cost` is added.
    - `cost.total_cost`: Perplexity.
    - `cost_in_usd_ticks`: xAI.
    - `estimated_cost`: DeepInfra.

    Raises:
        ImplausibleCostError: The cost is negative, or more than 10,000 dollars.
    """
    cost = usage.get("cost")
    if isinstance(cost, dict):
        if cost.get("currency") in (None, "USD"):
            cost = cost.get("total_cost")
        else:
            return None
    if usage.get("is_byok") is True:
        upstream = _number(get_object(usage, "cost_details").get("upstream_inference_cost"))
        fee = _number(cost)
        return None if upstream is None else _nanos(EXACT.add(upstream, fee or 0))
    if (dollars := _number(cost)) is not None:
        return _nanos(dollars)
    if (ticks := _number(usage.get("cost_in_usd_ticks"))) is not None:
        return _nanos(ticks.scaleb(-_TICK_DIGITS, EXACT))
    dollars = _number(usage.get("estimated_cost"))
    return None if dollars is None else _nanos(dollars)


def parse_cost(value: bytes) -> int | None:
    """Return the cost in a header such as `x-litellm-response-cost` in nano-dollars, or None.

    Args:
        value: Dollars, as `0.0123` or `1.2e-05`. Anything else, and more than 10,000 dollars, is
            None. 0 is None, too: gateways write it for a model whose price they do not have.
    """
    text = value.strip()
    if len(text) > 64 or _NUMBER.fullmatch(text) is None:
        return None
    try:
        return _nanos(Decimal(text.decode())) or None
    except ImplausibleCostError:
        return None


def check_cost(dollars: Price) -> int:
    """Return a cost in US dollars as nano-dollars.

    Raises:
        ValueError: `dollars` is not a number from 0 to 10,000.
    """
    number = to_decimal(dollars)
    if number is None:
        raise ImplausibleCostError(
            f"cost must be a number from 0 to {MAX_USD:,} dollars, got {dollars!r:.60}"
        )
    return _nanos(number)


def check_nanos(nanos: int) -> int:
    """Return `nanos`, the cost of one response by its prices.

    Raises:
        ValueError: `nanos` are more than 10,000 dollars: the sum of a few would not fit in 64 bits.
    """
    if nanos > MAX_USD * 10**_NANO_DIGITS:
        raise ImplausibleCostError(
            f"cost must be at most {MAX_USD:,} dollars, got {nanos} nano-dollars"
        )
    return nanos


def _number(value: Any) -> Decimal | None:
    if type(value) is int:
        return Decimal(value)
    return Decimal(repr(value)) if type(value) is float else None


def _nanos(dollars: Decimal) -> int:
    if not (dollars.is_finite() and 0 <= dollars <= MAX_USD):
        raise ImplausibleCostError(
            f"cost must be from 0 to {MAX_USD:,} dollars, got {dollars!s:.40}"
        )
    nanos = int(dollars.scaleb(_NANO_DIGITS, EXACT).to_integral_value(context=EXACT))
    return nanos or int(dollars > 0)

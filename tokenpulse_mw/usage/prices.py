"""Prices of models: a table of the application, then a price list."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from fnmatch import translate
from typing import Any, Literal

from .price_list import MAX_NAME_CHARS, PriceList, load_price_list
from .rates import CompiledRates, Cost, Rates
from .tokens import TokenUsage

logger = logging.getLogger("tokenpulse_mw.usage")

PriceTable = Mapping[Any, Rates]  # by model or (provider, model); types of keys are invariant
_Known = dict[tuple[str, str | None], CompiledRates | None]

MAX_PAIRS = 4_096  # of provider and model, kept until the next refresh
MAX_LOGGED = 100  # models without a price that are logged
REFRESH_SECONDS = 900  # aligned to the clock, as prices by date or time of day change then


class Prices:
    """Prices of models, by which the cost of a response is calculated.

    The rates of a response are those of the first entry that matches, in this order:

    1. entries for its provider, before entries for any provider;
    2. names, before patterns;
    3. longer patterns, before shorter ones;
    4. the order of `table`.

    Then follows the price list, if there is one. Names match regardless of case. If there is any
    price, each of the first 100 models that respond and have none is logged once.

    Args:
        table: Rates by model, or by (provider, model). A model is a name, or a pattern with `*`,
            `?` and `[...]`.
        price_list: `genai-prices` for the prices of that package, `auto` to use them if it is
            installed (`pip install 'tokenpulse-mw[cost]'`), or None.
        clock: Seconds since the epoch.

    Raises:
        ValueError: `table` has a key that is not a model, or a value that is not `Rates`, or
            `price_list` is not one of these.
        ImportError: The package of `price_list` is not installed.
    """

    def __init__(
        self,
        table: PriceTable | None = None,
        *,
        price_list: Literal["genai-prices", "auto"] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = _compile(table if table is not None else {})
        self._list: PriceList | None = load_price_list(price_list)
        self._clock = clock
        self._known: _Known = {}
        self._requested: _Known = {}  # by requests
        self._logged = set[str]()
        self._since = self._until = 0.0

    def __bool__(self) -> bool:
        """Return True if there is any price."""
        return bool(self._table) or self._list is not None

    def cost(self, provider: str, model: str | None, usage: TokenUsage) -> Cost | None:
        """Return the cost of a response, or None if its price is unknown.

        The first response of a model takes up to a millisecond longer. After 4,096 pairs of
        provider and model within 15 minutes, further ones have a price by the table only.

        Args:
            provider: The name of the provider, as in `Exchange.provider`.
            model: The name of the model in the response.
            usage: The tokens of the response.

        Raises:
            Exception: The price list has invalid data for the model; at most once in 15 minutes.
        """
        if not self._since <= (now := self._clock()) < self._until:
            self._refresh(now)
        try:
            rates = self._known[provider, model]
        except KeyError:
            rates = self._find(provider, model, now, self._known)
            if rates is None and model and self:
                self._log_unpriced(provider[:MAX_NAME_CHARS], model[:MAX_NAME_CHARS])
        return None if rates is None else rates.cost(usage)

    def estimate(self, provider: str, model: str | None, usage: TokenUsage) -> Cost | None:
        """Return what `cost` would, for a request to a model.

        Clients can make up names, so these never take the place of a model that has responded.

        Raises:
            Exception: As `cost`.
        """
        if not self._since <= (now := self._clock()) < self._until:
            self._refresh(now)
        pair = provider, model
        rates = self._known.get(pair) or self._requested.get(pair)
        if rates is None and pair not in self._requested:
            rates = self._find(provider, model, now, self._requested)
        return None if rates is None else rates.cost(usage)

    def _log_unpriced(self, provider: str, model: str) -> None:
        logged = self._logged
        if model.lower() in logged or len(logged) > MAX_LOGGED:
            return
        logged.add(model.lower())
        if len(logged) > MAX_LOGGED:
            logger.warning("more than %d models have no price: others are not logged", MAX_LOGGED)
        else:
            logger.warning(
                "model without a price, its cost is unknown (logged once): model=%r provider=%r; "
                "add it to `prices`",
                model,
                provider,
            )

    def _refresh(self, now: float) -> None:
        self._known.clear()
        self._requested.clear()
        self._since = now - now % REFRESH_SECONDS
        self._until = self._since + REFRESH_SECONDS

    def _find(
        self, provider: str, model: str | None, now: float, known: _Known
    ) -> CompiledRates | None:
        if not model or max(len(model), len(provider)) > MAX_NAME_CHARS:
            return None
        rates = self._of_table(provider.lower(), model.lower())
        if len(known) < MAX_PAIRS:
            known[provider, model] = rates  # kept even if the list raises
            if rates is None and self._list is not None:
                rates = self._list.rates(provider.lower(), model, now)
                known[provider, model] = rates
        return rates

    def _of_table(self, provider: str, model: str) -> CompiledRates | None:
        for only, matches, rates in self._table:
            if only in (None, provider) and matches(model):
                return rates
        return None


_Entry = tuple[str | None, Callable[[str], object], CompiledRates]


def _compile(table: PriceTable) -> list[_Entry]:
    """Return the entries of a table, the most specific first."""
    if not isinstance(table, Mapping):
        raise ValueError(
            'prices must be a table such as {"gpt-5*": Rates(input=1.25, output=10)}, '
            f"got {table!r:.60}"
        )
    entries: list[tuple[tuple[bool, bool, int], _Entry]] = []
    for key, rates in table.items():
        provider, model = key if isinstance(key, tuple) and len(key) == 2 else (None, key)
        if not _is_name(model) or not (provider is None or _is_name(provider)):
            raise ValueError(
                f"prices must be by model, or by (provider, model), each of at most "
                f"{MAX_NAME_CHARS} characters, got {key!r:.60}"
            )
        if not isinstance(rates, Rates):
            raise ValueError(
                f"prices[{key!r}] must be Rates, such as Rates(input=1.25, output=10), "
                f"got {rates!r:.60}"
            )
        model, only = model.lower(), provider and provider.lower()
        is_pattern = any(mark in model for mark in "*?[")
        matches = re.compile(translate(model)).match if is_pattern else model.__eq__
        order = (only is None, is_pattern, -len(model))
        entries.append((order, (only, matches, rates.compile())))
    entries.sort(key=lambda entry: entry[0])
    return [entry for _, entry in entries]


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS

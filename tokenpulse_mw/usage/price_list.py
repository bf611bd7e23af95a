"""Price list of the package genai-prices, compiled to integers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

from .rates import EXACT, CompiledRates, check_rate

MAX_NAME_CHARS = 200
_CHOICES = ("genai-prices", "auto")

# The names that the list has for providers; None for a provider that serves the models of several
# vendors at their own prices, so that the name of the model decides. A provider that is missing
# here is found by its own name, or else by the name of the model.
PROVIDERS: Mapping[str, str | None] = MappingProxyType(
    {
        "claude": "anthropic",
        "gemini": "google",
        "aistudio": "google",
        "vertex": "google",
        "codex": "openai",
        "xai": "x-ai",
        "bedrock": "aws",
        "copilot": "github-copilot",
        "antigravity": None,
        "kiro": None,
        "iflow": None,
        "qwen": None,
    }
)

# Our names of the kinds that the list prices, and the divisor to dollars per million tokens, or
# to dollars each.
_RATES: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "input_mtok": ("input", 1),
        "output_mtok": ("output", 1),
        "cache_read_mtok": ("cache_read", 1),
        "cache_write_mtok": ("cache_write", 1),
        "cache_write_1h_mtok": ("cache_write_1h", 1),
        "input_audio_mtok": ("audio_input", 1),
        "cache_audio_read_mtok": ("cached_audio", 1),
        "output_audio_mtok": ("audio_output", 1),
        "output_reasoning_mtok": ("reasoning", 1),
        "requests_kcount": ("request", 1000),
        "web_searches_kcount": ("search", 1000),
    }
)

_FREE = CompiledRates({"input": Decimal(0), "output": Decimal(0)})
_FREE_SUFFIX = ":free"  # of OpenRouter; the list has no prices for these models

# Calls of tools are billed in addition to the tokens; a usage does not count them.
_TOOLS = ("social_searches_kcount", "storage_searches_kcount", "code_executions_kcount")


def load_price_list(choice: Literal["genai-prices", "auto"] | None) -> PriceList | None:
    """Return the chosen price list, or None if `auto` finds none.

    Raises:
        ValueError: `choice` is not one of the price lists.
        ImportError: The package is not installed.
    """
    if choice is None:
        return None
    if choice not in _CHOICES:
        raise ValueError(f"price_list must be one of {', '.join(_CHOICES)} or None, got {choice!r}")
    try:
        return PriceList()
    except ImportError as error:
        if choice == "auto":
            return None
        raise ImportError(
            "price_list='genai-prices' requires a package: pip install 'tokenpulse-mw[cost]'"
        ) from error


class PriceList:
    """The prices of genai-prices, as of a time.

    Importing the package and its data takes a fifth of a second, which is spent here.

    The lookups of the package remember each name for ever, and a client may be able to make up
    names: its caches are not used.
    """

    def __init__(self) -> None:
        self._snapshots = import_module("genai_prices.data_snapshot")
        self._snapshots.get_snapshot()

    def rates(self, provider: str, model: str, now: float) -> CompiledRates | None:
        """Return the rates of a model, or None if they are unknown.

        Args:
            provider: Our name of the provider, in lower case.
            model: The name of the model.
            now: Seconds since the epoch; some prices depend on the date or the time of day.
        """
        if len(model) > MAX_NAME_CHARS or not (model.isascii() and model.isprintable()):
            return None
        found = self._find(provider, model.lower())
        if found is None:
            return None
        listed = vars(found.get_prices(datetime.fromtimestamp(now, UTC)))
        prices = {name: price for name, price in listed.items() if price is not None}
        if prices:
            return _compile(prices)
        return _FREE if model.lower().endswith(_FREE_SUFFIX) else None

    def _find(self, provider: str, model: str) -> Any:
        """Return the entry of a model, or None; the name has to be in lower case."""
        providers = self._snapshots.get_snapshot().providers
        listed = {entry.id: entry for entry in providers}
        vendor = listed.get(PROVIDERS.get(provider, provider))
        if vendor is None and provider == "litellm":  # it writes the provider before the model
            prefix, _, rest = model.partition("/")
            vendor = self._snapshots.find_provider_by_id(providers, prefix) if rest else None
            model = model if vendor is None else rest
        if vendor is None:
            matching = (entry for entry in providers if _has_model(entry, model))
            vendor = next(matching, None)
        return None if vendor is None else vendor.find_model(model, all_providers=providers)


def _has_model(provider: Any, model: str) -> bool:
    """Return True if the name of a model is one that a provider uses."""
    return provider.model_match is not None and provider.model_match.is_match(model)


def _compile(prices: Mapping[str, Any]) -> CompiledRates:
    """Return the rates of a model with all tiers."""
    tiers = [tier for price in prices.values() for tier in getattr(price, "tiers", ())]
    starts = sorted({tier.start for tier in tiers}, reverse=True)
    steps = tuple((start, CompiledRates(**_rates(prices, start))) for start in starts)
    return CompiledRates(**_rates(prices, -1), steps=steps)


def _rates(prices: Mapping[str, Any], start: int) -> dict[str, Any]:
    """Return the rates for more input than `start` tokens, and whether they are all."""
    rates: dict[str, Decimal] = {}
    is_minimum = False
    flat = {name: _price_above(price, start) for name, price in prices.items()}
    for name, price in flat.items():
        if name in _RATES:
            ours, divisor = _RATES[name]
            rates[ours] = check_rate(ours, EXACT.divide(price, divisor))
        elif name not in _TOOLS:
            whole = flat.get("output_mtok" if name.startswith("output_") else "input_mtok", 0)
            is_minimum = is_minimum or not name.endswith("_mtok") or price > whole
    return {"rates": rates, "is_minimum": is_minimum}


def _price_above(price: Any, start: int) -> Decimal:
    """Return a price for more input than `start` tokens; a tier applies to all tokens."""
    reached = [tier.price for tier in getattr(price, "tiers", ()) if tier.start <= start]
    result: Decimal = reached[-1] if reached else getattr(price, "base", price)
    return result

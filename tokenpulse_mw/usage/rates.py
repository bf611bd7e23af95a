"""Rates of a model, and the cost of a response at these rates, in exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Any

import msgspec

from .tokens import TokenUsage

Price = int | float | str | Decimal

MAX_USD_PER_MTOK = 1_000_000  # a dollar per token
MAX_USD_EACH = 1_000  # a request or a search
MAX_DECIMALS = 24
EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[])  # the application may set its own

_NANO_DIGITS = 9
_MTOK_DIGITS = 6  # a rate per million tokens is this many digits above a rate per token
_EACH = ("request", "search")  # in dollars each; all others are per million tokens


class Cost(msgspec.Struct, frozen=True):
    """The cost of one response.

    Attributes:
        nanos: Nano-dollars (billionths of a US dollar), rounded up.
        is_minimum: True if a part of the response has no known price, such as a search, so that
            the response costs at least `nanos`.
    """

    nanos: int
    is_minimum: bool = False

    @property
    def usd(self) -> Decimal:
        """Return the cost in US dollars."""
        return Decimal(self.nanos).scaleb(-_NANO_DIGITS, EXACT)


@dataclass(frozen=True, init=False)
class Rates:
    """Prices of one model in US dollars, given as int, float, str or Decimal.

    A float counts as the decimal number that Python prints for it. All rates are kept exactly.

    Args:
        input: Price of a million tokens read.
        output: Price of a million tokens written, including reasoning.
        cache_read: Price of a million tokens read from the vendor's cache; default `input`.
        cache_write: Price of a million tokens written to the vendor's cache; default `input`.
        cache_write_1h: The same for tokens that are kept for an hour; default `cache_write`.
        audio_input: Price of a million tokens of audio read; default `input`.
        audio_output: Price of a million tokens of audio written; default `output`.
        request: Price of each response, in addition to its tokens.
        search: Price of each web search of the vendor. Without it, the cost of a response with
            searches is a minimum.

    Raises:
        ValueError: A rate is not a number, is negative, infinite or NaN, has more than 24 decimal
            places, or exceeds 1,000,000 dollars per million tokens, or 1,000 dollars each.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None
    cache_write: Decimal | None
    cache_write_1h: Decimal | None
    audio_input: Decimal | None
    audio_output: Decimal | None
    request: Decimal
    search: Decimal | None

    def __init__(
        self,
        *,
        input: Price,
        output: Price,
        cache_read: Price | None = None,
        cache_write: Price | None = None,
        cache_write_1h: Price | None = None,
        audio_input: Price | None = None,
        audio_output: Price | None = None,
        request: Price = 0,
        search: Price | None = None,
    ) -> None:
        given: dict[str, tuple[Any, bool]] = {
            "input": (input, True),
            "output": (output, True),
            "cache_read": (cache_read, False),
            "cache_write": (cache_write, False),
            "cache_write_1h": (cache_write_1h, False),
            "audio_input": (audio_input, False),
            "audio_output": (audio_output, False),
            "request": (request, True),
            "search": (search, False),
        }
        for name, (value, required) in given.items():
            rate = check_rate(name, value) if required or value is not None else None
            object.__setattr__(self, name, rate)

    def compile(self) -> CompiledRates:
        """Return these rates in integers."""
        return CompiledRates({name: rate for name, rate in vars(self).items() if rate is not None})


def check_rate(name: str, value: Any) -> Decimal:
    """Return `value` as an exact decimal number.

    Raises:
        ValueError: `value` is not a price; the message begins with `name`.
    """
    most, unit = (MAX_USD_EACH, "") if name in _EACH else (MAX_USD_PER_MTOK, " per million tokens")
    rate = to_decimal(value)
    if rate is None or not rate.is_finite() or not 0 <= rate <= most:
        raise ValueError(
            f"{name} must be a number of US dollars{unit} from 0 to {most:,}, got {value!r:.60}"
        )
    if _decimals(rate) > MAX_DECIMALS:
        raise ValueError(
            f"{name} must have at most {MAX_DECIMALS} decimal places, got {value!r:.60}"
        )
    return rate


def to_decimal(value: Any) -> Decimal | None:
    """Return a price as a decimal number, or None if it is not one; a float as it is printed."""
    if type(value) is float:
        return Decimal(repr(value))
    if isinstance(value, Decimal) or type(value) is int:
        return Decimal(value)
    try:
        return Decimal(value) if isinstance(value, str) else None
    except InvalidOperation:
        return None


def _digits(name: str) -> int:
    return 0 if name in _EACH else _MTOK_DIGITS


def _decimals(rate: Decimal) -> int:
    return -int(rate.as_tuple().exponent)


class CompiledRates:
    """Rates of one model in integers: a cost is a sum of products, rounded once.

    The unit is the largest decimal fraction of a nano-dollar in which all rates are integers.

    Args:
        rates: Rates by the names of `Rates`, and `cached_audio`, the rate of audio read from the
            cache, and `reasoning`, the rate of reasoning. A missing rate is that of the kind that
            contains it; a missing `input` or `output` makes the cost a minimum.
        is_minimum: The response may have parts that are dearer than their kind, or not counted.
        steps: Rates that replace these if the input has more tokens than a number, the largest
            number first.
    """

    __slots__ = (
        "_audio_input",
        "_audio_output",
        "_cache_read",
        "_cache_write",
        "_cache_write_1h",
        "_cached_audio",
        "_input",
        "_is_minimum",
        "_output",
        "_per_nano",
        "_prices_output",
        "_reasoning_extra",
        "_request",
        "_search",
        "_steps",
    )

    def __init__(
        self,
        rates: Mapping[str, Decimal],
        *,
        is_minimum: bool = False,
        steps: tuple[tuple[int, CompiledRates], ...] = (),
    ) -> None:
        exact = [_decimals(rate) + _digits(name) for name, rate in rates.items()]
        digits = max([_NANO_DIGITS, *exact])

        def units(name: str, default: int) -> int:
            if name not in rates:
                return default
            numerator, denominator = rates[name].as_integer_ratio()
            scale: int = 10 ** (digits - _digits(name))
            return numerator * scale // denominator

        self._per_nano = 10 ** (digits - _NANO_DIGITS)
        self._input = units("input", 0)
        self._cache_read = units("cache_read", self._input)
        self._cache_write = units("cache_write", self._input)
        self._cache_write_1h = units("cache_write_1h", self._cache_write)
        self._audio_input = units("audio_input", self._input)
        uncached = self._cache_read if "cache_read" in rates else self._audio_input
        self._cached_audio = units("cached_audio", uncached)
        self._output = units("output", 0)
        self._audio_output = units("audio_output", self._output)
        self._reasoning_extra = units("reasoning", self._output) - self._output
        self._request = units("request", 0)
        self._search = units("search", -1)
        self._prices_output = "output" in rates
        self._is_minimum = is_minimum or "input" not in rates
        self._steps = steps

    def cost(self, usage: TokenUsage) -> Cost | None:
        """Return the cost of a response, or None if nothing in it has a known price.

        Audio is part of the input as the cache is; of both, as little as possible is counted as
        both. If parts are larger than the whole, which no vendor should report, the parts count.
        """
        rates, rest, output = self, usage.input, usage.output
        for start, step in self._steps:
            if rest > start:
                rates = step
                break
        total, is_minimum = rates._request, rates._is_minimum
        if read := usage.cache_read:
            total += read * rates._cache_read
            rest -= read
        if write := max(usage.cache_write, hour := usage.cache_write_1h):
            total += hour * rates._cache_write_1h + (write - hour) * rates._cache_write
            rest -= write
        if audio := usage.audio_input:
            if audio > rest:
                both = audio - max(rest, 0)
                total += min(both, read) * (rates._cached_audio - rates._cache_read)
                audio -= min(both, read + write)
            total += audio * rates._audio_input
            rest -= audio
        if rest > 0:
            total += rest * rates._input
        if output:
            is_minimum = is_minimum or not rates._prices_output
            if rates._reasoning_extra:
                total += min(usage.reasoning, output) * rates._reasoning_extra
        if audio := usage.audio_output:
            total += audio * rates._audio_output
            output -= audio
        if output > 0:
            total += output * rates._output
        if searches := usage.searches:
            if rates._search < 0:
                is_minimum = True
            else:
                total += searches * rates._search
        if not total and is_minimum:
            return None
        return Cost(-(-total // rates._per_nano), is_minimum)

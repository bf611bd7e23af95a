"""Weights of the kinds of tokens, in exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal

from ..usage import TokenUsage

Weight = int | float | Decimal

_MILLI = 1000
_MAX_WEIGHT = 1000
# Each part, and the kind that it is a part of. A part without a weight has that of its whole.
_PARTS = {
    "cache_read": "input",
    "cache_write": "input",
    "audio_input": "input",
    "cache_write_1h": "cache_write",
    "reasoning": "output",
    "audio_output": "output",
}
_WHOLES = ("input", "output")
_KINDS = (*_WHOLES, *_PARTS, "searches")


class TokenWeights:
    """Weights of the kinds of `TokenUsage`.

    A kind without a weight has the weight of the kind that it is a part of: `cache_read`,
    `cache_write` and `audio_input` of `input`, `cache_write_1h` of `cache_write`, `reasoning` and
    `audio_output` of `output`. `input` and `output` have the weight 1, and `searches`, which are
    not tokens, 0. The weight of a whole applies to its tokens that are in none of the parts with a
    weight: with `{"cache_read": 0.1}`, `input` are the tokens that were not read from the cache.

    Weights are thousandths, rounded up, and so is the sum: it is exact, and never too low.

    Args:
        weights: Weights from 0 to 1000.

    Raises:
        ValueError: A kind is unknown, or a weight is not a number from 0 to 1000.
    """

    def __init__(self, weights: Mapping[str, Weight]) -> None:
        if not isinstance(weights, Mapping):
            raise ValueError(f"weights must be a mapping of kinds to numbers, got {weights!r}")
        milli = {"input": _MILLI, "output": _MILLI, "searches": 0}
        for kind, weight in weights.items():
            if kind not in _KINDS:
                raise ValueError(f"weights must be of {', '.join(_KINDS)}, got {kind!r}")
            milli[kind] = _thousandths(kind, weight)
        self._input, self._output = milli["input"], milli["output"]
        self._searches = milli["searches"]
        # Differences to the whole. Without a difference, a part does not matter.
        difference = {
            part: milli.setdefault(part, milli[whole]) - milli[whole]
            for part, whole in _PARTS.items()
        }
        self._of_input = _nonzero(difference, ("cache_read", "cache_write", "audio_input"))
        self._of_output = _nonzero(difference, ("reasoning", "audio_output"))
        self._cache_write_1h = difference["cache_write_1h"]

    def total(self, usage: TokenUsage, output: int | None = None) -> int:
        """Return the weighted tokens of `usage`, rounded up.

        Args:
            usage: Tokens by kind. Parts that together exceed their whole are reduced to it.
            output: Output tokens, if more were written than `usage` has.
        """
        output = usage.output if output is None else output
        milli = self._input * usage.input + self._output * output + self._searches * usage.searches
        milli += _parts(usage, self._of_input, usage.input)
        milli += _parts(usage, self._of_output, output)
        if self._cache_write_1h:
            part = min(usage.cache_write_1h, usage.cache_write, usage.input)
            milli += self._cache_write_1h * part
        return -(-max(milli, 0) // _MILLI)

    def written(self, tokens: int) -> int:
        """Return the weighted tokens of output, rounded up."""
        return -(-self._output * tokens // _MILLI)


def _parts(usage: TokenUsage, differences: list[tuple[str, int]], whole: int) -> int:
    """Return the sum of the differences of the parts of a whole."""
    milli = 0
    for kind, difference in differences:
        part = min(getattr(usage, kind), whole)
        whole -= part
        milli += difference * part
    return milli


def _nonzero(differences: Mapping[str, int], kinds: tuple[str, ...]) -> list[tuple[str, int]]:
    """Return the differences, the most expensive first: so reduced parts do not lower a charge."""
    found = [(kind, differences[kind]) for kind in kinds if differences[kind]]
    return sorted(found, key=lambda entry: -entry[1])


def _thousandths(kind: str, weight: Weight) -> int:
    if type(weight) in (int, float, Decimal):
        exact = Decimal(str(weight))
        if exact.is_finite() and 0 <= exact <= _MAX_WEIGHT:
            return int((exact * _MILLI).to_integral_value(ROUND_CEILING))
    raise ValueError(f"weight of {kind} must be a number from 0 to {_MAX_WEIGHT}, got {weight!r}")

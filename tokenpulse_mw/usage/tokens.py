"""Token counts with one meaning for all vendors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MOST = 10**9  # tokens of one response; the largest context windows have about 10**7

Fields = Mapping[str, Any]


class TokenUsage(msgspec.Struct, frozen=True):
    """The tokens of one response, comparable between vendors.

    Attributes:
        input: All tokens read, including those served from or written to a cache.
        output: All tokens written, including hidden reasoning.
        cache_read: The part of `input` served from the vendor's prompt cache.
        cache_write: The part of `input` written to the vendor's prompt cache.
        reasoning: The part of `output` that was hidden reasoning.
        cache_write_1h: The part of `cache_write` that is kept for an hour, at a higher price.
        audio_input: The part of `input` that was audio.
        audio_output: The part of `output` that was audio.
        searches: Web searches that the vendor ran for the response, which are billed apart.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    audio_output: int = 0
    searches: int = 0

    @property
    def total(self) -> int:
        """Return the tokens read and written."""
        return self.input + self.output

    @property
    def is_plausible(self) -> bool:
        """Return True if no count, and no sum of input and output, exceeds `MOST`."""
        parts = self.cache_read + self.cache_write + self.cache_write_1h + self.reasoning
        audio = self.audio_input + self.audio_output
        if self.input + self.output + parts + audio + self.searches <= MOST:
            return True  # as usual, at once
        return (
            self.input + self.output <= MOST
            and self.cache_read <= MOST
            and self.cache_write <= MOST
            and self.reasoning <= MOST
            and self.cache_write_1h <= MOST
            and self.audio_input <= MOST
            and self.audio_output <= MOST
            and self.searches <= MOST
        )

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.cache_write_1h + other.cache_write_1h,
            self.audio_input + other.audio_input,
            self.audio_output + other.audio_output,
            self.searches + other.searches,
        )


def count(fields: Fields, *names: str) -> int:
    """Return the first positive count under one of these names, or 0.

    A count is a whole number, which may be written as 12.0; null, strings and other values are
    ignored. An implausibly large number is a count, too: read as 0, it would lower the charge.
    """
    for name in names:
        value = fields.get(name)
        if type(value) is int:  # excludes booleans
            if value > 0:
                return value
        elif type(value) is float and value > 0 and value.is_integer():
            return int(value)
    return 0


def has_count(fields: Fields, *names: str) -> bool:
    """Return True if there is a count, zero included, under one of these names."""
    for name in names:
        value = fields.get(name)
        if type(value) is int:
            if value >= 0:
                return True
        elif type(value) is float and value >= 0 and value.is_integer():
            return True
    return False


def hidden_tokens(fields: Fields, total: str, reported: int) -> int:
    """Return the tokens that the vendor's total has in addition to the reported parts."""
    return max(count(fields, total) - reported, 0)


def get_object(fields: Fields, name: str) -> Fields:
    """Return the object under `name`, or an empty one if it is not an object."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}

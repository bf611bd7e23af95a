"""One vocabulary for the token counts that every vendor spells differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

MOST = 10**9  # tokens of one response; the largest context windows have some 10**7

Fields = Mapping[str, Any]


class TokenUsage(msgspec.Struct, frozen=True):
    """The tokens of one answer, so counted that vendors can be compared and added up.

    Attributes:
        input: All tokens read, those served from or written to a cache included.
        output: All tokens written, hidden reasoning included.
        cache_read: The part of `input` served from the vendor's prompt cache.
        cache_write: The part of `input` written to the vendor's prompt cache.
        reasoning: The part of `output` that was reasoning and not shown.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """Tokens read and written."""
        return self.input + self.output

    @property
    def is_plausible(self) -> bool:
        """Return True if one response can have used so much: no count or sum exceeds `MOST`."""
        return (
            self.input + self.output <= MOST
            and self.cache_read <= MOST
            and self.cache_write <= MOST
            and self.reasoning <= MOST
        )

    def __add__(self, other: TokenUsage) -> TokenUsage:
        return TokenUsage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
        )


def count(fields: Fields, name: str, *others: str) -> int:
    """Return the first count above 0 under one of these names, else 0.

    Vendors send null, strings and worse; only a whole number from 0 on is a count, also if it is
    written as 12.0. An implausibly large one is a count too: read as 0, it would lower the charge.
    """
    value = fields.get(name)
    if type(value) is int and value > 0:  # nearly all of them
        return value
    for each in (name, *others):
        value = fields.get(each)
        if value and _is_count(value):
            return int(value)
    return 0


def has_count(fields: Fields, name: str, *others: str) -> bool:
    """Whether a usable count, zero included, stands under one of these names."""
    if _is_count(fields.get(name)):
        return True
    return has_count(fields, *others) if others else False


def _is_count(value: Any) -> bool:
    kind = type(value)
    return (kind is int or (kind is float and value.is_integer())) and value >= 0


def get_object(fields: Fields, name: str) -> Fields:
    """The object under `name`, or an empty one when something else stands there."""
    value = fields.get(name)
    return value if isinstance(value, dict) else {}

"""What values a setting may have, and what is wrong with one that it may not."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers that a setting may be.

    Attributes:
        whole: No fractions.
        least: The smallest, if it may be that itself; else it must be above 0.
        most: The largest.
        optional: None is allowed too, and switches something off.
    """

    whole: bool = False
    least: float | None = None
    most: float = 1e15
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if (value is None and self.optional) or self._has(value):
            return None
        return f"must be {self}, got {reprlib.repr(value)}"

    def _has(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > 0 if self.least is None else value >= self.least
        return above and value <= self.most

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        start = "above 0" if self.least is None else f"of at least {self.least:.10g}"
        off = ", or None to switch it off" if self.optional else ""
        return f"{number} {start} and at most {self.most:.10g}{off}"


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return (
            None if isinstance(value, bool) else f"must be true or false, got {reprlib.repr(value)}"
        )

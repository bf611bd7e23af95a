"""Metric values as plain rows: a tuple of label values to a number, or to a list of buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from .families import Family

OVERFLOW_VALUE = "__overflow__"

Labels = tuple[Any, ...]
OnOverflow = Callable[[Family], object]


class CounterRows:
    """A counter's series.

    Args:
        most: Series that are kept; what exceeds them is folded into one.
        on_overflow: Told the family for each observation that is folded.
    """

    __slots__ = ("_most", "_on_overflow", "family", "rows")

    def __init__(self, family: Family, *, most: int, on_overflow: OnOverflow) -> None:
        self.family = family
        self.rows: dict[Labels, float] = {}
        self._most = most
        self._on_overflow = on_overflow

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count `amount` under `labels`."""
        try:
            self.rows[labels] += amount
        except KeyError:
            labels = self._admit(labels)
            self.rows[labels] = self.rows.get(labels, 0) + amount

    def _admit(self, labels: Labels) -> Labels:
        if len(self.rows) < self._most:
            return labels
        self._on_overflow(self.family)
        return (OVERFLOW_VALUE,) * len(self.family.labels)


class HistogramRows:
    """A histogram's series; each row holds its sum, then a count for each bucket, +Inf last.

    Args:
        most: Series that are kept; what exceeds them is folded into one.
        on_overflow: Told the family for each observation that is folded.
    """

    __slots__ = ("_bounds", "_most", "_on_overflow", "family", "rows")

    def __init__(self, family: Family, *, most: int, on_overflow: OnOverflow) -> None:
        self.family = family
        self.rows: dict[Labels, list[float]] = {}
        self._bounds = family.buckets
        self._most = most
        self._on_overflow = on_overflow

    def observe(self, labels: Labels, value: float) -> None:
        """Count `value` under `labels`."""
        row = self.rows.get(labels)
        if row is None:
            row = self._admit(labels)
        row[0] += value
        row[1 + bisect_left(self._bounds, value)] += 1

    def counts(self) -> dict[Labels, float]:
        """How many values each series has: a counter for free."""
        return {labels: sum(row[1:]) for labels, row in list(self.rows.items())}

    def _admit(self, labels: Labels) -> list[float]:
        if len(self.rows) >= self._most:
            self._on_overflow(self.family)
            labels = (OVERFLOW_VALUE,) * len(self.family.labels)
        return self.rows.setdefault(labels, [0.0] + [0] * (len(self._bounds) + 1))

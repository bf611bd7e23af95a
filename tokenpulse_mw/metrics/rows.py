"""Metric values as plain rows of numbers, by label values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, overload

from .families import Family

OVERFLOW_VALUE = "__overflow__"

Labels = tuple[Any, ...]


class Row(Protocol):
    """Numbers that are counted up: a list, or memory that other processes can read.

    The row of a counter or gauge is its value. That of a histogram is the sum of what was
    observed, and then how much of it fell into each bucket, +Inf last.
    """

    @overload
    def __getitem__(self, index: int, /) -> float: ...
    @overload
    def __getitem__(self, index: slice, /) -> Iterable[float]: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...
    def __iter__(self) -> Iterator[float]: ...
    def __len__(self) -> int: ...


NewRow = Callable[[Family, Labels], Row]
Series = tuple[Family, Mapping[Labels, Row]]  # all there is to say of one family


def row_in_memory(family: Family, _labels: Labels) -> Row:
    """A row that only this process sees."""
    return [0.0] * family.width


class Rows:
    """The series of one family.

    Args:
        most: Series that are kept; what exceeds them is folded into one.
        on_overflow: Told the family for each row that is asked for and folded.
        new_row: Makes a row: of zeros, or of what was counted there before.
    """

    __slots__ = ("_most", "_new_row", "_on_overflow", "_rows", "_seen", "family")

    def __init__(
        self,
        family: Family,
        *,
        most: int,
        on_overflow: Callable[[Family], object],
        new_row: NewRow = row_in_memory,
    ) -> None:
        self.family = family
        self._rows: dict[Labels, Row] = {}
        self._most = most
        self._on_overflow = on_overflow
        self._new_row = new_row
        self._seen: Mapping[Labels, float] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, labels: Labels) -> Row:
        """The row of `labels`, or the one that takes what there is no room for."""
        row = self._rows.get(labels)
        return self._admit(labels) if row is None else row

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Count `amount` under `labels`."""
        row = self._rows.get(labels)
        if row is None:
            row = self._admit(labels)
        row[0] += amount

    def observe(self, labels: Labels, value: float) -> None:
        """Count `value` into a histogram under `labels`."""
        row = self.row(labels)
        row[0] += value
        row[1 + bisect_left(self.family.buckets, value)] += 1

    def _admit(self, labels: Labels) -> Row:
        rows = self._rows
        if len(rows) >= self._most:
            self._on_overflow(self.family)
            labels = (OVERFLOW_VALUE,) * len(self.family.labels)
        row = rows.get(labels)
        # Another thread may have been faster.
        return rows.setdefault(labels, self._new_row(self.family, labels)) if row is None else row

    def show(self, values: Mapping[Labels, float]) -> None:
        """Take over what somebody else counts.

        A gauge's rows have these values, and those that are not among them any more have 0. A
        counter's grow by what the values have grown since the last time.
        """
        gone = dict.fromkeys(self._seen.keys() - values.keys(), 0.0)
        for labels, value in {**gone, **values}.items():
            if self.family.kind == "gauge":
                self.row(labels)[0] = value
            else:
                self.row(labels)[0] += max(value - self._seen.get(labels, 0.0), 0.0)
        self._seen = values

    def series(self) -> Series:
        """All rows; those that are there now, with what they will have counted when read."""
        return self.family, dict(self._rows)

    def renew(self) -> None:
        """Ask again for each row; rows that were handed out before must not be used any more."""
        for labels in list(self._rows):
            self._rows[labels] = self._new_row(self.family, labels)

    def clear(self) -> None:
        """Begin anew; rows that were handed out before count for nothing here any more."""
        self._rows.clear()
        self._seen = {}

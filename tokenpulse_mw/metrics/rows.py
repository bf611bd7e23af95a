"""Rows of numbers by label values, bounded per family."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, overload

from .families import Family

OVERFLOW_VALUE = "__overflow__"

Labels = tuple[Any, ...]


class Row(Protocol):
    """Values of one series: a list, or memory shared with other processes.

    The row of a counter or gauge is its value. The row of a histogram is the sum of all
    observations, then the count of each bucket (not cumulative), +Inf last.
    """

    @overload
    def __getitem__(self, index: int, /) -> float: ...
    @overload
    def __getitem__(self, index: slice, /) -> Iterable[float]: ...
    def __setitem__(self, index: int, value: float, /) -> None: ...
    def __iter__(self) -> Iterator[float]: ...
    def __len__(self) -> int: ...


NewRow = Callable[[Family, Labels], Row]
Series = tuple[Family, Mapping[Labels, Row]]


def row_in_memory(family: Family, _labels: Labels) -> Row:
    """Return a new row in the memory of this process."""
    return [0.0] * family.width


def _stored(value: float) -> float:
    """Return what is stored for a value of at least 0 of the merge "least".

    The maximum of these is the minimum of the values, and 0 is a value that is not set.
    """
    return 1 / (1 + value)


def _least(stored: float) -> float:
    """Return the value that is stored, to 12 significant digits."""
    return float(f"{1 / stored - 1:.12g}")


def exposed(family: Family, rows: Mapping[Labels, Row]) -> Mapping[Labels, Row]:
    """Return the rows as they are exposed, without values that are not set.

    These are timestamps, such as that of a former leader, and values of the merge "least".
    """
    if family.merge == "newest":
        return {labels: row for labels, row in rows.items() if row[0]}
    if family.merge == "least":
        return {labels: [_least(row[0])] for labels, row in rows.items() if row[0]}
    return rows


class Rows:
    """Rows of one family.

    Args:
        family: The family.
        max_series: Maximum number of rows; further label sets share one `__overflow__` row.
        on_overflow: Called with the family for each request of a row that is not available.
        new_row: Creates a row, or opens one that was counted in before.
    """

    __slots__ = ("_last_values", "_max_series", "_new_row", "_on_overflow", "_rows", "family")

    def __init__(
        self,
        family: Family,
        *,
        max_series: int,
        on_overflow: Callable[[Family], object],
        new_row: NewRow = row_in_memory,
    ) -> None:
        self.family = family
        self._rows: dict[Labels, Row] = {}
        self._max_series = max_series
        self._on_overflow = on_overflow
        self._new_row = new_row
        self._last_values: Mapping[Labels, float] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, labels: Labels) -> Row:
        """Return the row of `labels`, or the `__overflow__` row if the table is full."""
        row = self._rows.get(labels)
        return self._create(labels) if row is None else row

    def add(self, labels: Labels, amount: float = 1.0) -> None:
        """Add `amount` to the value of `labels`."""
        row = self._rows.get(labels)
        if row is None:
            row = self._create(labels)
        row[0] += amount

    def observe(self, labels: Labels, value: float) -> None:
        """Add an observation to the histogram of `labels`."""
        row = self.row(labels)
        row[0] += value
        row[1 + bisect_left(self.family.buckets, value)] += 1

    def _create(self, labels: Labels) -> Row:
        rows = self._rows
        if len(rows) >= self._max_series:
            self._on_overflow(self.family)
            labels = (OVERFLOW_VALUE,) * len(self.family.labels)
        row = rows.get(labels)
        # Another thread may have created the row in the meantime.
        return rows.setdefault(labels, self._new_row(self.family, labels)) if row is None else row

    def update(self, values: Mapping[Labels, float]) -> None:
        """Apply values that are counted elsewhere.

        The rows of a gauge are set to `values`; rows that are missing from `values` are set to 0,
        which is not exposed with the merges "newest" and "least".
        The rows of a counter grow by the increase since the last update.
        """
        missing = dict.fromkeys(self._last_values.keys() - values.keys(), 0.0)
        for labels, value in {**missing, **values}.items():
            if self.family.merge == "least" and labels in values:
                self.row(labels)[0] = _stored(value)
            elif self.family.kind == "gauge":
                self.row(labels)[0] = value
            else:
                self.row(labels)[0] += max(value - self._last_values.get(labels, 0.0), 0.0)
        self._last_values = values

    def series(self) -> Series:
        """Return the family with its current rows; their values stay live."""
        return self.family, exposed(self.family, dict(self._rows))

    def reopen(self) -> None:
        """Replace every row by a new one; rows returned before must no longer be used."""
        for labels in list(self._rows):
            self._rows[labels] = self._new_row(self.family, labels)

    def clear(self) -> None:
        """Remove all rows; rows returned before are no longer exposed."""
        self._rows.clear()
        self._last_values = {}

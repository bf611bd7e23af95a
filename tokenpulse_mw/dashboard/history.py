"""Differences of the last hour by provider, route and model, in rings of fixed size."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from operator import add
from typing import NamedTuple

OTHERS = "__others__"  # names beyond the maximum share one ring

_UNKNOWN = math.nan


class Columns(NamedTuple):
    """Numbers that are kept of a name.

    Attributes:
        counts: Names of counts; the first one is the number of requests.
        optional: Counts that are unknown instead of 0 if they were never reported.
        histograms: Names of histograms.
    """

    counts: tuple[str, ...]
    optional: tuple[str, ...]
    histograms: tuple[str, ...]


FAULTS = ("client", "policy", "gateway", "provider", "network")

PROVIDERS = Columns(
    (
        "requests",
        "errors",
        "limited",
        "truncated",
        "llm_requests",
        "usage_missing",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        *FAULTS,
    ),
    ("cost_usd", *FAULTS),
    ("duration", "ttfb", "ttft"),
)
ROUTES = Columns(("requests", "errors", "limited"), (), ("duration", "ttfb"))
MODELS = Columns(
    ("requests", "usage_missing", "input_tokens", "output_tokens", "cost_usd"),
    ("cost_usd",),
    ("ttft",),
)
KINDS = {"provider": PROVIDERS, "route": ROUTES, "model": MODELS}


class Layout:
    """Positions of the columns in a row of numbers.

    Args:
        columns: The columns.
        bounds: Upper bounds of the buckets of the histograms, without +Inf.

    Attributes:
        columns: The argument.
        bounds: The argument.
        width: Length of a row.
        optional: Positions of the counts that may be unknown.
    """

    def __init__(self, columns: Columns, bounds: tuple[float, ...]) -> None:
        self.columns, self.bounds = columns, bounds
        buckets = len(bounds) + 1
        self.width = len(columns.counts) + buckets * len(columns.histograms)
        self._positions = {name: index for index, name in enumerate(columns.counts)}
        self._slices = {
            name: slice(start := len(columns.counts) + buckets * index, start + buckets)
            for index, name in enumerate(columns.histograms)
        }
        self.optional = tuple(self._positions[name] for name in columns.optional)
        self._blank = array("d", bytes(8 * self.width))
        for position in self.optional:
            self._blank[position] = _UNKNOWN

    def blank(self) -> array[float]:
        """Return a new row without requests."""
        return self._blank[:]

    def position(self, count: str) -> int | None:
        """Return the position of a count; None if names of this kind do not have it."""
        return self._positions.get(count)

    def buckets(self, histogram: str) -> slice | None:
        """Return the positions of a histogram; None if names of this kind do not have it."""
        return self._slices.get(histogram)


class Table:
    """Rings by name: a row of numbers for each slot.

    Memory is bounded by `(max_names + 1) * slots * layout.width * 4` bytes.

    Args:
        layout: Positions of the columns.
        slots: Number of slots.
        max_names: Maximum number of names; further ones are added to `OTHERS`.

    Attributes:
        layout: The argument.
    """

    def __init__(self, layout: Layout, *, slots: int, max_names: int) -> None:
        self.layout = layout
        self._slots, self._max_names = slots, max_names
        self._rings: dict[str, array[float]] = {}
        self._blank = array("f", layout.blank())

    def __contains__(self, name: str) -> bool:
        return name in self._rings

    @property
    def names(self) -> list[str]:
        """The names, without `OTHERS`."""
        return [name for name in self._rings if name != OTHERS]

    @property
    def is_full(self) -> bool:
        """True if no further name can be added."""
        return len(self._rings) - (OTHERS in self._rings) >= self._max_names

    def add(self, slot: int, name: str, values: Sequence[float], *, is_late: bool = False) -> None:
        """Add a row of a name to a slot.

        Args:
            slot: The slot.
            name: The name.
            values: The row.
            is_late: The numbers of a new name before this slot are unknown instead of 0.
        """
        if name not in self._rings:
            if name != OTHERS and self.is_full:
                name = OTHERS
            if name not in self._rings:
                blank = array("f", [_UNKNOWN]) * self.layout.width if is_late else self._blank
                self._rings[name] = blank * self._slots
                if is_late:
                    self._rings[name][self._cells(slot)] = self._blank
        ring, cells = self._rings[name], self._cells(slot)
        before = ring[cells]
        ring[cells] = array("f", map(add, before, values))
        for position in self.layout.optional:
            known = [x for x in (before[position], values[position]) if x == x]
            ring[cells.start + position] = sum(known) if known else _UNKNOWN

    def clear(self, slot: int) -> None:
        """Empty a slot of all rings."""
        cells = self._cells(slot)
        for ring in self._rings.values():
            ring[cells] = self._blank

    def remove(self, name: str) -> None:
        """Remove a name; its requests are then only in the totals of other tables."""
        self._rings.pop(name, None)

    def row(self, slot: int, name: str) -> array[float]:
        """Return the numbers of a name in a slot."""
        return self._rings[name][self._cells(slot)]

    def column(self, name: str, position: int) -> array[float]:
        """Return the numbers of a name at a position of all slots, in the order of the ring."""
        ring = self._rings.get(name)
        if ring is None:
            return array("f", [self._blank[position]]) * self._slots
        return ring[position :: self.layout.width]

    def _cells(self, slot: int) -> slice:
        start = slot % self._slots * self.layout.width
        return slice(start, start + self.layout.width)


class History:
    """Numbers of the last slots of one or more processes.

    A slot is a time of `interval` seconds, numbered since the epoch. It is known if at least one
    process has reported it, and none has missed it.

    Args:
        bounds: Upper bounds of the buckets of all histograms.
        slots: Number of slots.
        max_names: Maximum number of providers, of routes and of models.

    Attributes:
        bounds: The argument.
        tables: Rings by kind: "provider", "route" or "model".
        newest: The newest slot; -1 if there is none.
        end: The newest slot that is complete.
    """

    def __init__(self, bounds: tuple[float, ...], *, slots: int, max_names: int) -> None:
        self.bounds, self.size = bounds, slots
        self.tables = {
            kind: Table(Layout(columns, bounds), slots=slots, max_names=max_names)
            for kind, columns in KINDS.items()
        }
        self.newest = self.end = -1
        self._in_flight = array("f", bytes(4 * slots))
        self._reports, self._gaps = bytearray(slots), bytearray(slots)

    def advance(self, slot: int) -> bool:
        """Make `slot` the newest one unless there is a newer; return False if it is too old."""
        if slot <= self.newest:
            return slot > self.newest - self.size
        for new in range(max(self.newest + 1, slot - self.size + 1), slot + 1):
            position = new % self.size
            self._reports[position] = self._gaps[position] = 0
            self._in_flight[position] = 0.0
            for table in self.tables.values():
                table.clear(new)
        self.newest = slot
        return True

    def report(self, slot: int, in_flight: float | None) -> None:
        """Mark a slot as reported by a process; None as the number in flight marks a gap."""
        position = slot % self.size
        marks = self._gaps if in_flight is None else self._reports
        marks[position] = min(marks[position] + 1, 255)
        self._in_flight[position] += in_flight or 0.0

    def is_known(self, slot: int) -> bool:
        """Return True if the numbers of a slot are complete."""
        position = slot % self.size
        inside = self.newest - self.size < slot <= self.newest
        return inside and self._reports[position] > 0 and not self._gaps[position]

    def is_reported(self, slot: int) -> bool:
        """Return True if a process has reported the slot, or that it has missed it."""
        position = slot % self.size
        inside = self.newest - self.size < slot <= self.newest
        return inside and bool(self._reports[position] or self._gaps[position])

    def last(self, count: int) -> range:
        """Return the last `count` complete slots, the oldest first."""
        return range(self.end - count + 1, self.end + 1)

    def known(self, slots: Iterable[int]) -> list[int]:
        """Return the known ones of `slots`."""
        return [slot for slot in slots if self.is_known(slot)]

    def in_flight(self, slots: range) -> list[float | None]:
        """Return the requests in progress at the end of each slot; None for a gap."""
        return [self.in_flight_at(slot) for slot in slots]

    def in_flight_at(self, slot: int) -> float | None:
        """Return the requests in progress at the end of a slot; None for a gap."""
        return self._in_flight[slot % self.size] if self.is_known(slot) else None

    def counts(self, kind: str, name: str, count: str, slots: range) -> list[float | None]:
        """Return a count of a name in each slot; None if it is unknown."""
        position = self.tables[kind].layout.position(count)
        if position is None:
            return [None] * len(slots)
        column = self.tables[kind].column(name, position)
        return [
            known_or_none(column[slot % self.size]) if self.is_known(slot) else None
            for slot in slots
        ]

    def total(self, kind: str, name: str, count: str, known: Sequence[int]) -> float | None:
        """Return the sum of a count over known slots; None if it is unknown.

        Slots in which an optional count was not reported add nothing.
        """
        table = self.tables[kind]
        position = table.layout.position(count)
        if position is None or not known:
            return None
        column = table.column(name, position)
        values = [column[slot % self.size] for slot in known]
        if position in table.layout.optional:
            values = [value for value in values if value == value]
        return known_or_none(sum(values)) if values else None

    def quantiles(
        self, kind: str, name: str, histogram: str, quantile: float, slots: range
    ) -> list[float | None]:
        """Return a quantile of each slot; None without observations."""
        table = self.tables[kind]
        buckets = table.layout.buckets(histogram)
        if buckets is None or name not in table:
            return [None] * len(slots)
        return [
            quantile_of(self.bounds, table.row(slot, name)[buckets], quantile)
            if self.is_known(slot)
            else None
            for slot in slots
        ]

    def quantile(
        self, kind: str, name: str, histogram: str, quantile: float, known: Sequence[int]
    ) -> float | None:
        """Return a quantile over known slots; None without observations."""
        table = self.tables[kind]
        buckets = table.layout.buckets(histogram)
        if buckets is None or name not in table:
            return None
        total = [0.0] * (len(self.bounds) + 1)
        for slot in known:
            total = list(map(add, total, table.row(slot, name)[buckets]))
        return quantile_of(self.bounds, total, quantile)


def known_or_none(value: float) -> float | None:
    """Return a number, or None if it is not a number."""
    return value if value == value else None


def quantile_of(bounds: Sequence[float], counts: Sequence[float], quantile: float) -> float | None:
    """Return a quantile by linear interpolation in its bucket, as Prometheus does.

    Args:
        bounds: Upper bounds of the buckets, without +Inf.
        counts: Observations in each bucket, not cumulative, +Inf last.
        quantile: The quantile, between 0 and 1.

    Returns:
        The quantile; the highest bound if it is above; None without observations, or if a count is
        not a number.
    """
    total = sum(counts)
    if not total > 0:
        return None
    rank, below, lower = quantile * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (bound - lower) * (rank - below) / count
        below += count
        lower = bound
    return lower

"""Background task that reads the cumulative rows every few seconds, and keeps the differences."""

from __future__ import annotations

import logging
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from heapq import nlargest

import anyio
from anyio.lowlevel import checkpoint

from ..outages import Outage
from ..validation import check_integer, check_seconds
from .history import KINDS, OTHERS, History
from .totals import Series, Totals, bounds_of, difference

logger = logging.getLogger("tokenpulse_mw")

_NAMES_PER_STEP = 25
_MAX_PROMOTIONS = 5  # names that replace others in one sample
_HALF_LIFE = 1800.0  # seconds, of the requests by which names are ranked
_AFTER = 0.05  # seconds after the end of a slot

Read = Callable[[], Awaitable[Sequence[Series]]]


class Sampler:
    """Keeps the numbers of the last hour.

    A slot is a gap if the task was late by more than half an interval, did not run, or the counters
    were reset. The names with most requests have rings of their own; further ones share one.

    Args:
        read: Returns the families and rows of the metrics.
        interval: Seconds of a slot.
        slots: Number of slots.
        max_names: Maximum number of providers, of routes and of models.
        clock: Monotonic seconds.
        wall: Seconds since the epoch, by which slots are numbered.

    Attributes:
        interval: The argument.
        history: The numbers; None before the first sample.
        totals: The last cumulative numbers; None before the first sample.
    """

    def __init__(
        self,
        read: Read,
        *,
        interval: float = 15.0,
        slots: int = 240,
        max_names: int = 50,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        check_seconds("interval", interval)
        check_integer("slots", slots, minimum=2)
        check_integer("max_names", max_names)
        self.interval = interval
        self._read, self._slots, self._max_names = read, slots, max_names
        self._clock, self._wall = clock, wall
        self._outage = Outage(logger, clock=clock)
        self.clear()

    def clear(self) -> None:
        """Discard all numbers."""
        self.history: History | None = None
        self.totals: Totals | None = None
        self._sampled_at, self._is_first = -math.inf, False
        self._scores: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}

    async def run(self, sampled: Callable[[], object] = lambda: None) -> None:
        """Take a sample at the end of each slot, until cancelled, and call `sampled` after it."""
        while True:
            try:
                await self.sample()
            except Exception as error:  # noqa: BLE001 - the next sample may succeed
                self._outage.failed("sample of the metrics failed: error=%r", error, error=error)
            else:
                self._outage.recovered("sample of the metrics succeeded again")
            sampled()
            await anyio.sleep(self.interval - self._wall() % self.interval + _AFTER)

    async def sample(self) -> None:
        """Read the rows, and store the differences since the last sample in the last slot."""
        now, wall = self._clock(), self._wall()
        slot = math.floor(wall / self.interval) - 1
        series = await self._read()
        bounds = bounds_of(series)
        history, begins = self.history, self.history is None
        if history is None or history.bounds != bounds or slot < history.newest - 1:
            history = self.history = History(bounds, slots=self._slots, max_names=self._max_names)
            self.totals = None
        elif slot <= history.newest:
            return
        before, totals = self.totals, Totals(bounds)
        await totals.read(series)
        elapsed, self._sampled_at = now - self._sampled_at, now
        is_late = wall - (slot + 1) * self.interval > self.interval / 2
        is_late |= elapsed > 1.5 * self.interval
        # The first difference is that since the start, and shorter than a slot.
        is_late |= elapsed < 0.5 * self.interval and not self._is_first
        skipped = range(history.newest + 1, slot) if history.newest >= 0 else range(0)
        history.advance(slot)
        for gap in skipped[-history.size :]:
            history.report(gap, None)
        self.totals, self._is_first = totals, begins
        if before is not None and not (skipped or is_late or _is_reset(before, totals)):
            for kind in KINDS:
                await self._store(history, kind, slot, before, totals)
            history.report(slot, totals.in_flight)
        elif not begins:
            history.report(slot, None)
        history.end = slot  # last: others read the slots up to it between two steps

    async def _store(
        self, history: History, kind: str, slot: int, before: Totals, totals: Totals
    ) -> None:
        table, scores = history.tables[kind], self._scores[kind]
        decay = 0.5 ** (self.interval / _HALF_LIFE)
        others: list[float] | None = None
        waiting: dict[str, list[float]] = {}
        for index, (name, row) in enumerate(totals.rows[kind].items()):
            if index % _NAMES_PER_STEP == _NAMES_PER_STEP - 1:
                await checkpoint()
            last = before.rows[kind].get(name)
            if last == row and name not in table:
                scores[name] = scores.get(name, 0.0) * decay
                continue
            values = difference(last, row)
            scores[name] = scores.get(name, 0.0) * decay + values[0]
            if name in table or not table.is_full:
                table.add(slot, name, values, is_late=last is not None and name not in table)
            else:
                waiting[name] = values
        for name in self._promoted(kind, waiting):
            table.remove(min(table.names, key=lambda tracked: scores.get(tracked, 0.0)))
            table.add(slot, name, waiting.pop(name), is_late=True)
        for index, values in enumerate(waiting.values()):
            if index % _NAMES_PER_STEP == _NAMES_PER_STEP - 1:
                await checkpoint()
            others = values if others is None else _sum(others, values)
        if others is not None:
            table.add(slot, OTHERS, others)

    def _promoted(self, kind: str, waiting: dict[str, list[float]]) -> list[str]:
        """Return the names that have clearly more requests than the least used ones of the table.

        Twice as many, so that two names do not replace each other again and again.
        """
        assert self.history is not None
        scores = self._scores[kind]
        least = sorted(scores.get(name, 0.0) for name in self.history.tables[kind].names)
        most = nlargest(_MAX_PROMOTIONS, waiting, key=scores.__getitem__)
        return [
            name for name, score in zip(most, least, strict=False) if scores[name] > 2 * score + 1
        ]


def _sum(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [y if x != x else x if y != y else x + y for x, y in zip(a, b, strict=True)]


def _is_reset(before: Totals, totals: Totals) -> bool:
    """Return True if counters have been reset, as by `TokenPulse.reset`."""
    for kind, rows in before.rows.items():
        now: dict[str, array[float]] = totals.rows[kind]
        for name, row in rows.items():
            current = now.get(name)
            if current is None or current[0] < row[0]:
                return True
    return False

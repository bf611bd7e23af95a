"""Counts of the recent past for each subject, in bounded memory; the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

OVERFLOW = "__overflow__"

_SLOTS = 10
_RECENT = 20  # outcomes of a subject that are remembered one by one
_ALL_RECENT = (1 << _RECENT) - 1

Subject = TypeVar("Subject", bound=Hashable)


class SlidingCounts:
    """Requests and failures of each subject over the last `window` seconds.

    The window moves in ten steps and keeps its oldest step whole: it covers from `window` to
    `window` x 1.1 seconds, so that nothing of the window is ever missed.

    Args:
        window: Seconds.
        max_subjects: Subjects that are told apart; the others are counted as `__overflow__`.
    """

    def __init__(self, *, window: float, max_subjects: int) -> None:
        self._step = window / _SLOTS
        self._most = max_subjects
        # Each slot: its number, and [requests, failures] by subject. The last is being filled.
        self._slots: deque[tuple[int, dict[str, list[int]]]] = deque()
        self._filling: dict[str, list[int]] = {}
        self._next_slot_at = float("-inf")
        self._totals: dict[str, list[int]] = {}  # of all slots but the one being filled
        self._newcomers = 0  # subjects that only the slot being filled has
        self._failing: set[str] = set()

    def add(self, subject: str, *, failed: bool, now: float) -> None:
        """Count one request of `subject`."""
        if now >= self._next_slot_at:
            self.expire(now)
        counts = self._filling.get(subject)
        if counts is None:
            subject, counts = self._admit(subject)
        counts[0] += 1
        if failed:
            counts[1] += 1
            self._failing.add(subject)

    def expire(self, now: float) -> None:
        """Move the window on to `now`."""
        number = int(now // self._step)
        if self._slots and self._slots[-1][0] >= number:
            return
        for subject, counts in self._filling.items():
            self._add_up(subject, counts, 1)
        self._filling = {}
        self._newcomers = 0
        self._slots.append((number, self._filling))
        self._next_slot_at = (number + 1) * self._step
        while self._slots[0][0] < number - _SLOTS:
            for subject, counts in self._slots.popleft()[1].items():
                self._add_up(subject, counts, -1)
        self._failing = {subject for subject in self._failing if self._count(subject)[1]}

    def failing(self) -> Iterator[tuple[str, int, int]]:
        """Every subject that has failed in the window: its name, requests and failures."""
        for subject in self._failing:
            yield subject, *self._count(subject)

    def _admit(self, subject: str) -> tuple[str, list[int]]:
        if subject not in self._totals:
            if len(self._totals) + self._newcomers >= self._most:
                subject = OVERFLOW
            else:
                self._newcomers += 1
        return subject, self._filling.setdefault(subject, [0, 0])

    def _count(self, subject: str) -> tuple[int, int]:
        past = self._totals.get(subject, (0, 0))
        new = self._filling.get(subject, (0, 0))
        return past[0] + new[0], past[1] + new[1]

    def _add_up(self, subject: str, counts: list[int], sign: int) -> None:
        totals = self._totals.setdefault(subject, [0, 0])
        totals[0] += sign * counts[0]
        totals[1] += sign * counts[1]
        if not totals[0]:
            del self._totals[subject]


class Streak:
    """How a subject has fared lately.

    Attributes:
        name: What it was last called.
        failures: Failures since the last success.
        seen: Outcomes known, at most 20.
    """

    __slots__ = ("_recent", "failures", "name", "seen")

    def __init__(self) -> None:
        self.name = ""
        self.failures = 0
        self.seen = 0
        self._recent = 0  # one bit for each outcome, the newest lowest; 1 for a failure

    @property
    def failed_lately(self) -> int:
        """How many of the last `seen` outcomes were failures."""
        return self._recent.bit_count()

    def add(self, *, failed: bool) -> None:
        """Note one outcome."""
        self.failures = self.failures + 1 if failed else 0
        if self.seen < _RECENT:
            self.seen += 1
        self._recent = (self._recent << 1 | failed) & _ALL_RECENT


class Streaks(Generic[Subject]):
    """The streaks of many subjects; beyond `max_subjects` the one unheard of longest goes."""

    def __init__(self, *, max_subjects: int) -> None:
        self._most = max_subjects
        self._streaks: OrderedDict[Subject, Streak] = OrderedDict()
        self._failing: set[Subject] = set()

    def add(self, subject: Subject, *, failed: bool, name: str = "") -> None:
        """Note one outcome of `subject`, and how it is called if that is known."""
        streak = self._streaks.get(subject)
        if streak is None:
            if len(self._streaks) >= self._most:
                self._failing.discard(self._streaks.popitem(last=False)[0])
            streak = self._streaks[subject] = Streak()
        else:
            self._streaks.move_to_end(subject)
        if failed:
            self._failing.add(subject)
        elif streak.failures:
            self._failing.discard(subject)
        streak.add(failed=failed)
        if name:
            streak.name = name

    def failing(self) -> Iterator[tuple[Subject, Streak]]:
        """Every subject whose last outcome was a failure."""
        for subject in self._failing:
            yield subject, self._streaks[subject]


class Tally:
    """How often something happened to each subject since the last round.

    Args:
        max_subjects: Subjects that are told apart; the others are counted as `__overflow__`.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self._most = max_subjects
        self._counts: dict[str, int] = {}

    def add(self, subject: str) -> None:
        """Count one event of `subject`."""
        if subject not in self._counts and len(self._counts) >= self._most:
            subject = OVERFLOW
        self._counts[subject] = self._counts.get(subject, 0) + 1

    def items(self) -> Iterator[tuple[str, int]]:
        """Every subject with its count."""
        yield from self._counts.items()

    def clear(self) -> None:
        """Begin a new round."""
        self._counts.clear()

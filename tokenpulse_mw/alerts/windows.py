"""Counts of the recent past for each subject, in bounded memory; the clock is an argument."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

OVERFLOW = "__overflow__"

_SLOTS = 10
_RECENT = 20  # outcomes of a subject that are remembered one by one

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
        self._slots: deque[tuple[int, dict[str, list[int]]]] = deque()
        self._totals: dict[str, list[int]] = {}
        self._failing: set[str] = set()

    def add(self, subject: str, *, failed: bool, now: float) -> None:
        """Count one request of `subject`."""
        number = int(now // self._step)
        if not self._slots or self._slots[-1][0] < number:
            self.expire(now)
            self._slots.append((number, {}))
        if subject not in self._totals and len(self._totals) >= self._most:
            subject = OVERFLOW
        totals = self._totals.setdefault(subject, [0, 0])
        slot = self._slots[-1][1].setdefault(subject, [0, 0])
        totals[0] += 1
        slot[0] += 1
        if failed:
            totals[1] += 1
            slot[1] += 1
            self._failing.add(subject)

    def expire(self, now: float) -> None:
        """Forget what has left the window."""
        oldest = int(now // self._step) - _SLOTS
        while self._slots and self._slots[0][0] < oldest:
            for subject, (requests, failures) in self._slots.popleft()[1].items():
                self._take_off(subject, requests, failures)

    def failing(self) -> Iterator[tuple[str, int, int]]:
        """Every subject that has failed in the window: its name, requests and failures."""
        for subject in self._failing:
            requests, failures = self._totals[subject]
            yield subject, requests, failures

    def _take_off(self, subject: str, requests: int, failures: int) -> None:
        totals = self._totals[subject]
        totals[0] -= requests
        totals[1] -= failures
        if not totals[1]:
            self._failing.discard(subject)
        if not totals[0]:
            del self._totals[subject]


class Streak:
    """How a subject has fared lately.

    Attributes:
        failures: Failures since the last success.
        seen: Outcomes known, at most 20.
    """

    __slots__ = ("_recent", "failures", "seen")

    def __init__(self) -> None:
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
        self.seen = min(self.seen + 1, _RECENT)
        self._recent = (self._recent << 1 | failed) & (1 << _RECENT) - 1


class Streaks(Generic[Subject]):
    """The streaks of many subjects; beyond `max_subjects` the one unheard of longest goes."""

    def __init__(self, *, max_subjects: int) -> None:
        self._most = max_subjects
        self._streaks: OrderedDict[Subject, Streak] = OrderedDict()
        self._failing: set[Subject] = set()

    def add(self, subject: Subject, *, failed: bool) -> None:
        """Note one outcome of `subject`."""
        streak = self._streaks.get(subject)
        if streak is None:
            if len(self._streaks) >= self._most:
                self._failing.discard(self._streaks.popitem(last=False)[0])
            streak = self._streaks[subject] = Streak()
        else:
            self._streaks.move_to_end(subject)
        streak.add(failed=failed)
        if failed:
            self._failing.add(subject)
        else:
            self._failing.discard(subject)

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

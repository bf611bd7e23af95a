"""Recent outcomes and failures in a row by subject."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_RECENT = 20  # outcomes of each subject


_ALL_RECENT = (1 << _RECENT) - 1


Subject = TypeVar("Subject", bound=Hashable)


class Streak:
    """Recent outcomes of a subject.

    Attributes:
        name: The last known name.
        failures: Failures since the last success.
        recent_outcomes: Number of known outcomes, at most 20.
        is_clean: The last 20 outcomes are successes, so that another one changes nothing.
    """

    __slots__ = ("_recent", "failures", "is_clean", "name", "recent_outcomes")

    def __init__(self) -> None:
        self.name = ""
        self.failures = 0
        self.recent_outcomes = 0
        self.is_clean = False
        self._recent = 0  # one bit for each outcome, the newest lowest; 1 for a failure

    @property
    def recent_failures(self) -> int:
        """Number of failures among the recent outcomes."""
        return self._recent.bit_count()

    def recent(self) -> tuple[int, int]:
        """Return failures and outcomes, of the last 20 outcomes or since the last success."""
        if self.failures > self.recent_outcomes:
            return self.failures, self.failures
        return self.recent_failures, self.recent_outcomes

    def add(self, *, failed: bool) -> None:
        """Add an outcome."""
        self.failures = self.failures + 1 if failed else 0
        if self.recent_outcomes < _RECENT:
            self.recent_outcomes += 1
        self._recent = (self._recent << 1 | failed) & _ALL_RECENT
        self.is_clean = not self._recent and self.recent_outcomes == _RECENT


class Streaks(Generic[Subject]):
    """Streaks by subject; beyond `max_subjects` the least recently used one is evicted.

    Attributes:
        evicted: Number of evicted subjects.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self.evicted = 0
        self._max_subjects = max_subjects
        self._streaks: OrderedDict[Subject, Streak] = OrderedDict()
        self._failing: dict[Subject, Streak] = {}

    def get_or_add(self, subject: Subject, *, name: str = "") -> Streak:
        """Return the streak of `subject`, mark it as used, and set its name if not empty."""
        streak = self._streaks.get(subject)
        if streak is None:
            if len(self._streaks) >= self._max_subjects:
                self._failing.pop(self._streaks.popitem(last=False)[0], None)
                self.evicted += 1
            streak = self._streaks[subject] = Streak()
        else:
            self._streaks.move_to_end(subject)
        if name:
            streak.name = name
        return streak

    def record(self, subject: Subject, streak: Streak, *, failed: bool) -> None:
        """Add an outcome of `subject` to its streak."""
        if failed:
            self._failing[subject] = streak
        elif streak.failures:
            del self._failing[subject]
        streak.add(failed=failed)

    def add(self, subject: Subject, *, failed: bool, name: str = "") -> None:
        """Add an outcome of `subject`, and set its name if not empty."""
        self.record(subject, self.get_or_add(subject, name=name), failed=failed)

    def resume(self, subject: Subject, *, name: str, failures: int) -> None:
        """Restore `failures` in a row, unless the subject has outcomes already."""
        streak = self.get_or_add(subject, name=name)
        if not streak.recent_outcomes:
            for _ in range(min(failures, _RECENT)):
                self.record(subject, streak, failed=True)
            streak.failures = failures

    def failing(self) -> Iterator[tuple[Subject, Streak]]:
        """Yield each subject whose last outcome is a failure."""
        yield from self._failing.items()

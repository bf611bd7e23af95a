"""How each of many subjects has fared lately, and how often in a row it failed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

_RECENT = 20  # outcomes of a subject that are remembered one by one


_ALL_RECENT = (1 << _RECENT) - 1


Subject = TypeVar("Subject", bound=Hashable)


class Streak:
    """How a subject has fared lately.

    Attributes:
        name: What it was last called.
        failures: Failures since the last success.
        seen: Outcomes known, at most 20.
        clean: 20 outcomes are known and all were successes, so that one more changes nothing.
    """

    __slots__ = ("_recent", "clean", "failures", "name", "seen")

    def __init__(self) -> None:
        self.name = ""
        self.failures = 0
        self.seen = 0
        self.clean = False
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
        self.clean = not self._recent and self.seen == _RECENT


class Streaks(Generic[Subject]):
    """The streaks of many subjects; beyond `max_subjects` the one unheard of longest goes.

    Attributes:
        evicted: How many have gone for want of room.
    """

    def __init__(self, *, max_subjects: int) -> None:
        self.evicted = 0
        self._most = max_subjects
        self._streaks: OrderedDict[Subject, Streak] = OrderedDict()
        self._failing: dict[Subject, Streak] = {}

    def of(self, subject: Subject, *, name: str = "") -> Streak:
        """The streak of `subject`, which is thereby heard of, and how it is called if known."""
        streak = self._streaks.get(subject)
        if streak is None:
            if len(self._streaks) >= self._most:
                self._failing.pop(self._streaks.popitem(last=False)[0], None)
                self.evicted += 1
            streak = self._streaks[subject] = Streak()
        else:
            self._streaks.move_to_end(subject)
        if name:
            streak.name = name
        return streak

    def note(self, subject: Subject, streak: Streak, *, failed: bool) -> None:
        """Note one outcome of `subject`, whose streak is at hand."""
        if failed:
            self._failing[subject] = streak
        elif streak.failures:
            del self._failing[subject]
        streak.add(failed=failed)

    def add(self, subject: Subject, *, failed: bool, name: str = "") -> None:
        """Note one outcome of `subject`, and how it is called if that is known."""
        self.note(subject, self.of(subject, name=name), failed=failed)

    def resume(self, subject: Subject, *, name: str, failures: int) -> None:
        """Go on from `failures` in a row, unless more is known of `subject` by now."""
        streak = self.of(subject, name=name)
        if not streak.seen:
            for _ in range(min(failures, _RECENT)):
                self.note(subject, streak, failed=True)
            streak.failures = failures

    def failing(self) -> Iterator[tuple[Subject, Streak]]:
        """Every subject whose last outcome was a failure."""
        yield from self._failing.items()
